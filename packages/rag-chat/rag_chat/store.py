"""Where passages are kept and found: a folder of this process's own, or a Qdrant server by URL; one client for both.

One collection holds its passages, each with a dense vector and one of its words, and one record for each document,
which has no vectors. A record is written last: a document without one, or with another hash, is not whole yet, and what
is there of it is found all the same.

The client's calls block, so they run in threads: in one for a folder, which is no more able to serve two at once.
"""

import asyncio
import contextlib
import logging
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from filelock import FileLock, Timeout

from rag_chat.errors import RetrievalError, StoreFull, StoreMismatch, StoreUnavailable, UnknownDocument
from rag_chat.passages import Passage, Place
from rag_chat.words import Sparse

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client import models as q
else:

    class _Later:
        """Qdrant's models, imported when the store is opened: a service without documents saves 50 MiB."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("qdrant_client.models"), name)

    q = _Later()

T = TypeVar("T")
DENSE, WORDS = "dense", "words"
NAMESPACE = uuid.UUID("5b6f5c0e-64b5-4f52-9c43-3d8d3c2d7d10")
CANDIDATES = 20
"""Passages that each half of a search puts forward, at least."""
PAGE = 256
"""Points of one answer of the store where all are read."""
EMBEDDED_LIMIT = 20_000
"""Points in one collection of a folder: searches look at every one, and the client warns beyond."""
SERVER_THREADS = 8
TIMEOUT = 30
"""Seconds for one call of a server."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """A document that is in the store as a whole."""

    source: str
    title: str
    media_type: str
    size: int
    """Bytes of the file."""
    sha256: str
    passages: int
    embedding: str
    """The model its passages were embedded with."""
    ingested_at: float
    """Unix seconds."""

    @property
    def id(self) -> str:
        """Its name in URLs."""
        return document_id(self.source)


@dataclass(frozen=True, slots=True)
class Found:
    """A passage that answers a search, with its score (higher is better; of no meaning in itself)."""

    source: str
    passage: Passage
    score: float = 0.0

    @property
    def document(self) -> str:
        """The document's name in URLs."""
        return document_id(self.source)


@dataclass(frozen=True, slots=True)
class Entry:
    """A passage as it is written."""

    id: str
    passage: Passage
    dense: Sequence[float]
    words: Sparse


@dataclass(frozen=True)
class Where:
    """``location``: a folder, or the URL of a Qdrant server."""

    location: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def is_server(self) -> bool:
        """Whether others may use it at the same time."""
        return self.location.startswith(("http://", "https://"))


def document_id(source: str) -> str:
    """Return a document's name in URLs."""
    return str(uuid.uuid5(NAMESPACE, f"document {source}"))


