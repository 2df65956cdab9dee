"""The board: the current status of every server, and who waits for a change of it.

Readers get the whole status, never a difference: a slow one misses steps in between, and nothing piles up for it.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping

from vllm_launcher import __version__
from vllm_launcher.errors import UnknownModel
from vllm_launcher.status import LauncherStatus, ServerStatus

COALESCE = 0.2
"""Seconds in which small changes (a progress bar, memory) become one."""


class Board:
    """Written by the keepers, read by everybody. Lives in one event loop."""

    def __init__(self, servers: Iterable[ServerStatus]) -> None:
        self._servers = {server.model: server for server in servers}
        self._generation = 0
        self._problem: str | None = None
        self._capacity: dict[str, int] = {}
        self._started_at = time.time()
        self._version = 0
        self._changed = asyncio.Event()
        self._pending: asyncio.TimerHandle | None = None
        self._closed = False

    def __getitem__(self, model: str) -> ServerStatus:
        if model not in self._servers:
            raise UnknownModel(model)
        return self._servers[model]

    def put(self, status: ServerStatus, *, minor: bool = False) -> None:
        """Replace one server's status; a ``minor`` change is told within COALESCE seconds, any other at once.

        A model that is not in the list any more, and drains, is not told of.
        """
        if status.model not in self._servers:
            return
        self._servers[status.model] = status
        if not minor:
            self._tell()
        elif self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(COALESCE, self._tell)

    def arrange(self, servers: Iterable[ServerStatus], capacity: Mapping[str, int]) -> None:
        """Another list of models, in this order: those already here keep their status, the others are forgotten."""
        self._servers = {server.model: self._servers.get(server.model, server) for server in servers}
        self._capacity = dict(capacity)
        self._generation += 1
        self._problem = None
        self._tell()

    def note(self, problem: str | None) -> None:
        """Why the last edit of the list of models was not taken over."""
        if problem != self._problem:
            self._problem = problem
            self._tell()

    def limit(self, capacity: Mapping[str, int]) -> None:
        """What servers may take in all, by pool."""
        self._capacity = dict(capacity)

    def snapshot(self) -> LauncherStatus:
        """Everything, as of now."""
        return LauncherStatus(
            version=__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            servers=tuple(self._servers.values()),
            generation=self._generation,
            problem=self._problem,
            capacity=self._capacity,
        )

    async def changes(self, heartbeat: float | None = None) -> AsyncIterator[LauncherStatus]:
        """The status now, and the newest one after every change, until the board is closed.

        With ``heartbeat`` it is repeated after so many seconds without a change.
        """
        seen = -1
        while True:
            if seen == self._version and not self._closed:
                await self._next_change(heartbeat)
            last, seen = self._closed, self._version
            yield self.snapshot()
            if last:
                return

    def close(self) -> None:
        """Tell everybody the last status, and end their reading."""
        self._closed = True
        self._tell()

    async def _next_change(self, heartbeat: float | None) -> None:
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(heartbeat):
                await changed.wait()

    def _tell(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()
