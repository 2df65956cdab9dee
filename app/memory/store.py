"""Sessions and their turns in SQL: SQLite by default, PostgreSQL by URL, with the same code.

Every write is one transaction. Nothing of a request is written before its answer is whole, so a process that is killed
in the middle of one loses nothing that was there before.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, messages_to_dict
from sqlalchemy import URL, and_, delete, event, func, make_url, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.errors import MemoryUnavailable, SessionChanged, UnknownSession
from app.memory.kept import Bounds, Held, SessionInfo, SessionName, StoreError, Turn
from app.memory.tables import VERSION, metadata, sessions, turns, versions

log = logging.getLogger(__name__)

TURNS_READ = 1000
"""The newest turns of a session that a request may see; a context holds far fewer."""
SQLITE_WAIT = 30.0
"""Seconds that a write waits for another process's."""
MAKE_AGAIN = (0.1, 0.3)
"""Seconds before each other try to make the tables."""
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


@dataclass
class SessionStore:
    """The conversations of all models. Made without I/O; the tables are made when first needed.

    Raises (every method): MemoryUnavailable where the database does not answer.
    """

    engine: AsyncEngine
    bounds: Bounds = field(default_factory=Bounds)
    _ready: bool = False
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)
    _background: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    # --- one request of a session ------------------------------------------------------------

    async def take(self, name: SessionName, holder: str, *, lease: float) -> Held | None:
        """Hold a session for ``lease`` seconds; None while another request does. It is made where there is none yet."""
        now = time.time()
        async with self._transaction() as connection:
            await connection.execute(delete(sessions).where(_named(name), sessions.c.expires_at < now))
            await connection.execute(self._insert(name, now))
            free = or_(sessions.c.holder.is_(None), sessions.c.held_until < now)
            row = (
                await connection.execute(
                    update(sessions)
                    .where(_named(name), free)
                    .values(holder=holder, held_until=now + lease)
                    .returning(sessions.c.key, sessions.c.next_turn, sessions.c.summary, sessions.c.summary_turn)
                )
            ).first()
            if row is None:
                return None
            return Held(row.key, holder, row.next_turn, await _newest(connection, row.key, row.summary_turn),
                        row.summary, row.summary_turn)  # fmt: skip

    async def prolong(self, held: Held, *, lease: float) -> bool:
        """Hold it for longer; False if it is not held any more."""
        async with self._transaction() as connection:
            result = await connection.execute(
                update(sessions).where(_is_held(held)).values(held_until=time.time() + lease)
            )
            return result.rowcount == 1

    async def release(self, held: Held) -> None:
        """Let the next request have it; a session in which nothing was ever said goes."""
        async with self._transaction() as connection:
            await connection.execute(delete(sessions).where(_is_held(held), sessions.c.next_turn == 0))
            await connection.execute(update(sessions).where(_is_held(held)).values(holder=None, held_until=None))

    async def add(
        self, held: Held, messages: Sequence[BaseMessage], *, opens: bool, tokens: int | None, ttl: float | None
    ) -> None:
        """Store a turn, whole or not at all. The session stays held.

        Raises:
            SessionChanged: It was deleted, or another request took it over, since it was taken.
        """
        now, text = time.time(), json.dumps(messages_to_dict(messages))
        async with self._transaction() as connection:
            kept = await connection.execute(
                update(sessions)
                .where(_is_held(held))
                .values(
                    next_turn=held.next_turn + 1,
                    used_at=now,
                    expires_at=None if ttl is None else now + ttl,
                    bytes=sessions.c.bytes + len(text),
                )
                .returning(sessions.c.bytes)
            )
            total = kept.scalar()
            if total is None:
                raise SessionChanged("The session was deleted or taken over while the answer came: it is not kept.")
            await connection.execute(
                turns.insert().values(
                    session=held.key, number=held.next_turn, created_at=now, messages=text, opens=opens,
                    tokens=tokens, bytes=len(text),
                )
            )  # fmt: skip
            if total > self.bounds.session_bytes:
                await _shorten(connection, held, total - self.bounds.session_bytes)
        held.next_turn += 1

    async def note_tokens(self, held: Held, counted: dict[int, int]) -> None:
        """Keep counts of turns that had none."""
        async with self._transaction() as connection:
            for number, tokens in counted.items():
                await connection.execute(
                    update(turns).where(turns.c.session == held.key, turns.c.number == number).values(tokens=tokens)
                )

    async def note_summary(self, held: Held, summary: str, through: int) -> None:
        """Keep what is told of the turns up to ``through``. The turns themselves stay."""
        async with self._transaction() as connection:
            await connection.execute(
                update(sessions).where(_is_held(held)).values(summary=summary, summary_turn=through)
            )
        held.summary, held.summary_turn = summary, through

    # --- for their owner ---------------------------------------------------------------------

    async def find(
        self, owner: str, *, model: str | None = None, limit: int = 100, before: float | None = None
    ) -> list[SessionInfo]:
        """Return an owner's sessions, the last used first; those used before ``before`` only."""
        conditions = [sessions.c.owner == owner, sessions.c.next_turn > 0, _alive(time.time())]
        if model is not None:
            conditions.append(sessions.c.model == model)
        if before is not None:
            conditions.append(sessions.c.used_at < before)
        query = select(*_INFO).where(*conditions).order_by(sessions.c.used_at.desc()).limit(limit)
        async with self._transaction() as connection:
            return [SessionInfo(*row) for row in await connection.execute(query)]

    async def read(self, name: SessionName) -> tuple[SessionInfo, list[Turn]]:
        """Return a session with all its turns, oldest first.

        Raises:
            UnknownSession: The owner has none of that name.
        """
        async with self._transaction() as connection:
            found = await connection.execute(
                select(sessions.c.key, *_INFO).where(_named(name), sessions.c.next_turn > 0, _alive(time.time()))
            )
            row = found.first()
            if row is None:
                raise UnknownSession(f"There is no session '{name.id}' of '{name.model}'.")
            return SessionInfo(*row[1:]), await _newest(connection, row.key, -1, limit=None)

    async def delete(self, owner: str, *, model: str | None = None, id: str | None = None) -> int:  # noqa: A002 -- its name
        """Delete sessions of an owner; return how many there were."""
        conditions = [sessions.c.owner == owner]
        if model is not None:
            conditions.append(sessions.c.model == model)
        if id is not None:
            conditions.append(sessions.c.id == id)
        async with self._transaction() as connection:
            gone = await connection.execute(delete(sessions).where(*conditions).returning(sessions.c.next_turn))
            return sum(said > 0 for said in gone.scalars())

    async def sweep(self) -> int:
        """Delete what has expired, and of owners with too many sessions the ones unused for longest; count them."""
        now = time.time()
        async with self._transaction() as connection:
            expired = await connection.execute(delete(sessions).where(sessions.c.expires_at < now))
            swept = expired.rowcount
            crowded = await connection.execute(
                select(sessions.c.owner).group_by(sessions.c.owner).having(func.count() > self.bounds.sessions)
            )
            for owner in crowded.scalars().all():
                kept = (
                    select(sessions.c.key)
                    .where(sessions.c.owner == owner)
                    .order_by(sessions.c.used_at.desc())
                    .limit(self.bounds.sessions)
                )
                gone = await connection.execute(
                    delete(sessions).where(sessions.c.owner == owner, sessions.c.key.not_in(kept))
                )
                swept += gone.rowcount
        return swept

    # --- its life ------------------------------------------------------------------------------

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
        await self.engine.dispose()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[AsyncConnection]:
        with _named_failures():
            if not self._ready:
                await self._make_tables()
            async with self.engine.begin() as connection:
                yield connection

    async def _make_tables(self) -> None:
        """Make the tables where there are none. Workers that start at once may all try: the last one finds them."""
        async with self._making:
            for pause in MAKE_AGAIN:
                with contextlib.suppress(DBAPIError):
                    await self._try_to_make_tables()
                    return
                await asyncio.sleep(pause)
            await self._try_to_make_tables()

    async def _try_to_make_tables(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            await connection.execute(self._upsert(versions).values(version=VERSION).on_conflict_do_nothing())
            found = (await connection.execute(select(func.max(versions.c.version)))).scalar_one()
        if found != VERSION:
            log.error("the sessions' tables have version %s, this program knows version %s", found, VERSION)
            raise MemoryUnavailable("The conversations are kept in a form that this version does not know.")
        self._ready = True

    def _insert(self, name: SessionName, now: float) -> Any:
        return (
            self._upsert(sessions)
            .values(owner=name.owner, model=name.model, id=name.id, created_at=now, used_at=now, next_turn=0, bytes=0,
                    summary_turn=-1)
            .on_conflict_do_nothing()
        )  # fmt: skip

    def _upsert(self, table: Any) -> Any:
        """Both databases know ON CONFLICT, each in a class of its own."""
        return (sqlite.insert if self.engine.dialect.name == "sqlite" else postgresql.insert)(table)


_INFO = (
    sessions.c.model,
    sessions.c.id,
    sessions.c.created_at,
    sessions.c.used_at,
    sessions.c.expires_at,
    sessions.c.next_turn.label("turns"),
    sessions.c.bytes,
)


def _named(name: SessionName) -> Any:
    return and_(sessions.c.owner == name.owner, sessions.c.model == name.model, sessions.c.id == name.id)


def _is_held(held: Held) -> Any:
    return and_(sessions.c.key == held.key, sessions.c.holder == held.holder)


def _alive(now: float) -> Any:
    return or_(sessions.c.expires_at.is_(None), sessions.c.expires_at >= now)


async def _newest(connection: AsyncConnection, key: int, after: int, *, limit: int | None = TURNS_READ) -> list[Turn]:
    query = (
        select(turns.c.number, turns.c.messages, turns.c.opens, turns.c.tokens, turns.c.created_at)
        .where(turns.c.session == key, turns.c.number > after)
        .order_by(turns.c.number.desc())
        .limit(limit)
    )
    rows = (await connection.execute(query)).all()
    return [Turn(row.number, row.messages, row.opens, row.tokens, row.created_at) for row in reversed(rows)]


async def _shorten(connection: AsyncConnection, held: Held, surplus: int) -> None:
    """Delete the oldest turns of so many bytes, but never the one that was just added."""
    sizes = await connection.execute(
        select(turns.c.number, turns.c.bytes)
        .where(turns.c.session == held.key, turns.c.number < held.next_turn)
        .order_by(turns.c.number)
    )
    freed, through = 0, -1
    for row in sizes:
        if freed >= surplus:
            break
        freed, through = freed + row.bytes, row.number
    await connection.execute(delete(turns).where(turns.c.session == held.key, turns.c.number <= through))
    await connection.execute(update(sessions).where(sessions.c.key == held.key).values(bytes=sessions.c.bytes - freed))


@contextlib.contextmanager
def _named_failures() -> Generator[None]:
    """What the database raises becomes MemoryUnavailable; the log says what, without any text of a conversation."""
    try:
        yield
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        log.error("the store of conversations does not answer: %s", _plain(error))  # noqa: TRY400 -- the trace tells no more
        raise MemoryUnavailable("The store of conversations does not answer.") from error


def _plain(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(error).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"


def open_store(address: str | None, bounds: Bounds | None = None) -> SessionStore:
    """Return the store at a URL; without one, conversations last as long as the process. Nothing is opened yet.

    Args:
        address: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        bounds: How much is kept.

    Raises:
        StoreError: The URL cannot be used.
    """
    url = _url(address or "sqlite://")
    if url.get_backend_name() == "sqlite":
        engine = _open_sqlite(url)
    else:
        engine = create_async_engine(url, hide_parameters=True, pool_size=10, max_overflow=10, pool_pre_ping=True)
    return SessionStore(engine, bounds or Bounds())


def _url(address: str) -> URL:
    try:
        url = make_url(address)
        backend = url.get_backend_name()
    except (ArgumentError, SQLAlchemyError):
        raise StoreError("it is no URL of a database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DB") from None
    if backend not in DRIVERS:
        raise StoreError(f"'{backend}' is neither sqlite nor postgresql")
    return url.set(drivername=DRIVERS[backend])


def _open_sqlite(url: URL) -> AsyncEngine:
    """A database in memory is gone with its connection: it has one, which everybody waits for."""
    size = 1 if url.database in (None, "", ":memory:") else 4
    engine = create_async_engine(
        url,
        hide_parameters=True,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=SQLITE_WAIT,
        connect_args={"timeout": SQLITE_WAIT},
    )

    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine.sync_engine, "connect", prepare)
    return engine