class PassageStore:
    """Collections of passages. Made without I/O; opened at the first call, and closed by whoever made it."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._client: QdrantClient | None = None
        threads = SERVER_THREADS if where.is_server else 1
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="passages")
        self._opening = asyncio.Lock()
        self._lock: FileLock | None = None

    def __repr__(self) -> str:
        return f"<PassageStore {'server' if self._where.is_server else self._where.location}>"

    @property
    def is_shared(self) -> bool:
        """Whether other processes may use it at the same time."""
        return self._where.is_server

    # --- collections -------------------------------------------------------------------------

    async def collections(self) -> list[str]:
        """Return the names of all collections."""
        listed = await self._call(lambda client: client.get_collections())
        return sorted(each.name for each in listed.collections)

    async def ensure(self, collection: str, dimensions: int) -> None:
        """Make the collection, unless it is there.

        Raises:
            StoreMismatch: It is there with vectors of another length.
        """
        if not await self._call(lambda client: client.collection_exists(collection)):
            await self._call(lambda client: self._create(client, collection, dimensions))
            return
        info = await self._call(lambda client: client.get_collection(collection))
        vectors = info.config.params.vectors
        size = vectors[DENSE].size if isinstance(vectors, Mapping) and DENSE in vectors else 0
        if size != dimensions:
            raise StoreMismatch(
                f"The collection '{collection}' holds vectors of {size} dimensions, the embedding model makes "
                f"{dimensions}.",
                "Delete the collection and ingest anew, or use another one.",
            )

    def _create(self, client: "QdrantClient", collection: str, dimensions: int) -> None:
        client.create_collection(
            collection,
            vectors_config={DENSE: q.VectorParams(size=dimensions, distance=q.Distance.COSINE)},
            sparse_vectors_config={WORDS: q.SparseVectorParams(modifier=q.Modifier.IDF)},
        )
        if self._where.is_server:
            for name in ("kind", "document"):
                client.create_payload_index(collection, name, q.PayloadSchemaType.KEYWORD)

    async def drop(self, collection: str) -> None:
        """Remove a collection with everything in it."""
        await self._require(collection)
        await self._call(lambda client: client.delete_collection(collection))

    async def _require(self, collection: str) -> None:
        if not await self._call(lambda client: client.collection_exists(collection)):
            hint = "Ingest something into it first: langserve-vllm ingest PATH --collection NAME"
            raise UnknownDocument(f"There is no collection '{collection}'.", hint)

    # --- documents ---------------------------------------------------------------------------

    async def records(self, collection: str) -> list[Record]:
        """Return every whole document of a collection, by source."""
        await self._require(collection)
        points = await self._all(collection, _match(kind="document"))
        return sorted((_record(point) for point in points), key=lambda record: record.source)

    async def record(self, collection: str, document: str) -> Record | None:
        """Return a document's record; None where there is none."""
        if not await self._call(lambda client: client.collection_exists(collection)):
            return None
        points = await self._call(lambda client: client.retrieve(collection, [document], with_payload=True))
        return _record(points[0]) if points else None

    async def passages(self, collection: str, document: str) -> list[Found]:
        """Return a document's passages, in its order."""
        await self._require(collection)
        points = await self._all(collection, _match(kind="passage", document=document))
        return sorted((_found(point) for point in points), key=lambda found: found.passage.place.index)

    async def places(self, collection: str, document: str) -> dict[str, Place]:
        """Return the ids of a document's passages and where each stands; none where there is no such collection."""
        if not await self._call(lambda client: client.collection_exists(collection)):
            return {}
        points = await self._all(collection, _match(kind="passage", document=document))
        return {str(point.id): _found(point).passage.place for point in points}

    async def write(self, collection: str, source: str, entries: Sequence[Entry]) -> None:
        """Add passages, or replace those of the same id."""
        points = [_point(source, entry) for entry in entries]
        await self._call(lambda client: self._check_room(client, collection, len(points)))
        await self._call(lambda client: client.upsert(collection, points, wait=True))

    def _check_room(self, client: "QdrantClient", collection: str, more: int) -> None:
        if not self._where.is_server and client.count(collection).count + more > EMBEDDED_LIMIT:
            raise StoreFull(
                f"The embedded store holds {EMBEDDED_LIMIT} passages in a collection at most.",
                "Use a Qdrant server, or spread the documents over collections.",
            )

    async def move(self, collection: str, moved: Mapping[str, Place]) -> None:
        """Note where passages stand now whose text is the same."""
        for id_, place in moved.items():
            payload = asdict(place)
            await self._call(lambda client, id_=id_, payload=payload: client.set_payload(collection, payload, [id_]))

    async def finish(self, collection: str, record: Record, stale: Iterable[str]) -> None:
        """Remove what a document no longer has, and note that it is whole."""
        gone = list(stale)
        if gone:
            await self._call(lambda client: client.delete(collection, cast("Any", gone)))
        point = q.PointStruct(id=record.id, vector={}, payload={"kind": "document", **asdict(record)})
        await self._call(lambda client: client.upsert(collection, [point], wait=True))

    async def delete(self, collection: str, document: str) -> None:
        """Remove a document: its record first, so that it never counts as whole while passages go.

        Raises:
            UnknownDocument: Nothing of it is there.
        """
        await self._require(collection)
        known = await self.record(collection, document)
        passages = await self.places(collection, document)
        if known is None and not passages:
            raise UnknownDocument(f"There is no document '{document}' in '{collection}'.")
        for ids in ([document] if known else [], [*passages]):
            if ids:
                await self._call(lambda client, ids=ids: client.delete(collection, cast("Any", ids)))

    # --- searching ---------------------------------------------------------------------------

    async def search(self, collection: str, dense: Sequence[float], words: Sparse, limit: int) -> list[Found]:
        """Return the best passages: by meaning and by words, fused by their ranks (reciprocal rank fusion).

        Args:
            collection: Where to search.
            dense: The question's embedding; empty to search by words alone.
            words: The question's words; empty to search by meaning alone.
            limit: Passages.

        Raises:
            UnknownDocument: There is no such collection.
        """
        await self._require(collection)
        only, candidates = _match(kind="passage"), max(CANDIDATES, 2 * limit)
        halves: list[q.Prefetch] = []
        if dense:
            halves.append(q.Prefetch(query=list(dense), using=DENSE, limit=candidates, filter=only))
        if words:
            halves.append(q.Prefetch(query=_sparse(words), using=WORDS, limit=candidates, filter=only))
        if not halves:
            return []
        answer = await self._call(
            lambda client: client.query_points(
                collection, prefetch=halves, query=q.FusionQuery(fusion=q.Fusion.RRF), limit=limit, with_payload=True
            )
        )
        return [_found(point, point.score) for point in answer.points]

    # --- the client --------------------------------------------------------------------------

    async def _all(self, collection: str, which: "q.Filter") -> "list[q.Record]":
        found: list[q.Record] = []
        offset: Any = None
        while True:
            page, offset = await self._call(
                lambda client, offset=offset: client.scroll(
                    collection, scroll_filter=which, limit=PAGE, offset=offset, with_payload=True
                )
            )
            found += page
            if offset is None:
                return found

    async def _call(self, work: "Callable[[QdrantClient], T]") -> T:
        """Do it in a thread, with the store opened; what fails is named."""
        loop = asyncio.get_running_loop()
        async with self._opening:
            client = self._client or await loop.run_in_executor(self._threads, self._open)
            self._client = client

        def guarded() -> T:
            with _named():
                return work(client)

        return await loop.run_in_executor(self._threads, guarded)

    def _open(self) -> "QdrantClient":
        from qdrant_client import QdrantClient  # noqa: PLC0415 -- takes its time, and this is a thread

        where = self._where
        with _named():
            if where.is_server:
                return QdrantClient(
                    url=where.location, api_key=where.api_key, timeout=TIMEOUT, check_compatibility=False
                )
            self._hold(Path(where.location))
            return QdrantClient(path=where.location, force_disable_check_same_thread=True)

    def _hold(self, folder: Path) -> None:
        """Hold the folder by a lock of our own: the client has one too, and leaves it open where it fails."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(folder / ".process", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StoreUnavailable(
                "The store of documents is open in another process.",
                "A folder belongs to one process; several need a Qdrant server.",
            ) from error
        self._lock = lock

    async def aclose(self) -> None:
        """Close it; calls under way are finished first."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, client.close)
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._threads.shutdown(wait=False)


