"""How a keeper tells of its server: one model's line on the board."""

import time
from typing import Protocol

from vllm_launcher.keeping.collaborators import ServerSpec
from vllm_launcher.keeping.metrics import Sample
from vllm_launcher.progress import Progress
from vllm_launcher.status import ServerStatus, State

GONE = ("absent", "fetching", "stopped", "failed")
"""States without a process."""


class Teller(Protocol):
    """Where a status goes: the board, or the replicas' own."""

    def put(self, status: ServerStatus, *, minor: bool = False) -> None:
        """Tell of that server; a ``minor`` change may wait a little."""
        ...


class Reporter:
    """Writes the status of a server; its keeper is the only one who does."""

    def __init__(self, board: Teller, spec: ServerSpec) -> None:
        self._board = board
        self._status = first_status(spec)
        self._looked: tuple[float, Sample] | None = None

    @property
    def status(self) -> ServerStatus:
        """As of now."""
        return self._status

    def enter(self, state: State, phase: str = "", **changes: object) -> None:
        """Enter a state: what belonged to the one before is gone, the endpoint above all."""
        lost: dict[str, object] = {"endpoint": None, "progress": None}
        if state in GONE:
            lost |= {"pid": None, "memory_bytes": None}
        if state not in ("ready", "draining"):
            lost |= {"requests": None, "tokens_per_second": None, "cache_usage": None}
            self._looked = None
        since = self.status.since if self.status.state == state else time.time()
        self.change({"state": state, "phase": phase, "since": since} | lost | changes)

    def change(self, changes: dict[str, object], *, minor: bool = False) -> None:
        """Change some fields; nobody is told of a change that is none."""
        changed = ServerStatus.model_validate(dict(self._status) | changes)
        if changed != self._status:
            self._status = changed
            self._board.put(changed, minor=minor)

    def progress(self, progress: Progress) -> None:
        """How far the preparation has come."""
        if self.status.state == "fetching":  # a report that comes late is about the past
            same = progress.phase == self.status.phase
            self.change({"phase": progress.phase, "progress": progress}, minor=same)

    def sample(self, sample: Sample, now: float) -> bool:
        """What a look at the ready server gave at ``now`` (seconds, monotonic); whether it was used since the last."""
        before, self._looked = self._looked, (now, sample)
        used = sample.busy or (
            before is not None and not sample.probed and (sample.handled or 0.0) > (before[1].handled or 0.0)
        )
        changes: dict[str, object] = {"requests": sample.requests, "cache_usage": sample.cache_usage}
        if before is not None and sample.tokens is not None and before[1].tokens is not None and now > before[0]:
            speed = max(0.0, sample.tokens - before[1].tokens) / (now - before[0])
            changes["tokens_per_second"] = round(speed, 1)
        if used:
            changes["last_used"] = round(time.time(), 1)
        self.change(changes, minor=True)
        return used

    def begin(self, spec: ServerSpec) -> None:
        """Tell of another server from now on."""
        self._status = first_status(spec)
        self._board.put(self._status)


def first_status(spec: ServerSpec) -> ServerStatus:
    """Of a server of which nothing was asked yet."""
    status = ServerStatus(
        model=spec.model, served_name=spec.served_name, since=time.time(), pinned=spec.pinned, needs=dict(spec.needs)
    )
    if spec.refusal is None:
        return status
    told = {"state": "failed", "reason": spec.refusal.reason, "hint": spec.refusal.hint, "refused": True}
    return status.model_copy(update=told)
