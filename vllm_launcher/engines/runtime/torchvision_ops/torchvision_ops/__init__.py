"""Define the two operators that torchvision's import asks for where its native library does not load.

PyTorch calls every entry point of the group ``torch.backends`` at the end of its own import: before torchvision,
and in every process, which a plugin of vLLM would not manage.
"""

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")


def define() -> None:
    """Define ``torchvision::nms`` and ``torchvision::qnms`` without kernels, beside a CPU build of PyTorch.

    Image processors resize and normalise, in plain PyTorch; an operator called all the same says that it has no
    kernel. Beside a CUDA build, torchvision's library loads and defines them itself.
    """
    import torch  # noqa: PLC0415 - this module is loaded while torch is being imported

    if torch.version.cuda is not None or _torchvision_is_a_cpu_build():
        return
    for name in OPERATORS:
        torch.library.define(f"torchvision::{name}", SIGNATURE)


def _torchvision_is_a_cpu_build() -> bool:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - likewise

    try:
        return version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return True
