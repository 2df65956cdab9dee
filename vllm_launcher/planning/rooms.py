"""What is left on every GPU while a plan is made. Pure: taking room gives a new value."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from vllm_launcher.hardware import Gpu
from vllm_launcher.planning.planned import MIB

MARGIN_SHARE = 0.03
MARGIN = 256 * MIB
"""Left free on every GPU: an estimate is no promise, and allocators round up."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """GPUs, the bytes still free on each, and which already hold a server."""

    gpus: tuple[Gpu, ...]
    free: Mapping[int, int]
    taken: frozenset[int] = frozenset()

    def take(self, indices: Iterable[int], size: int) -> "Rooms":
        """The same with ``size`` bytes less on each of those GPUs."""
        indices = tuple(indices)
        free = {index: left - (size if index in indices else 0) for index, left in self.free.items()}
        return Rooms(self.gpus, free, self.taken | set(indices))

    def groups(self) -> Iterator[tuple[Gpu, ...]]:
        """GPUs of one kind: only equal ones share a model's layers. The largest kind first."""
        kinds = sorted(self.gpus, key=lambda gpu: (-gpu.memory_total, gpu.name, gpu.index))
        for _, group in groupby(kinds, key=lambda gpu: (gpu.memory_total, gpu.name)):
            yield tuple(group)

    def idle(self, gpu: Gpu) -> tuple[int, ...]:
        """GPUs of the same kind that hold nothing."""
        kind = (gpu.memory_total, gpu.name)
        return tuple(
            other.index
            for other in self.gpus
            if (other.memory_total, other.name) == kind and other.index not in self.taken
        )

    def gpu(self, index: int) -> Gpu:
        """The GPU of that index."""
        return next(gpu for gpu in self.gpus if gpu.index == index)


def rooms_of(gpus: Iterable[Gpu]) -> Rooms:
    """All GPUs, with what others left free on them, less the margin."""
    gpus = tuple(gpus)
    return Rooms(gpus, {gpu.index: usable(gpu) for gpu in gpus})


def usable(gpu: Gpu) -> int:
    """Bytes of a GPU that servers may plan with."""
    return max(0, gpu.memory_free - int(gpu.memory_total * MARGIN_SHARE) - MARGIN)
