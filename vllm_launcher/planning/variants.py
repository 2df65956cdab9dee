"""In which precisions a model can be served on a GPU: as it is, or quantized while it loads. Pure.

The minimum compute capabilities are those of vLLM 0.32's own quantization methods.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vllm_launcher.planning.architectures import GGUF_TESTED
from vllm_launcher.planning.model_facts import ModelFacts
from vllm_launcher.registry.entries import Flag

Capability = tuple[int, int]

MINIMUM: Mapping[str, Capability] = {
    "awq": (7, 5),
    "gptq": (7, 5),
    "fp8": (7, 5),
    "compressed-tensors": (7, 5),
    "bitsandbytes": (7, 5),
    "gguf": (7, 5),
    "mxfp4": (8, 0),
}
OLDEST: Capability = (7, 5)
"""Turing: CUDA 13, which vLLM's wheels are built with, left out what is older."""

BF16: Capability = (8, 0)
NATIVE_FP8: Capability = (8, 9)

PLUGINS: Mapping[str, str] = {"gguf": "vllm-gguf-plugin", "bitsandbytes": "vllm-bnb-plugin"}
"""What left vLLM's own tree: GGUF with 0.24, bitsandbytes with 0.28."""

FP8_BITS = 8.0
NF4_BITS = 4.5


@dataclass(frozen=True, slots=True)
class Variant:
    """One precision: the facts that follow from it, its flags, and why it is or would be chosen."""

    facts: ModelFacts
    dtype: str
    label: str
    why: str
    flags: Mapping[str, Flag] = field(default_factory=dict[str, Flag])
    plugins: tuple[str, ...] = ()
    dequantize: bool = False


@dataclass(frozen=True, slots=True)
class Impossible:
    """The checkpoint as it is cannot run on such a GPU."""

    reason: str


def variants(facts: ModelFacts, capability: Capability, *, tokenizer: bool) -> Iterator[Variant | Impossible]:
    """Precisions on a GPU of that compute capability, the most exact first.

    ``tokenizer``: the entry names a tokenizer, without which a GGUF is not served as it is.
    """
    dtype, dtype_why = dtype_on(capability)
    if capability < OLDEST:
        yield Impossible(
            f"vLLM needs compute capability {_dotted(OLDEST)} or newer, this GPU has {_dotted(capability)}"
        )
        return
    if facts.quantization == "gguf" and not (tokenizer and facts.architecture in GGUF_TESTED):
        yield _dequantized(facts, dtype, tokenizer=tokenizer)
        return
    if facts.quantization is not None:
        yield _as_quantized(facts, capability, dtype)
        return
    yield Variant(facts, dtype, dtype, dtype_why)
    yield _online_fp8(facts, capability, dtype)
    if not facts.experts:
        yield _online_nf4(facts, dtype)


def dtype_on(capability: Capability) -> tuple[str, str]:
    """The 16-bit type of a GPU, and why."""
    if capability >= BF16:
        return "bfloat16", "the models' own type"
    return "float16", f"compute capability {_dotted(capability)} has no bfloat16"


def _as_quantized(facts: ModelFacts, capability: Capability, dtype: str) -> Variant | Impossible:
    method = facts.quantization or ""
    minimum = MINIMUM.get(method, OLDEST)
    if capability < minimum:
        return Impossible(f"{method} needs compute capability {_dotted(minimum)}, this GPU has {_dotted(capability)}")
    plugins = (PLUGINS[method],) if method in PLUGINS else ()
    return Variant(facts, dtype, method, "how the checkpoint is quantized", plugins=plugins)


def _dequantized(facts: ModelFacts, dtype: str, *, tokenizer: bool) -> Variant:
    untested = f"vllm-gguf-plugin is not tested with {facts.architecture}"
    return Variant(
        facts=facts.model_copy(update={"quantization": None, "bits": 16.0, "weight_bytes": None}),
        dtype=dtype,
        label=dtype,
        why=f"dequantized: {untested if tokenizer else 'the entry names no tokenizer of the base model'}",
        dequantize=True,
    )


def _online_fp8(facts: ModelFacts, capability: Capability, dtype: str) -> Variant:
    native = capability >= NATIVE_FP8
    how = "computes in it" if native else "stores weights in it and computes in 16 bits"
    return Variant(
        facts=facts.model_copy(update={"quantization": "fp8_per_channel", "bits": FP8_BITS}),
        dtype=dtype,
        label="FP8",
        why=f"16 bits do not fit; compute capability {_dotted(capability)} {how}",
        flags={"quantization": "fp8_per_channel"},
    )


def _online_nf4(facts: ModelFacts, dtype: str) -> Variant:
    return Variant(
        facts=facts.model_copy(update={"quantization": "bitsandbytes", "bits": NF4_BITS}),
        dtype=dtype,
        label="4 bits (bitsandbytes)",
        why="neither 16 nor 8 bits fit; dense layers are quantized while they load",
        flags={"quantization": "bitsandbytes", "load-format": "bitsandbytes"},
        plugins=(PLUGINS["bitsandbytes"],),
    )


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"
