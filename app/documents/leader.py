"""Documents where several workers serve: the leader keeps them, the others hand on what is asked of them.

Ingesting is one line of work, and the store in a folder belongs to one process. So requests below ``/documents`` go on
to the leader as they came, guard and all, and the other workers' chains have it search for them: both over a socket in
the folder that the workers share. The socket outlives a leader: what is asked between two waits for the next.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson
import uvicorn
from rag_chat import PassageStore, Where, errors
from rag_chat.errors import RetrievalError
from rag_chat.passages import Passage, Place
from rag_chat.store import Found
from rag_chat.words import Sparse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.server import ServerState
from yarl import URL

from app.documents.library import store_of
from app.errors import ServiceError, ShuttingDown, StoreUnavailable
from app.guard.asgi import ABORT
from app.guard.client_connection import bounded
from app.responses import respond
from app.settings import Settings
from app.shutdown import Shutdown
from app.workers.sockets import DOCUMENTS
from app.workers.worker import Worker

BELOW = "/documents"
SEARCH = "/search"
"""Only over the workers' own socket, where it shadows nothing of the app's."""
ROOT = URL("http://documents")
OF_ONE_CONNECTION = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te"})
NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


@dataclass(frozen=True)
class Leader:
    """The way to the worker that keeps the documents."""

    path: Path

    def connect(self) -> aiohttp.ClientSession:
        """Return a session with one connection."""
        return aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self.path)),
            auto_decompress=False,
            skip_auto_headers=NOT_ADDED,
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def leader_of(worker: Worker) -> Leader | None:
    """Return the way to the leader; None for the leader itself."""
    return None if worker.leads or worker.folder is None else Leader(worker.folder / DOCUMENTS)


def store_for(settings: Settings, leader: Leader | None) -> PassageStore:
    """Return a worker's way to the store: its own where it is the leader, or where many may use it."""
    store = store_of(settings)
    return store if leader is None or store.is_shared else LeaderStore(leader)


def _gone() -> StoreUnavailable:
    return StoreUnavailable("The worker that keeps the documents has ended; another takes its place.")


# --- the others: requests --------------------------------------------------------------------


class Elsewhere:
    """Around a worker's app: hands requests for documents on to the leader."""

    def __init__(self, app: ASGIApp, leader: Leader, shutdown: Shutdown) -> None:
        self._app = app
        self._leader = leader
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, one way or the other."""
        if scope["type"] == "http" and _is_for_documents(scope):
            await _Forwarding(self._leader, scope, receive, send).run(self._shutdown)
        else:
            await self._app(scope, receive, send)


def _finish(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _is_for_documents(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith(BELOW) and path[len(BELOW) : len(BELOW) + 1] in ("", "/")


class _Forwarding:
    """One request on its way to the leader, and the answer on its way back."""

    def __init__(self, leader: Leader, scope: Scope, receive: Receive, send: Send) -> None:
        self._leader = leader
        self._scope = scope
        self._receive = receive
        self._send = send
        self._left = asyncio.Event()
        self._read = asyncio.Event()
        """The request's body has come."""
        self._begun = False

    async def run(self, shutdown: Shutdown) -> None:
        """Until it is answered, its client leaves, or time is over."""
        exchange = asyncio.create_task(self._exchange(), name="documents elsewhere")
        watch = asyncio.create_task(self._watch(), name="caller watch")
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        with shutdown.on_deadline(partial(_finish, over)):
            try:
                await asyncio.wait([exchange, watch, over], return_when=asyncio.FIRST_COMPLETED)
                failed = exchange.exception() if exchange.done() else ShuttingDown() if over.done() else None
            finally:
                for task in (exchange, watch):
                    task.cancel()
                await asyncio.wait([exchange, watch])
                over.cancel()
        if failed is not None:
            await self._fail(failed)

    async def _fail(self, error: BaseException) -> None:
        """Name it; where the answer has begun, break it off, so that nobody takes it for whole."""
        abort = self._scope.get("extensions", {}).get(ABORT)
        if self._begun and abort is not None:
            abort()
            return
        if self._begun or not isinstance(error, aiohttp.ClientError | OSError | ServiceError):
            raise error
        named = error if isinstance(error, ServiceError) else _gone()
        await respond(named)(self._scope, self._receive, self._send)

    async def _watch(self) -> None:
        await self._read.wait()
        while not self._left.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._left.set()

    async def _exchange(self) -> None:
        headers = [(name, value) for name, value in self._scope["headers"] if name not in OF_ONE_CONNECTION]
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in self._scope["headers"])
        if not has_body:
            self._read.set()
        query: bytes = self._scope["query_string"]
        path: bytes = self._scope.get("raw_path") or self._scope["path"].encode()
        url = URL(f"{ROOT}{path.decode('latin-1')}{'?' if query else ''}{query.decode('latin-1')}", encoded=True)
        told = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        async with self._leader.connect() as session:
            data = self._body() if has_body else None
            async with session.request(
                self._scope["method"], url, headers=told, data=data, allow_redirects=False
            ) as answer:
                await self._answer(answer)

    async def _body(self) -> AsyncGenerator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._left.set()
                self._read.set()
                raise aiohttp.ClientConnectionError
            yield message.get("body", b"")
            if not message.get("more_body", False):
                self._read.set()
                return

    async def _answer(self, answer: aiohttp.ClientResponse) -> None:
        headers = [(name.lower(), value) for name, value in answer.raw_headers]
        kept = [(name, value) for name, value in headers if name not in OF_ONE_CONNECTION]
        start: Message = {"type": "http.response.start", "status": answer.status, "headers": kept}
        self._begun = True
        await self._send(start)
        async for piece in answer.content.iter_any():
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


