"""What a key may use: requests and tokens a minute, requests at once. One file counts for all workers of the app.

Requests and tokens are token buckets that hold a minute's worth. An answer's tokens are known at its end, so they are
taken then: a bucket may go below zero, and nothing more is let in until it has filled up again. Requests at once are
leases; those of a worker that has not been heard of for ``SILENCE`` seconds count no more.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from app.errors import OverLimit
from vllm_launcher.keys import Key

if TYPE_CHECKING:
    import sqlite3

FILE_NAME = "limits.sqlite"
HEARTBEAT = 5.0
SILENCE = 20.0
T = TypeVar("T")
log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (key TEXT, kind TEXT, level REAL, at REAL, PRIMARY KEY (key, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (id INTEGER PRIMARY KEY, key TEXT, worker TEXT);
CREATE TABLE IF NOT EXISTS workers (id TEXT PRIMARY KEY, seen REAL) WITHOUT ROWID;
"""


class KeyLimits:
    """One worker's access to the file. All its work is done in a thread of its own, one step after the other.

    Args:
        path: The file; made where it is missing.
        now: Unix seconds.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._worker = secrets.token_hex(8)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="key limits")
        self._db: sqlite3.Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<KeyLimits {self._path}>"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Let the others know that this worker lives, and give back what it holds at the end."""
        beating = asyncio.create_task(self._beat(), name="key limits heartbeat")
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            self._closed = True
            await self._do(self._close)
            self._thread.shutdown()

    @contextlib.asynccontextmanager
    async def used(self, key: Key, tokens: Callable[[], int]) -> AsyncGenerator[None]:
        """Count a request of ``key`` for the time of the block; ``tokens`` tells at its end how many it took.

        Raises:
            OverLimit: It is one too many.
        """
        entering = asyncio.ensure_future(self._do(lambda: self._enter(key)))
        try:
            lease = await asyncio.shield(entering)
        except asyncio.CancelledError:  # the thread goes on: what it takes has to be given back
            entering.add_done_callback(lambda done: self._give_back(key, done))
            raise
        try:
            yield
        finally:
            if not self._closed:
                await asyncio.shield(self._do(lambda: self._leave(key, lease, tokens())))

    def _give_back(self, key: Key, entered: asyncio.Future[int | None]) -> None:
        if not entered.cancelled() and entered.exception() is None and not self._closed:
            lease = entered.result()
            self._thread.submit(self._leave, key, lease, 0)

    # --- in the thread -----------------------------------------------------------------------

    def _enter(self, key: Key) -> int | None:
        with self._transaction() as db:
            now = self._now()
            self._check_streams(db, key, now)
            requests = self._level(db, key, "requests", key.requests_per_minute, now)
            tokens = self._level(db, key, "tokens", key.tokens_per_minute, now)
            _check("requests", key.requests_per_minute, requests, 1)
            _check("tokens", key.tokens_per_minute, tokens, 0.001)
            self._set(db, key, "requests", requests - 1, now)
            if key.streams is None:
                return None
            self._greet(db, now)
            return db.execute("INSERT INTO leases (key, worker) VALUES (?, ?)", (key.id, self._worker)).lastrowid

    def _leave(self, key: Key, lease: int | None, tokens: int) -> None:
        if lease is None and key.tokens_per_minute is None:
            return
        with self._transaction() as db:
            now = self._now()
            level = self._level(db, key, "tokens", key.tokens_per_minute, now)
            self._set(db, key, "tokens", level - tokens, now)
            if lease is not None:
                db.execute("DELETE FROM leases WHERE id = ?", (lease,))

    def _check_streams(self, db: "sqlite3.Connection", key: Key, now: float) -> None:
        if key.streams is None:
            return
        query = "SELECT count(*) FROM leases JOIN workers ON worker = workers.id WHERE key = ? AND seen > ?"
        (held,) = db.execute(query, (key.id, now - SILENCE)).fetchone()
        if held >= key.streams:
            raise OverLimit(f"This key may have {key.streams} requests under way at once.", retry_after=1)

    def _level(self, db: "sqlite3.Connection", key: Key, kind: str, limit: int | None, now: float) -> float:
        """What a bucket holds now."""
        if limit is None:
            return 0.0
        row = db.execute("SELECT level, at FROM buckets WHERE key = ? AND kind = ?", (key.id, kind)).fetchone()
        level, at = row or (limit, now)
        return min(limit, level + max(0.0, now - at) * limit / 60)

    def _set(self, db: "sqlite3.Connection", key: Key, kind: str, level: float, now: float) -> None:
        limit = key.requests_per_minute if kind == "requests" else key.tokens_per_minute
        if limit is not None:
            db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?)", (key.id, kind, level, now))

    def _greet(self, db: "sqlite3.Connection", now: float) -> None:
        """Be heard of, and sweep what others left behind."""
        db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?)", (self._worker, now))
        db.execute("DELETE FROM workers WHERE seen <= ?", (now - SILENCE,))
        db.execute("DELETE FROM leases WHERE worker NOT IN (SELECT id FROM workers)")

    def _tell_alive(self) -> None:
        with self._transaction() as db:
            self._greet(db, self._now())

    def _close(self) -> None:
        if self._db is None:
            return
        with self._transaction() as db:
            db.execute("DELETE FROM workers WHERE id = ?", (self._worker,))
            db.execute("DELETE FROM leases WHERE worker = ?", (self._worker,))
        self._db.close()
        self._db = None

    @contextlib.contextmanager
    def _transaction(self) -> "Generator[sqlite3.Connection]":
        """All or nothing, and nobody else in between."""
        db = self._db = self._db or _connect(self._path)
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    # --- from the loop -----------------------------------------------------------------------

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _beat(self) -> None:
        import sqlite3  # noqa: PLC0415 -- a megabyte, for services with keys

        while True:
            try:
                await self._do(self._tell_alive)
            except sqlite3.Error as error:  # the disk is full, say; the next beat tries again
                log.warning("cannot note that this worker lives: %s", error)
            await asyncio.sleep(HEARTBEAT)


def _check(what: str, limit: int | None, level: float, needed: float) -> None:
    if limit is not None and level < needed:
        wait = max(1, ceil((needed - level) * 60 / limit))
        raise OverLimit(f"This key may use {limit} {what} a minute.", retry_after=wait)


def _connect(path: Path) -> "sqlite3.Connection":
    """Open the file. What it holds is worth nothing after a crash of the machine, so nobody waits for the disk."""
    import sqlite3  # noqa: PLC0415 -- see above

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=10, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.executescript(_SCHEMA)
    return db
