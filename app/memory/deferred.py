"""The store of conversations, opened when the first one is kept or asked for.

SQLAlchemy takes 20 MiB and an eighth of a second to import, and a service that nobody gives a ``session_id`` has no
use for it. It is imported in a thread, once, so that the requests of others go on meanwhile.
"""

import asyncio
import re
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from app.memory.kept import Bounds, Held, SessionInfo, SessionName, Turn

if TYPE_CHECKING:
    from app.memory.store import SessionStore

PLAIN_SQLITE = re.compile(r"sqlite:///([^?]+)")
"""An address that cannot be wrong: any other is read at the start, by SQLAlchemy."""


class DeferredStore:
    """What ``app.memory.store.SessionStore`` is, with the same methods, but not there before it is needed.

    Args:
        address: See ``open_store``.
        bounds: How much is kept.

    Raises:
        StoreError: The address cannot be used.
    """

    def __init__(self, address: str | None, bounds: Bounds | None = None) -> None:
        self._address = address
        self._bounds = bounds
        self._opening = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        plain = PLAIN_SQLITE.fullmatch(address) if address else None
        self._file = Path(plain[1]) if plain else None
        self._store: SessionStore | None = None if plain or address is None else self._open()

    def __repr__(self) -> str:
        return f"<DeferredStore {'open' if self._store else 'not opened'}>"

    def _open(self) -> "SessionStore":
        from app.memory.store import open_store  # noqa: PLC0415 -- see above

        return open_store(self._address, self._bounds)

    async def opened(self) -> "SessionStore":
        """Return the store itself."""
        if self._store is None:
            async with self._opening:
                self._store = self._store or await asyncio.to_thread(self._open)
        return self._store

    async def take(self, name: SessionName, holder: str, *, lease: float) -> Held | None:
        """Hold a session for ``lease`` seconds; None while another request does."""
        return await (await self.opened()).take(name, holder, lease=lease)

    async def prolong(self, held: Held, *, lease: float) -> bool:
        """Hold it for longer; False if it is not held any more."""
        return await (await self.opened()).prolong(held, lease=lease)

    async def release(self, held: Held) -> None:
        """Let the next request have it."""
        await (await self.opened()).release(held)

    async def add(
        self, held: Held, messages: Sequence[BaseMessage], *, opens: bool, tokens: int | None, ttl: float | None
    ) -> None:
        """Store a turn, whole or not at all; raise SessionChanged where it is not held any more."""
        await (await self.opened()).add(held, messages, opens=opens, tokens=tokens, ttl=ttl)

    async def note_tokens(self, held: Held, counted: dict[int, int]) -> None:
        """Keep counts of turns that had none."""
        await (await self.opened()).note_tokens(held, counted)

    async def note_summary(self, held: Held, summary: str, through: int) -> None:
        """Keep what is told of the turns up to ``through``."""
        await (await self.opened()).note_summary(held, summary, through)

    async def find(
        self, owner: str, *, model: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[SessionInfo]:
        """Return an owner's sessions, the last used first; those used before ``before`` only."""
        return await (await self.opened()).find(owner, model=model, limit=limit, before=before)

    async def read(self, name: SessionName) -> tuple[SessionInfo, list[Turn]]:
        """Return a session with all its turns, oldest first; raise UnknownSession where there is none."""
        return await (await self.opened()).read(name)

    async def delete(self, owner: str, *, model: str | None = None, id: str | None = None) -> int:  # noqa: A002 -- its name
        """Delete sessions of an owner; return how many there were."""
        return await (await self.opened()).delete(owner, model=model, id=id)

    async def sweep(self) -> int:
        """Delete what has expired; where nothing was ever kept, nothing is opened."""
        if self._store is None and (self._file is None or not await asyncio.to_thread(self._file.exists)):
            return 0
        return await (await self.opened()).sweep()

    def later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something to its end, whatever happens to who asked for it; ``close`` waits for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Finish what is being written, and close the connections."""
        if self._background:
            await asyncio.wait(self._background)
        if self._store is not None:
            await self._store.close()
