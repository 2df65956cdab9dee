"""Servers on GPUs: the most exact precision, on the fewest GPUs, that fits. Pure.

A model that fits one GPU stays on one. One that does not is cut; if GPUs of the same kind are idle in the end, it is
cut further, to the largest divisor of its heads. What is left of every GPU then becomes KV cache.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vllm_launcher.entries import Flag, ModelSpec
from vllm_launcher.facts import ModelFacts
from vllm_launcher.flags import (
    ENGINE_ENV,
    common_flags,
    context_of,
    family,
    override,
    own_env,
    own_flags,
    sequences_of,
)
from vllm_launcher.hardware import Gpu
from vllm_launcher.memory import Split, activation_bytes, cache_bytes, overhead_bytes, weights_per_device
from vllm_launcher.plan_cpu import ENCODERS
from vllm_launcher.planned import GIB, MIB, Choice, Memory, PlannedServer, gib
from vllm_launcher.rooms import Rooms
from vllm_launcher.splits import divides, splits
from vllm_launcher.variants import Impossible, Variant, variants

CONTEXT_CAP = 32768
LEAST_CONTEXT = 4096
"""A context nobody asked for is halved down to this before more GPUs are taken."""

LEAST_CACHE = 64 * MIB
LARGE_GPU = 70 * GIB


@dataclass(frozen=True, slots=True)
class Placement:
    """One model on its GPUs: in what precision, cut how, with how long a context; ``memory`` is of each GPU."""

    spec: ModelSpec
    variant: Variant
    split: Split
    replicas: int
    gpus: tuple[int, ...]
    context: int
    context_why: str
    sequences: int
    batched: int
    memory: Memory

    @property
    def wanted_cache(self) -> int:
        """KV cache of each GPU with which every request could be as long as the context.

        Embeddings are done after one pass: two requests of full length are plenty.
        """
        requests = 2 if self.spec.task == "embedding" else self.sequences
        return requests * _request_cache(self.variant.facts, self.context, self.split)


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Nowhere; ``impossible`` says why it could not be served on an empty machine of this kind either."""

    impossible: str | None = None


Pick = Callable[[Rooms, Sequence[Gpu], int, int], tuple[int, ...]]
"""(rooms, GPUs of one kind, how many, bytes on each) -> which; empty if there are not so many with that room."""


def emptiest(rooms: Rooms, group: Sequence[Gpu], count: int, size: int) -> tuple[int, ...]:
    """The GPUs with the most room: loads spread, and everyone gets more cache."""
    fitting = [gpu.index for gpu in group if rooms.free[gpu.index] >= size]
    fitting.sort(key=lambda index: (-rooms.free[index], index))
    return tuple(sorted(fitting[:count])) if len(fitting) >= count else ()


def fullest(rooms: Rooms, group: Sequence[Gpu], count: int, size: int) -> tuple[int, ...]:
    """The GPUs with the least room that is enough: small models share, whole GPUs stay free for large ones."""
    fitting = [gpu.index for gpu in group if rooms.free[gpu.index] >= size]
    fitting.sort(key=lambda index: (rooms.free[index], index))
    return tuple(sorted(fitting[:count])) if len(fitting) >= count else ()


def place(spec: ModelSpec, facts: ModelFacts, rooms: Rooms, pick: Pick) -> Placement | NoRoom:
    """The first of all ways that fits, in the order of preference."""
    impossible: str | None = None
    for rank in range(MOST_VARIANTS):
        for group in rooms.groups():
            variant = _variant(spec, facts, group[0], rank)
            if isinstance(variant, Impossible):
                impossible = variant.reason
            elif variant is not None and (found := _place_variant(spec, variant, rooms, group, pick)):
                return found
    return NoRoom(impossible)


MOST_VARIANTS = 3


def _variant(spec: ModelSpec, facts: ModelFacts, gpu: Gpu, rank: int) -> Variant | Impossible | None:
    tokenizer = getattr(spec.source, "tokenizer", None) is not None
    offered = list(variants(facts, gpu.compute_capability, tokenizer=tokenizer))
    given = own_flags(spec).get("quantization")
    if isinstance(given, str):
        offered = [_named(given, facts, offered)]
    elif spec.task == "embedding":
        offered = offered[:1]  # other precisions give other vectors than the stored ones
    return offered[rank] if rank < len(offered) else None