# --- the others: chains ----------------------------------------------------------------------


class LeaderStore(PassageStore):
    """The store as another worker's chains see it: the leader searches."""

    def __init__(self, leader: Leader) -> None:
        super().__init__(Where(str(leader.path)))
        self._leader = leader

    @override
    async def search(self, collection: str, dense: Sequence[float], words: Sparse, limit: int) -> list[Found]:
        """Have the leader search."""
        asked = {"collection": collection, "dense": [*dense], "words": [*words.items()], "limit": limit}
        try:
            async with self._leader.connect() as session, session.post(ROOT / SEARCH[1:], json=asked) as answer:
                told: dict[str, Any] = await answer.json()
        except (aiohttp.ClientError, OSError) as error:
            raise _gone() from error
        if "error" in told:
            raise _error(told["error"], told["message"], told["hint"])
        return [_found(**each) for each in told["found"]]


def _error(kind: str, message: str, hint: str | None) -> RetrievalError:
    named = cast("type[RetrievalError]", getattr(errors, kind, RetrievalError))
    return named(message, hint)


def _found(source: str, passage: dict[str, Any], score: float) -> Found:
    place: dict[str, Any] = passage["place"]
    headings: list[str] = place.pop("headings")
    where = Place(headings=tuple(headings), **place)
    return Found(source, Passage(passage["text"], passage["title"], where), score)


# --- the leader ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def answer_others(app: ASGIApp, store: PassageStore, settings: Settings, worker: Worker) -> AsyncGenerator[None]:
    """Answer the other workers while the block runs, if this is the one that does."""
    if worker.documents is None or not worker.leads:
        yield
        return
    asked = _Asked(app, store)
    config = uvicorn.Config(asked, http=bounded(settings.limits), ws="none", lifespan="off", log_config=None)
    config.access_log = config.server_header = False
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _protocol(config, state), sock=worker.documents)
    try:
        yield
    finally:
        server.close()
        for connection in [*state.connections]:
            connection.shutdown()
        if state.tasks:
            await asyncio.wait([*state.tasks], timeout=settings.drain)


def _protocol(config: uvicorn.Config, state: ServerState) -> asyncio.Protocol:
    made = cast("type[Any]", config.http_protocol_class)
    return made(config=config, server_state=state, app_state={})


class _Asked:
    """What the leader answers other workers: everything the app does, and searches."""

    def __init__(self, app: ASGIApp, store: PassageStore) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] != SEARCH:
            await self._app(scope, receive, send)
            return
        answer = await self._search(orjson.loads(await Request(scope, receive).body()))
        await answer(scope, receive, send)

    async def _search(self, asked: dict[str, Any]) -> Response:
        words = {int(number): float(weight) for number, weight in asked["words"]}
        try:
            found = await self._store.search(asked["collection"], asked["dense"], words, asked["limit"])
        except RetrievalError as error:
            return JSONResponse({"error": type(error).__name__, "message": error.message, "hint": error.hint})
        return JSONResponse({"found": [asdict(each) for each in found]})