@contextlib.contextmanager
def _named() -> Generator[None]:
    """Name what the client raises; what is our own mistake stays as it is."""
    from qdrant_client.http.exceptions import (  # noqa: PLC0415 -- see _Later
        ApiException,
        ResponseHandlingException,
        UnexpectedResponse,
    )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a folder near its limit; the limit is ours to tell
            yield
    except RetrievalError:
        raise
    except (ResponseHandlingException, UnexpectedResponse, ApiException, OSError) as error:
        log.warning("the store of documents failed: %r", error)
        raise StoreUnavailable("The store of documents does not answer.", "Is it running? Nothing is lost.") from error


def _match(**values: str) -> "q.Filter":
    return q.Filter(must=[q.FieldCondition(key=key, match=q.MatchValue(value=value)) for key, value in values.items()])


def _sparse(words: Sparse) -> "q.SparseVector":
    numbers = sorted(words)
    return q.SparseVector(indices=numbers, values=[words[number] for number in numbers])


def _point(source: str, entry: Entry) -> "q.PointStruct":
    passage = entry.passage
    payload = {
        "kind": "passage",
        "document": document_id(source),
        "source": source,
        "title": passage.title,
        "text": passage.text,
        **asdict(passage.place),
    }
    vector: Any = {DENSE: list(entry.dense), WORDS: _sparse(entry.words)}
    return q.PointStruct(id=entry.id, vector=vector, payload=payload)


def _found(point: "q.Record | q.ScoredPoint", score: float = 0.0) -> Found:
    said: dict[str, Any] = point.payload or {}
    place = Place(
        said["index"],
        tuple(said["headings"]),
        line=said.get("line"),  # a null may come back as nothing
        end_line=said.get("end_line"),
        page=said.get("page"),
    )
    return Found(said["source"], Passage(said["text"], said["title"], place), score)


def _record(point: "q.Record") -> Record:
    said = dict(point.payload or {})
    said.pop("kind", None)
    return Record(**said)
