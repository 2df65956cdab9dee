"""Who may be loaded: more models than memory, as one decision after another. Pure: values in, a decision out.

Memory is counted by pool (``gpu:0``, ``gpu:1`` …, ``cpu``), in bytes, as the plan computed it. A server that wants
in is admitted as soon as it fits. Where it does not, others leave for it: those without requests before busy ones,
and of these the least recently used first. Nobody is asked to leave who is pinned, is still starting, or has been
ready for less than the minimum stay, without which two models asked for at once would only ever load. What waits is
served in the order it came: room that was made for the first is not given to the second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_launcher.planning.planned import gib

Pools = Mapping[str, int]
"""Bytes by pool."""


@dataclass(frozen=True)
class Resident:
    """A server that holds memory. Times in seconds, on the clock that ``decide`` is told the time of."""

    model: str
    needs: Pools
    pinned: bool = False
    ready_since: float | None = None
    """None while it starts: it cannot leave before it was of use to whoever waits for it."""
    last_used: float = 0.0
    busy: bool = False
    leaving: bool = False


@dataclass(frozen=True)
class Applicant:
    """A server that wants in. ``polite``: nobody asked for it yet, so nobody has to leave for it."""

    model: str
    needs: Pools
    polite: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do now."""

    admitted: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    """Servers to ask to leave, in this order."""
    declined: tuple[str, ...] = ()
    """Polite ones that do not fit."""
    hopeless: Mapping[str, str] = field(default_factory=dict[str, str])
    """Those that would not fit even alone with the pinned ones, with the reason."""
    waits_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Who still waits, and the servers that hold what it waits for."""
    again_at: float | None = None
    """When a minimum stay ends that somebody waits for."""


def decide(
    capacity: Pools, residents: Sequence[Resident], applicants: Sequence[Applicant], now: float, *, stay: float
) -> Decision:
    """Who is admitted, who has to leave, who waits for whom.

    Args:
        capacity: What servers may take in all; a pool that is not named has no limit.
        residents: Everybody who holds memory, those that leave included.
        applicants: Everybody who wants in, in the order they came.
        now: The time.
        stay: Seconds that a server is ready before it may be asked to leave.
    """
    return _Decider(capacity, residents, now, stay).decide(applicants)


class _Decider:
    """One decision in the making. ``free``: not taken now. ``coming``: free once all that leave have left."""

    def __init__(self, capacity: Pools, residents: Sequence[Resident], now: float, stay: float) -> None:
        self._residents = residents
        self._now = now
        self._stay = stay
        self._capacity = capacity
        self._free = dict(capacity)
        self._coming = dict(capacity)
        for resident in residents:
            _take(self._free, resident.needs)
            if not resident.leaving:
                _take(self._coming, resident.needs)
        self._leave: list[Resident] = []
        self._again_at: list[float] = []

    def decide(self, applicants: Sequence[Applicant]) -> Decision:
        admitted: list[str] = []
        declined: list[str] = []
        hopeless: dict[str, str] = {}
        waits_for: dict[str, tuple[str, ...]] = {}
        for applicant in applicants:
            if why := self._hopeless(applicant):
                hopeless[applicant.model] = why
                continue
            if _fits(self._free, applicant.needs):
                admitted.append(applicant.model)
            elif applicant.polite and not _fits(self._coming, applicant.needs):
                declined.append(applicant.model)
                continue
            else:
                waits_for[applicant.model] = self._make_room(applicant)
            _take(self._free, applicant.needs)  # what waits keeps its place before those that came later
            _take(self._coming, applicant.needs)
        return Decision(
            admitted=tuple(admitted),
            leave=tuple(resident.model for resident in self._leave),
            declined=tuple(declined),
            hopeless=hopeless,
            waits_for=waits_for,
            again_at=min(self._again_at, default=None),
        )

    def _hopeless(self, applicant: Applicant) -> str | None:
        pinned = [resident for resident in self._residents if resident.pinned]
        for pool, need in applicant.needs.items():
            capacity = self._capacity.get(pool)
            held = sum(resident.needs.get(pool, 0) for resident in pinned)
            if capacity is not None and need > capacity - held:
                beside = f" beside the pinned {', '.join(resident.model for resident in pinned)}" if held else ""
                return f"It needs {gib(need)} of {pool} and may take {gib(max(0, capacity - held))}{beside}."
        return None

    def _make_room(self, applicant: Applicant) -> tuple[str, ...]:
        """Choose who leaves so that the applicant fits; the servers it waits for."""
        chosen = self._choose(applicant)
        for resident in chosen:
            self._leave.append(resident)
            _give(self._coming, resident.needs)
        short = {pool for pool, need in applicant.needs.items() if self._free.get(pool, need) < need}
        holders = [resident for resident in self._residents if short & resident.needs.keys()]
        going = [resident for resident in holders if resident.leaving or resident in self._leave]
        return tuple(resident.model for resident in going or holders)

    def _choose(self, applicant: Applicant) -> list[Resident]:
        if _fits(self._coming, applicant.needs):
            return []
        staying = [r for r in self._residents if not (r.leaving or r.pinned or r in self._leave)]
        settled = [r for r in staying if r.ready_since is not None and self._now - r.ready_since >= self._stay]
        short = {pool for pool, need in applicant.needs.items() if self._coming.get(pool, need) < need}
        room, chosen = dict(self._coming), list[Resident]()
        for resident in sorted(settled, key=lambda r: (r.busy, r.last_used, r.model)):
            if short & resident.needs.keys():
                _give(room, resident.needs)
                chosen.append(resident)
            if _fits(room, applicant.needs):
                return _without_the_spared(chosen, room, applicant)
        self._again_at += [
            r.ready_since + self._stay for r in staying if r.ready_since is not None and r not in settled
        ]
        return []  # leaving would not be enough yet: nobody goes in vain


def _without_the_spared(chosen: list[Resident], room: dict[str, int], applicant: Applicant) -> list[Resident]:
    """Leave out those that were chosen first and are not needed, once a larger one goes; the most recent stay."""
    kept = list(chosen)
    for resident in reversed(chosen):
        without = dict(room)
        _take(without, resident.needs)
        if _fits(without, applicant.needs):
            room = without
            kept.remove(resident)
    return kept


def _fits(free: Pools, needs: Pools) -> bool:
    return all(need <= free[pool] for pool, need in needs.items() if pool in free)


def _take(free: dict[str, int], needs: Pools) -> None:
    for pool, need in needs.items():
        if pool in free:
            free[pool] -= need


def _give(free: dict[str, int], needs: Pools) -> None:
    for pool, need in needs.items():
        if pool in free:
            free[pool] += need
