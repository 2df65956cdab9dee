"""One of the processes that serve together: which it is, what it has in common with the others, and its share.

What a setting bounds it bounds for the service as a whole: each worker gets a part, at least 1.
"""

import socket
from dataclasses import dataclass
from pathlib import Path

from app.settings import Limits, Settings

DIVIDED = ("image_workers", "image_bodies", "shadows", "waiting", "waiting_in_all", "queue", "connections")
"""Limits of what may be there at once in the whole service; the others bound one request."""


@dataclass(frozen=True)
class Worker:
    """Which of how many. The first leads: it does what one alone may do, and keeps the documents."""

    number: int = 0
    of: int = 1
    folder: Path | None = None
    """Shared by all workers of one run; removed at its end. None where there is one."""
    metrics: socket.socket | None = None
    """Listens for who reads the metrics, where they have a port of their own."""
    documents: socket.socket | None = None
    """Listens in ``folder`` for the other workers; the leader answers."""

    @property
    def leads(self) -> bool:
        """Whether it does what one alone may do."""
        return self.number == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.of == 1

    def share(self, total: int) -> int:
        """Return this worker's part of ``total``; all parts make it up, unless there is less than 1 for each."""
        return max(1, total // self.of + (self.number < total % self.of))


ALONE = Worker()


def divide(settings: Settings, worker: Worker) -> Settings:
    """Return what one worker is told: its share of what the settings allow the whole service at once."""
    if worker.is_alone:
        return settings
    return settings.model_copy(
        update={
            "limits": _divide_limits(settings.limits, worker),
            "engine_connections": worker.share(settings.engine_connections),
        }
    )


def _divide_limits(limits: Limits, worker: Worker) -> Limits:
    return limits.model_copy(update={name: worker.share(getattr(limits, name)) for name in DIVIDED})