def _named(method: str, facts: ModelFacts, offered: Sequence[Variant | Impossible]) -> Variant | Impossible:
    """The variant an entry's own flag asks for."""
    for variant in offered:
        if isinstance(variant, Impossible) or variant.flags.get("quantization") == method:
            return variant
    first = offered[0]
    bits = {"fp8": 8.0}.get(method.partition("_")[0], facts.bits)
    if isinstance(first, Impossible):
        return first
    return replace(first, facts=facts.model_copy(update={"bits": bits, "quantization": method}), why="set by flags")


def _place_variant(
    spec: ModelSpec, variant: Variant, rooms: Rooms, group: Sequence[Gpu], pick: Pick
) -> Placement | None:
    replicas = _number(spec, "data-parallel-size") or 1
    for split in _allowed(spec, variant.facts, len(group) // replicas):
        for context in _contexts(spec, variant.facts):
            placement = _sized(spec, variant, split, context, group[0])
            chosen = pick(rooms, group, split.gpus * replicas, placement.memory.total)
            if chosen:
                return replace(placement, gpus=chosen)
    return None


def _allowed(spec: ModelSpec, facts: ModelFacts, gpus: int) -> Iterator[Split]:
    tensor, pipeline = _number(spec, "tensor-parallel-size"), _number(spec, "pipeline-parallel-size")
    if tensor or pipeline:
        given = Split(tensor or 1, pipeline or 1)
        yield from (given,) if given.gpus <= gpus else ()
        return
    yield from splits(facts, gpus, pipeline=family(spec, facts).pipeline)


def _contexts(spec: ModelSpec, facts: ModelFacts) -> Iterator[tuple[int, str]]:
    """The context to serve, then, if nobody asked for it, halves of it."""
    context, why = context_of(spec, facts, CONTEXT_CAP)
    yield context, why
    if why.startswith("set by"):
        return
    while context // 2 >= LEAST_CONTEXT:
        context //= 2
        yield context, f"of the model's {facts.context}: a longer one does not fit; set it with limits.max_model_len"


def _sized(spec: ModelSpec, variant: Variant, split: Split, context: tuple[int, str], gpu: Gpu) -> Placement:
    """The placement, still without GPUs."""
    tokens, why = context
    sequences, _ = sequences_of(spec, "cuda")
    batched = max(8192 if gpu.memory_total >= LARGE_GPU else 2048, _image_tokens(spec))
    facts = variant.facts
    memory = Memory(
        weights=weights_per_device(facts, split),
        kv_cache=max(LEAST_CACHE, _up(_request_cache(facts, tokens, split))),
        activations=activation_bytes(facts, batched, sequences, split),
        overhead=overhead_bytes(facts, sequences, split, graphs=not _encodes(facts)),
    )
    replicas = _number(spec, "data-parallel-size") or 1
    return Placement(spec, variant, split, replicas, (), tokens, why, sequences, batched, memory)


def _request_cache(facts: ModelFacts, context: int, split: Split) -> int:
    return 0 if _encodes(facts) else cache_bytes(facts, context, split)


def _encodes(facts: ModelFacts) -> bool:
    return facts.architecture in ENCODERS


def _image_tokens(spec: ModelSpec) -> int:
    """The largest image has to fit one batch: vLLM refuses to start otherwise."""
    return 8192 if spec.task == "vision-chat" else 0


def _number(spec: ModelSpec, flag: str) -> int | None:
    value = own_flags(spec).get(flag)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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
    return PlannedServer(
        model=spec.id,
        engine="vllm-cuda",
        flags=override(spec, {**flags, "gpu-memory-utilization": fraction}, choices),
        env={**ENGINE_ENV, **device_env((gpu.index,)), **own_env(spec)},
        reasons=tuple(choices),
        memory=Memory(weights=rooms.free[gpu.index]),
        available=gpu.memory_free,
        gpus=(gpu.index,),
        facts_from="nothing yet",
        on_demand=spec.load == "on-demand",
    )


# --- after everything has its place ------------------------------------------------------


def widen(placement: Placement, rooms: Rooms) -> tuple[Placement, Rooms]:
    """Cut a model that is cut already over idle GPUs too, to the largest number of ways that divides its heads."""
    if placement.split.tensor == 1 or placement.split.pipeline > 1 or placement.replicas > 1:
        return placement, rooms
    if _number(placement.spec, "tensor-parallel-size"):
        return placement, rooms
    gpu = rooms.gpu(placement.gpus[0])
    idle = rooms.idle(gpu)
    for tensor in range(placement.split.tensor + len(idle), placement.split.tensor, -1):
        if divides(placement.variant.facts, tensor):
            more = idle[: tensor - placement.split.tensor]
            context = placement.context, placement.context_why
            wider = _sized(placement.spec, placement.variant, Split(tensor), context, gpu)
            wider = replace(wider, gpus=tuple(sorted((*placement.gpus, *more))))
            freed = rooms.take(placement.gpus, -placement.memory.total)
            return wider, freed.take(wider.gpus, wider.memory.total)
    return placement, rooms


def share_rest(placements: Sequence[Placement], rooms: Rooms) -> list[Placement]:
    """Divide what is left of every GPU among the caches on it, in proportion to what each could still use."""
    demand = {
        index: sum(_missing(placement) for placement in placements if index in placement.gpus) for index in rooms.free
    }
    return [_with_share(placement, rooms, demand) for placement in placements]


def _with_share(placement: Placement, rooms: Rooms, demand: dict[int, int]) -> Placement:
    missing = _missing(placement)
    shares = [rooms.free[index] * min(1.0, missing / max(1, demand[index])) for index in placement.gpus]
    extra = int(min(missing, *shares)) // MIB * MIB if shares else 0
    memory = replace(placement.memory, kv_cache=placement.memory.kv_cache + max(0, extra))
    return replace(placement, memory=memory)


def _missing(placement: Placement) -> int:
    return max(0, _up(placement.wanted_cache) - placement.memory.kv_cache)


def _up(size: int) -> int:
    return -(-size // MIB) * MIB


# --- the server --------------------------------------------------------------------------


def server_of(placement: Placement, rooms: Rooms) -> PlannedServer:
    """The placement as a server with its flags and reasons."""
    spec, facts, memory = placement.spec, placement.variant.facts, placement.memory
    gpus = [rooms.gpu(index) for index in placement.gpus]
    flags, choices = common_flags(spec, facts, "cuda")
    flags |= _flags(placement, min(gpu.memory_total for gpu in gpus))
    choices += _choices(placement, gpus)
    return PlannedServer(
        model=spec.id,
        engine="vllm-cuda",
        flags=override(spec, flags, choices),
        env={**ENGINE_ENV, **device_env(placement.gpus), **own_env(spec)},
        reasons=tuple(choices),
        memory=memory,
        available=min(gpu.memory_free for gpu in gpus),
        gpus=placement.gpus,
        tensor_parallel=placement.split.tensor,
        pipeline_parallel=placement.split.pipeline,
        data_parallel=placement.replicas,
        kv_tokens=_cached_tokens(placement),
        plugins=placement.variant.plugins,
        dequantize=placement.variant.dequantize,
        facts_from=facts.origin,
        on_demand=spec.load == "on-demand",
    )


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
    if _encodes(placement.variant.facts):
        del flags["max-num-batched-tokens"]
    parallel = {
        "tensor-parallel-size": placement.split.tensor,
        "pipeline-parallel-size": placement.split.pipeline,
        "data-parallel-size": placement.replicas,
    }
    return {**flags, **{name: size for name, size in parallel.items() if size > 1}}


def _dtype(placement: Placement) -> str:
    return "float16" if _encodes(placement.variant.facts) else placement.variant.dtype


def _fraction(size: int, total: int) -> float:
    """Rounded down: vLLM refuses to start if this share of the GPU is not free."""
    return max(0.01, math.floor(size / total * 1000) / 1000)


def _choices(placement: Placement, gpus: Sequence[Gpu]) -> Iterator[Choice]:
    variant, split, memory = placement.variant, placement.split, placement.memory
    sequences, sequences_why = sequences_of(placement.spec, "cuda")
    yield Choice(
        "engine", "vllm-cuda", f"{gpus[0].name}, compute capability {'.'.join(map(str, gpus[0].compute_capability))}"
    )
    if _encodes(variant.facts):
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
    cached = _cached_tokens(placement)
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


def _cached_tokens(placement: Placement) -> int:
    request = _request_cache(placement.variant.facts, placement.context, placement.split)
    return placement.memory.kv_cache * placement.context // request * placement.replicas if request else 0
