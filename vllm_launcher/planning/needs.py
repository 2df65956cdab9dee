"""What a model that does not fit would need, in words. Pure."""

from collections.abc import Iterator, Sequence

from vllm_launcher.hardware import GIB, Gpu, Hardware
from vllm_launcher.planning.model_facts import DiffusionFacts, Facts
from vllm_launcher.planning.placement import Placement, emptiest, place
from vllm_launcher.planning.plan_omni import place_omni
from vllm_launcher.planning.planned import Rejected, gib
from vllm_launcher.planning.rooms import Rooms, rooms_of
from vllm_launcher.registry.entries import ModelSpec

CARDS = (8, 12, 16, 24, 32, 48, 80, 141, 180)
COUNTS = (1, 2, 4, 8)
HOPPER = (9, 0)
"""GPUs people can have: sizes in GiB, how many in a machine."""


def refusal(spec: ModelSpec, facts: Facts, hardware: Hardware, placed: Sequence[str]) -> Rejected:
    """Why that model has no place on this machine's GPUs, and what would give it one."""
    need = smallest(spec, facts)
    if need is None:
        return Rejected(spec.id, f"needs more than 8 x {CARDS[-1]} GiB of GPU memory", "name a smaller model")
    if not hardware.gpus:
        return Rejected(spec.id, f"needs {need} of GPU memory, found none", HINT)
    empty = rooms_of(gpu.model_copy(update={"memory_free": gpu.memory_total}) for gpu in hardware.gpus)
    if _fits(spec, facts, empty) is not None:
        return _crowded(spec, need, hardware, placed)
    return Rejected(spec.id, f"needs {need} of GPU memory, found {found(hardware.gpus)}", HINT)


HINT = "name a smaller or a quantized model, or an external engine"


def smallest(spec: ModelSpec, facts: Facts) -> str | None:
    """The smallest usual set of GPUs that serves the model, for example "2 x 48 GiB" or "1 x 48 GiB (in FP8)"."""
    sets = sorted(((count, size) for count in COUNTS for size in CARDS), key=lambda pair: (pair[0] * pair[1], pair[0]))
    for count, size in sets:
        if (precision := _fits(spec, facts, rooms_of(_cards(count, size)))) is not None:
            return f"{count} x {size} GiB" + (f" (in {precision})" if precision else "")
    return None


def found(gpus: Sequence[Gpu]) -> str:
    """The GPUs of a machine as people count them."""
    sizes = sorted({round(gpu.memory_total / GIB) for gpu in gpus}, reverse=True)
    counted = (f"{sum(round(gpu.memory_total / GIB) == size for gpu in gpus)} x {size} GiB" for size in sizes)
    return " and ".join(counted)


def _crowded(spec: ModelSpec, need: str, hardware: Hardware, placed: Sequence[str]) -> Rejected:
    foreign = sum(gpu.memory_total - gpu.memory_free for gpu in hardware.gpus)
    holders = [f"{', '.join(placed)} placed before it"] if placed else []
    if foreign > len(hardware.gpus) * GIB:
        holders.append(f"other programs, which hold {gib(foreign)},")
    leave = " and ".join(holders) or "the others"
    reason = f"needs {need} of GPU memory, which {leave} do not leave free"
    return Rejected(spec.id, reason, "move it up in models.json, or give the others smaller limits")


def _cards(count: int, size: int) -> Iterator[Gpu]:
    for index in range(count):
        memory = size * GIB
        yield Gpu(index=index, name="", uuid="", memory_total=memory, memory_free=memory, compute_capability=HOPPER)


def _fits(spec: ModelSpec, facts: Facts, rooms: Rooms) -> str | None:
    """How the model fits there: "" in 16 bits or as it is stored, else in what; None if it does not."""
    if isinstance(facts, DiffusionFacts):
        server = place_omni(spec, facts, rooms, emptiest)
        layout = next((choice.value for choice in server.reasons if choice.what == "layout"), "") if server else None
        return "" if layout == "whole" else layout
    placement = place(spec, facts, rooms, emptiest)
    if not isinstance(placement, Placement):
        return None
    return placement.variant.label if placement.variant.flags else ""
