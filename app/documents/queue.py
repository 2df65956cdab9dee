"""The line of documents to ingest: one after the other, each tried until it is in or cannot be.

A document that cannot be read fails with its reason. Where the embedding model or the store is not there, it waits for
them. What waits is on disk (``spool.py``): after a crash or a stop the next process goes on with it.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rag_chat import File, Ingest

from app.documents.spool import Spool, Waiting
from app.engines.upstream import translate
from app.errors import EngineError, QueueOfDocumentsFull, ServiceError, StoreUnavailable, TooLarge, Unavailable
from app.settings import Documents

log = logging.getLogger(__name__)

State = Literal["waiting", "reading", "embedding", "done", "unchanged", "failed"]
ENDED = frozenset({"done", "unchanged", "failed"})
REMEMBERED = 1024
"""Documents whose outcome is told after they are through."""
BACK_OFF = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before each next try; the last one repeats."""


@dataclass(frozen=True, slots=True)
class Job:
    """One document on its way. ``done``, ``total``, ``new`` and ``removed`` count passages."""

    id: str
    collection: str
    source: str
    size: int
    state: State = "waiting"
    done: int = 0
    total: int = 0
    new: int = 0
    removed: int = 0
    reason: str | None = None
    """Why it failed, or what it waits for."""
    hint: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ENDED

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


class IngestQueue:
    """Takes documents and ingests them.

    Args:
        spool: Where they wait.
        ingest: Makes what ingests them; asked anew for each, as the embedding model may change.
        limits: How many, and how large.
        back_off: Seconds before each next try.
    """

    def __init__(
        self, spool: Spool, ingest: Callable[[], Ingest], limits: Documents, back_off: Sequence[float] = BACK_OFF
    ) -> None:
        self._spool = spool
        self._ingest = ingest
        self._limits = limits
        self._back_off = back_off
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._arriving: dict[str, Waiting] = {}
        """Being written to disk: they count, and are not worked on yet."""
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = asyncio.Event()
        self._more = asyncio.Event()
        self.opened = asyncio.Event()
        """Set once what earlier processes left is known."""
        self._broken = False
        self._numbers = itertools.count()
        self.writing = asyncio.Lock()
        """Held while the store is written to: whoever deletes takes it too."""

    def __repr__(self) -> str:
        return f"<IngestQueue {len(self._waiting)} waiting>"

    # --- reading ---------------------------------------------------------------------------

    def job(self, id_: str) -> Job | None:
        """Return one document's state; None where it is not known any more."""
        return self._jobs.get(id_)

    def jobs(self, collection: str) -> list[Job]:
        """Return every document of a collection that is known, in its order."""
        return [job for job in self._jobs.values() if job.collection == collection]

    async def follow(self, ids: Iterable[str]) -> AsyncGenerator[Job, None]:
        """Yield the state of these now and after every change, until all have ended. Slow readers miss steps."""
        left, said = list(ids), dict[str, Job]()
        while left:
            changed = self._changed
            for id_ in [*left]:
                job = self._jobs.get(id_)
                if job is None or job.ended:
                    left.remove(id_)
                if job is not None and said.get(id_) != job:
                    said[id_] = job
                    yield job
            if left:
                await changed.wait()

    # --- writing ---------------------------------------------------------------------------

    async def add(self, collection: str, file: File) -> Job:
        """Take a document. When this returns, it survives a crash.

        Raises:
            TooLarge: It is larger than one may be.
            QueueOfDocumentsFull: So many wait that one more is not taken.
        """
        limits = self._limits
        await self.opened.wait()
        if self._broken:
            raise StoreUnavailable("Documents cannot be kept: the data folder cannot be written.")
        if len(file.content) > limits.file_bytes:
            raise TooLarge(f"'{file.source}' is larger than {limits.file_bytes} bytes.", param="files")
        taken = [each.size for each in (*self._waiting.values(), *self._arriving.values())]
        if len(taken) >= limits.waiting or sum(taken) + len(file.content) > limits.waiting_bytes:
            raise QueueOfDocumentsFull(len(taken))
        id_ = f"{time.time_ns():020d}-{next(self._numbers):06d}"
        waiting = Waiting(id_, collection, file.source, file.media_type, len(file.content))
        self._arriving[id_] = waiting
        try:
            await asyncio.to_thread(self._spool.save, waiting, file.content)
        finally:
            del self._arriving[id_]
        self._waiting[id_] = waiting
        job = self._note(waiting)
        self._more.set()
        return job

    def _note(self, waiting: Waiting) -> Job:
        job = Job(waiting.id, waiting.collection, waiting.source, waiting.size)
        self._put(job)
        return job

    def _put(self, job: Job) -> None:
        self._jobs[job.id] = job
        while len(self._jobs) > REMEMBERED + len(self._waiting):
            ended = next((id_ for id_, each in self._jobs.items() if each.ended), None)
            if ended is None:
                break
            del self._jobs[ended]
        self._changed, changed = asyncio.Event(), self._changed
        changed.set()

    # --- working ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Ingest what waits, until cancelled."""
        try:
            await self._take_over()
            while True:
                self._more.clear()
                while self._waiting:
                    await self._work(next(iter(self._waiting.values())))
                await self._more.wait()
        finally:
            self._spool.close()

    async def _take_over(self) -> None:
        """Go on with what earlier processes left."""
        try:
            for waiting in await asyncio.to_thread(self._spool.open):
                self._waiting[waiting.id] = waiting
                self._note(waiting)
        except (OSError, ValueError, TypeError) as error:
            self._broken = True
            log.error("documents cannot be ingested: %s", error)  # noqa: TRY400 -- the trace tells no more
        self.opened.set()
        if self._waiting:
            log.info("%d documents still wait to be ingested", len(self._waiting))

    async def _work(self, waiting: Waiting) -> None:
        for delay in itertools.chain(self._back_off, itertools.repeat(self._back_off[-1])):
            failed = await self._try(waiting)
            if failed is None:
                break
            if not isinstance(failed, Unavailable | EngineError):
                self._change(waiting.id, state="failed", reason=failed.message, hint=failed.hint)
                break
            self._change(waiting.id, state="waiting", reason=failed.message, hint=failed.hint)
            with contextlib.suppress(TimeoutError):
                await asyncio.sleep(delay)
        self._waiting.pop(waiting.id, None)
        await asyncio.to_thread(self._spool.remove, waiting.id)

    async def _try(self, waiting: Waiting) -> ServiceError | None:
        try:
            content = await asyncio.to_thread(self._spool.content, waiting.id)
            file = File(waiting.source, content, waiting.media_type)
            async with self.writing:
                async for now in self._ingest()(waiting.collection, file):
                    told = {"done": now.done, "total": now.total, "new": now.new, "removed": now.removed}
                    self._change(waiting.id, state=now.phase, reason=None, hint=None, **told)
        except Exception as error:  # noqa: BLE001 -- named, for whoever follows
            named = translate(error)
            log.warning("%s was not ingested: %s", waiting.id, type(error).__name__)
            return named
        return None

    def _change(self, id_: str, **fields: Any) -> None:
        self._put(replace(self._jobs[id_], **fields))
