"""Where models go on GPUs: the most exact precision, on the fewest GPUs, that fits. Pure.

A model that fits one GPU stays on one. One that does not is cut; if GPUs of the same kind are idle in the end, it is
cut further, to the largest divisor of its heads. What is left of every GPU then becomes KV cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vllm_launcher.hardware import Gpu
from vllm_launcher.planning.architectures import ENCODERS
from vllm_launcher.planning.flags import context_of, dtype_bytes, family, own_flags, sequences_of
from vllm_launcher.planning.memory import Split, activation_bytes, cache_bytes, overhead_bytes, weights_per_device
from vllm_launcher.planning.model_facts import ModelFacts
from vllm_launcher.planning.planned import GIB, MIB, Memory
from vllm_launcher.planning.rooms import Rooms
from vllm_launcher.planning.splits import divides, splits
from vllm_launcher.planning.variants import Impossible, Variant, variants
from vllm_launcher.registry.entries import ModelSpec

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
        return requests * self.request_cache

    @property
    def request_cache(self) -> int:
        """KV cache of each GPU for one request as long as the context."""
        return _request_cache(self.variant.facts, self.context, self.split, dtype_bytes(self.spec))

    @property
    def cached_tokens(self) -> int:
        """Tokens the caches of all replicas hold."""
        request = self.request_cache
        return self.memory.kv_cache * self.context // request * self.replicas if request else 0


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
    facts, width = variant.facts, dtype_bytes(spec)
    memory = Memory(
        weights=weights_per_device(facts, split, width),
        kv_cache=max(LEAST_CACHE, _up(_request_cache(facts, tokens, split, width))),
        activations=activation_bytes(facts, batched, sequences, split),
        overhead=overhead_bytes(facts, sequences, split, graphs=not encodes(facts)),
    )
    replicas = _number(spec, "data-parallel-size") or 1
    return Placement(spec, variant, split, replicas, (), tokens, why, sequences, batched, memory)


def _request_cache(facts: ModelFacts, context: int, split: Split, width: int) -> int:
    return 0 if encodes(facts) else cache_bytes(facts, context, split, width)


def encodes(facts: ModelFacts) -> bool:
    """Whether the model reads all of a text at once and caches nothing."""
    return facts.architecture in ENCODERS


def _image_tokens(spec: ModelSpec) -> int:
    """The largest image has to fit one batch: vLLM refuses to start otherwise."""
    return 8192 if spec.task == "vision-chat" else 0


def _number(spec: ModelSpec, flag: str) -> int | None:
    value = own_flags(spec).get(flag)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# --- after everything has its place ------------------------------------------------------


def place_again(placement: Placement, rooms: Rooms, pick: Pick) -> Placement | None:
    """One more server of that model, equal to the first, on GPUs of the same kind; None without the room for it."""
    kind = rooms.gpu(placement.gpus[0])
    group = next(group for group in rooms.groups() if kind in group)
    chosen = pick(rooms, group, len(placement.gpus), placement.memory.total)
    return replace(placement, gpus=chosen) if chosen else None


def widen(placement: Placement, rooms: Rooms) -> tuple[Placement, Rooms]:
    """Cut a model that is cut already over idle GPUs too, to the largest number of ways that divides its heads."""
    if placement.split.tensor == 1 or placement.split.pipeline > 1 or placement.replicas > 1:
        return placement, rooms
    if placement.spec.replicas > 1:  # equal servers: none of them gets what others have no GPUs for
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
