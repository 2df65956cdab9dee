"""One of the processes that serve together: which it is, what it has in common with the others, and its share.

Shared out is what would cost others something: an engine's places, and images that are decoded at once, each worker at
least 1. What refuses a client (lines, connections) bounds each worker on its own: the kernel spreads connections
unevenly, and a share would refuse what the service has room for.
"""

import socket
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings

DIVIDED = ("image_workers", "image_bodies", "shadows")
"""Limits that hold for all workers together."""


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
    """Return what one worker is told: its share of what the settings allow all of them together."""
    if worker.is_alone:
        return settings
    shares = {name: worker.share(getattr(settings.limits, name)) for name in DIVIDED}
    return settings.model_copy(update={"limits": settings.limits.model_copy(update=shares)})
