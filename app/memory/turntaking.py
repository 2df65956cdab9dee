"""One request of a session after the other, over every worker of the service.

Inside a worker requests stand in line at a lock. Between workers the database decides: who holds a session writes so
into its row, with a time after which it counts as dead unless it was renewed. Whoever was taken for dead and is not
finds out when it stores its turn, and stores nothing.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.errors import MemoryUnavailable, SessionBusy
from app.memory.kept import Held, SessionName

if TYPE_CHECKING:
    from app.memory.deferred import DeferredStore
    from app.memory.store import SessionStore

log = logging.getLogger(__name__)

LEASE = 6.0
"""Seconds after which a session is free again whose worker was killed."""
LOOK_AGAIN = (0.02, 0.05, 0.1, 0.2)
"""Seconds between two looks at a session that another worker holds; the last one repeats."""
LINE = 32
"""Requests that may wait for one session in a worker."""


@dataclass
class _Line:
    """Those who wait for one session here."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


@dataclass
class TurnTaking:
    """Gives each request its session for itself. ``wait``: seconds until it gives up."""

    store: "DeferredStore | SessionStore"
    wait: float
    lease: float = LEASE
    lines: dict[SessionName, _Line] = field(default_factory=dict[SessionName, _Line])

    @contextlib.asynccontextmanager
    async def turn(self, name: SessionName) -> AsyncGenerator[Held]:
        """Hold a session while the block runs.

        Raises:
            SessionBusy: Others had it for as long as this one would wait, or too many wait already.
        """
        async with self._in_line(name) as line:
            deadline = asyncio.get_running_loop().time() + self.wait
            try:
                async with asyncio.timeout_at(deadline):
                    await line.lock.acquire()
            except TimeoutError:
                raise _busy(name) from None
            try:
                held = await self._take(name, deadline)
                renewal = asyncio.create_task(self._renew(held), name="renew a session's lease")
                try:
                    yield held
                finally:
                    renewal.cancel()
                    # Whoever is cancelled once more while this is written must not leave it half done.
                    await asyncio.shield(self.store.later(self._release(held)))
            finally:
                line.lock.release()

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Write something, to its end even where whoever asked leaves meanwhile.

        Cut off in the middle it would cost a connection, and a database in memory is gone with its connection.
        """
        writing = self.store.later(work)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            writing.exception()  # nobody is there to be told
            raise

    @contextlib.asynccontextmanager
    async def _in_line(self, name: SessionName) -> AsyncGenerator[_Line]:
        line = self.lines.setdefault(name, _Line())
        if line.length >= LINE:
            raise _busy(name)
        line.length += 1
        try:
            yield line
        finally:
            line.length -= 1
            if not line.length:
                self.lines.pop(name, None)

    async def _take(self, name: SessionName, deadline: float) -> Held:
        """Wait until no other worker holds it."""
        holder, tries = uuid.uuid4().hex, 0
        while True:
            taking = self.store.later(self.store.take(name, holder, lease=self.lease))
            try:
                held = await asyncio.shield(taking)
            except asyncio.CancelledError:
                self.store.later(self._give_back(taking))
                raise
            if held is not None:
                return held
            if asyncio.get_running_loop().time() >= deadline:
                raise _busy(name)
            await asyncio.sleep(LOOK_AGAIN[min(tries, len(LOOK_AGAIN) - 1)])
            tries += 1

    async def _give_back(self, taking: "asyncio.Task[Held | None]") -> None:
        """What was taken for somebody who has left meanwhile."""
        with contextlib.suppress(MemoryUnavailable):
            held = await taking
            if held is not None:
                await self._release(held)

    async def _release(self, held: Held) -> None:
        try:
            await self.store.release(held)
        except MemoryUnavailable:  # its lease will end
            log.warning("a session could not be released")

    async def _renew(self, held: Held) -> None:
        """Until cancelled, or until it is lost: then the turn will not be stored."""
        while True:
            await asyncio.sleep(self.lease / 3)
            # Cut off in the middle it would cost a connection, and a database in memory is gone with its connection.
            if not await asyncio.shield(self.store.later(self._prolong(held))):
                return

    async def _prolong(self, held: Held) -> bool:
        with contextlib.suppress(MemoryUnavailable):
            return await self.store.prolong(held, lease=self.lease)
        return True  # not known: it is tried again


def _busy(name: SessionName) -> SessionBusy:
    return SessionBusy(f"The session '{name.id}' is answering other requests.", param="session_id")
