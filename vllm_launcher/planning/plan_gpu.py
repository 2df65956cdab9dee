"""Placements on GPUs as servers, with their flags and the reasons for them. Pure."""

import math
from collections.abc import Iterator, Sequence

from vllm_launcher.hardware import Gpu
from vllm_launcher.planning.facts import gguf_file
from vllm_launcher.planning.flags import ENGINE_ENV, common_flags, override, own_env, sequences_of
from vllm_launcher.planning.placement import Placement, encodes
from vllm_launcher.planning.planned import Choice, Memory, PlannedServer, gib
from vllm_launcher.planning.rooms import Rooms
from vllm_launcher.registry.entries import Flag, ModelSpec


def server_of(placement: Placement, rooms: Rooms) -> PlannedServer:
    """The placement as a server with its flags and reasons."""
    spec, facts, memory = placement.spec, placement.variant.facts, placement.memory
    gpus = [rooms.gpu(index) for index in placement.gpus]
    flags, choices = common_flags(spec, facts, "cuda")
    flags |= _flags(placement, min(gpu.memory_total for gpu in gpus))
    choices += _choices(placement, gpus)
    sleep = spec.residency.sleep
    if sleep is not None:
        flags["enable-sleep-mode"] = True
        why = "set by residency: its GPU memory is given back without ending it"
        choices.append(Choice("sleep", f"level {sleep}", why))
    return PlannedServer(
        model=spec.id,
        engine="vllm-cuda",
        flags=override(spec, flags, choices),
        env={**ENGINE_ENV, **device_env(placement.gpus), **(SLEEP_ENV if sleep else {}), **own_env(spec)},
        reasons=tuple(choices),
        memory=memory,
        available=min(gpu.memory_free for gpu in gpus),
        gpus=placement.gpus,
        tensor_parallel=placement.split.tensor,
        pipeline_parallel=placement.split.pipeline,
        data_parallel=placement.replicas,
        kv_tokens=placement.cached_tokens,
        plugins=placement.variant.plugins,
        dequantize=placement.variant.dequantize,
        facts_from=facts.origin,
        on_demand=spec.load == "on-demand",
        sleep=sleep,
    )


SLEEP_ENV = {"VLLM_SERVER_DEV_MODE": "1"}
"""vLLM answers /sleep and /wake_up in its development mode only; servers listen on loopback."""


def device_env(gpus: Sequence[int]) -> dict[str, str]:
    """Which GPUs a server sees. NVML counts in PCI order, CUDA by speed unless told otherwise."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in gpus)}


def _flags(placement: Placement, total: int) -> dict[str, Flag]:
    flags: dict[str, Flag] = {
        "dtype": _dtype(placement),
        **placement.variant.flags,
        "max-model-len": placement.context,
        "max-num-seqs": placement.sequences,
        "max-num-batched-tokens": placement.batched,
        "kv-cache-memory-bytes": placement.memory.kv_cache,
        "gpu-memory-utilization": _fraction(placement.memory.total, total),
    }
    if placement.spec.task == "embedding" and placement.spec.limits.max_model_len is None:
        del flags["max-model-len"]
    if encodes(placement.variant.facts):
        del flags["max-num-batched-tokens"]
    parallel = {
        "tensor-parallel-size": placement.split.tensor,
        "pipeline-parallel-size": placement.split.pipeline,
        "data-parallel-size": placement.replicas,
    }
    return {**flags, **{name: size for name, size in parallel.items() if size > 1}}


def _dtype(placement: Placement) -> str:
    return "float16" if encodes(placement.variant.facts) else placement.variant.dtype


def _fraction(size: int, total: int) -> float:
    """Rounded down: vLLM refuses to start if this share of the GPU is not free."""
    return max(0.01, math.floor(size / total * 1000) / 1000)


def _choices(placement: Placement, gpus: Sequence[Gpu]) -> Iterator[Choice]:
    variant, split, memory = placement.variant, placement.split, placement.memory
    sequences, sequences_why = sequences_of(placement.spec, "cuda")
    yield Choice(
        "engine", "vllm-cuda", f"{gpus[0].name}, compute capability {'.'.join(map(str, gpus[0].compute_capability))}"
    )
    if encodes(variant.facts):
        yield Choice("dtype", _dtype(placement), "closer to the original's float32 than bfloat16")
    else:
        yield Choice("dtype", variant.dtype, variant.why if not variant.flags else "what is not quantized")
    if variant.facts.quantization:
        yield Choice("quantization", variant.label, variant.why)
    if variant.plugins:
        yield Choice("plugins", " ".join(variant.plugins), "this format left vLLM's own tree")
    if split.tensor > 1:
        yield Choice("tensor-parallel-size", str(split.tensor), _tensor_why(placement))
    if split.pipeline > 1:
        yield Choice("pipeline-parallel-size", str(split.pipeline), "no tensor-parallel size alone fits and divides")
    if placement.replicas > 1:
        yield Choice("data-parallel-size", str(placement.replicas), "set by flags")
    yield Choice("max-model-len", str(placement.context), placement.context_why)
    yield Choice("max-num-seqs", str(sequences), sequences_why)
    cached = placement.cached_tokens
    if cached:
        share = f"{cached / placement.context:.1f} requests of full length"
        yield Choice(
            "kv-cache-memory-bytes", str(memory.kv_cache), f"what is left on the GPU: {cached} tokens, {share}"
        )
    used = f"{gib(memory.total)} of {gib(gpus[0].memory_total)}"
    yield Choice(
        "gpu-memory-utilization", f"{_fraction(memory.total, gpus[0].memory_total)}", f"{used}, checked at the start"
    )


def _tensor_why(placement: Placement) -> str:
    facts, tensor = placement.variant.facts, placement.split.tensor
    heads = f"{facts.heads} heads and {facts.kv_heads} key-value heads"
    return f"{gib(facts.weights())} of weights do not fit one GPU; {tensor} divides {heads}"


def place_unknown(spec: ModelSpec, rooms: Rooms) -> PlannedServer | None:
    """A model nothing is known of gets an idle GPU for itself, and vLLM finds out what is left for its cache."""
    idle = [gpu for gpu in rooms.gpus if gpu.index not in rooms.taken]
    if not idle:
        return None
    gpu = max(idle, key=lambda gpu: (rooms.free[gpu.index], -gpu.index))
    flags, choices = common_flags(spec, None, "cuda")
    fraction = _fraction(rooms.free[gpu.index], gpu.memory_total)
    why = "nothing is known of the model yet: it gets a GPU for itself"
    choices.append(Choice("gpu-memory-utilization", str(fraction), why))
    if gguf_file(spec):
        choices.append(Choice("weights", "dequantized", "nothing says that vllm-gguf-plugin is tested with it"))
    return PlannedServer(
        model=spec.id,
        engine="vllm-cuda",
        flags=override(spec, {**flags, "gpu-memory-utilization": fraction}, choices),
        env={**ENGINE_ENV, **device_env((gpu.index,)), **own_env(spec)},
        reasons=tuple(choices),
        memory=Memory(weights=rooms.free[gpu.index]),
        available=gpu.memory_free,
        gpus=(gpu.index,),
        dequantize=gguf_file(spec) is not None,
        facts_from="nothing yet",
        on_demand=spec.load == "on-demand",
    )
