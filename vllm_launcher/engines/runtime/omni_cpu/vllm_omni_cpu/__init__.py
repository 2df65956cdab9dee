"""A CPU platform for vLLM-Omni, found through the entry-point group ``vllm_omni.platform_plugins``."""

PLATFORM = "vllm_omni_cpu.platform.CpuOmniPlatform"


def cpu_platform() -> str | None:
    """Name the platform class where vLLM runs on the CPU, else None.

    vLLM-Omni prefers a platform from elsewhere to its own, so this must not speak up beside a GPU build of vLLM.
    """
    # vLLM asks for plugins while it is being imported; this file lives beside it, in the engine's environment.
    from vllm.platforms import current_platform  # noqa: PLC0415, TID251

    return PLATFORM if current_platform.is_cpu() else None
