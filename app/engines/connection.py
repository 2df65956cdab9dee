"""HTTP/1.1 to an engine, with nothing between the socket and whoever reads: what arrives is handed on as it arrives.

A general HTTP client costs more per piece of a stream than everything else the app does with it; see docs/adr/0014.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import httptools

from app.errors import EngineBusy, EngineDied, EngineTimeout, EngineUnreachable, ServiceError

ENOUGH = 64 * 1024
"""Bytes of an answer that may wait for their reader; then the engine waits."""
IDLE = 2.0
"""Seconds that an unused connection is kept: engines close them after 5, and a request that meets the closing fails."""
LEFTOVERS = 1.0
"""Seconds that the last bytes of a finished answer may take; they are awaited so that its connection can be used on."""
UNREACHABLE = "The engine refuses connections: it has just ended or is not up yet."
CLOSED = "The engine closed the connection before it answered."
DIED = "The engine ended in the middle of the answer."
HALF = "What arrived is not the whole answer."
EVENT = b"data: {"
"""How an event of a stream begins that carries something."""
TAIL = 6
"""Pieces at the end of an answer among which its usage is."""
SILENT = "The engine has sent nothing for too long."

Address = tuple[str, int, bool]
"""Host, port, whether TLS is spoken."""


class Connect(Protocol):
    """Opens connections: the event loop's ``create_connection``, or a test's."""

    async def __call__(
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, *, ssl: ssl.SSLContext | None
    ) -> tuple[Any, Any]:
        """Connect; OSError where nobody listens."""
        ...


class Passed:
    """What has passed of an answer, for who measures it. Each piece is noted, so as little as can be is done."""

    __slots__ = ("begun", "events", "tail")

    def __init__(self) -> None:
        self.events = 0
        """That carry something."""
        self.begun = False
        """Whether there was one."""
        self.tail: deque[bytes] = deque(maxlen=TAIL)
        """The last pieces."""

    def note(self, piece: bytes) -> None:
        """A piece has passed. ``Answer.on_body`` does the same without a call."""
        self.tail.append(piece)
        self.events += piece.count(EVENT)
        if not self.begun and self.events:
            self.begin()

    def begin(self) -> None:
        """The first event has passed."""
        self.begun = True


class Answer:
    """An answer under way. Its body is pulled (``async for``) or pushed (``push``), the one or the other.

    Args:
        silence: Seconds without a byte after which it fails.
    """

    def __init__(self, silence: float) -> None:
        self.status_code = 0
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._framed = False
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._news: asyncio.Future[None] | None = None
        self.passed: Passed | None = None
        """Is told of every piece as it arrives, whoever reads it."""
        self._on_piece: Callable[[bytes], None] | None = None
        self._on_end: Callable[[ServiceError | None], None] | None = None
        self._error: ServiceError | None = None
        self._complete = self._closed = self._paused = False
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(silence, self._check_silence)
        self.lifetime = contextlib.ExitStack()
        """Closed once, when nobody waits for anything of it any more."""

    def __repr__(self) -> str:
        return f"<Answer {self.status_code or 'not begun'}{' complete' if self._complete else ''}>"

    # --- for the reader --------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether something ended it early."""
        return self._error is not None

    async def begin(self) -> None:
        """Return when the status is there; raise what kept it from coming."""
        await self._begun

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._complete:
                raise StopAsyncIteration
            self._news = self._loop.create_future()
            await self._news
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._paused and self._waiting < ENOUGH:
            self.resume()
        return piece

    def push(self, on_piece: Callable[[bytes], None], on_end: Callable[[ServiceError | None], None]) -> None:
        """Hand on every piece the moment it arrives, and at last, once, the end: None or what ended it."""
        self._on_piece, self._on_end = on_piece, on_end
        while self._pieces and self._on_piece is not None:
            on_piece(self._pieces.popleft())
        self._waiting = 0
        if self._error is not None or self._complete:
            self._tell_end()

    def pause(self) -> None:
        """Read no more from the engine: whoever reads here is slower."""
        if self._connection is not None and not self._paused and not self._complete:
            self._paused = True
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._heard = self._loop.time()
            if self._connection is not None:
                self._connection.resume()

    def fail(self, error: ServiceError) -> None:
        """End it with an error; the engine is told by the connection's end."""
        if self._complete or self._error is not None:
            return
        self._error = error
        self._disconnect()
        if not self._begun.done():
            self._begun.set_exception(error)
            self._begun.exception()  # nobody may be waiting for it yet
        self._tell()

    async def aclose(self) -> None:
        """As ``close``."""
        self.close()

    def close(self) -> None:
        """Stop reading: what the engine has not finished it need not finish."""
        self._on_piece = self._on_end = None
        if not self._complete:
            self._disconnect()
        self._finish()

    def finish(self) -> None:
        """Stop reading because the rest does not matter: the connection may be used again after it."""
        self._on_piece, self._on_end = _ignore, None
        self.resume()
        if self._complete or self._connection is None:
            self.close()
        else:
            self._timer.cancel()
            self._timer = self._loop.call_later(LEFTOVERS, self.close)

    # --- for the connection ----------------------------------------------------------------

    def attach(self, connection: "Connection") -> None:
        """Take the connection that it arrives by."""
        self._connection = connection

    def lose(self, error: Exception | None = None) -> None:
        """The connection has ended, which may be the body's end too."""
        if error is None and not self._framed and self.status_code:
            self._connection = None
            self._take_end()
            return
        self._connection = None
        begun = self._begun.done()
        self.fail(EngineDied(DIED, hint=HALF) if begun else EngineUnreachable(CLOSED))

    # --- httptools' callbacks: without a connection it is over, whatever else has arrived ------

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: ARG002
        """One header has arrived."""
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """The head has arrived."""
        if self._connection is None:
            return
        self.status_code = self._connection.status
        self._heard = self._loop.time()
        if not self._begun.done():
            self._begun.set_result(None)

    def on_body(self, body: bytes) -> None:
        """A piece of the body has arrived. This is the way of every token."""
        if self._connection is None:
            return
        self._heard = self._loop.time()
        passed = self.passed
        if passed is not None:  # as Passed.note
            passed.tail.append(body)
            passed.events += body.count(EVENT)
            if not passed.begun and passed.events:
                passed.begin()
        if self._on_piece is not None:
            self._on_piece(body)
            return
        self._pieces.append(body)
        self._waiting += len(body)
        if self._waiting >= ENOUGH:
            self.pause()
        self._wake()

    def on_message_complete(self) -> None:
        """The body is whole; the connection is free, and is used on, so it has to be readable."""
        connection = self._connection
        if connection is None:
            return
        connection.let_go()
        self.resume()
        self._connection = None
        self._take_end()

    # --- inside ----------------------------------------------------------------------------

    def _take_end(self) -> None:
        self._complete = True
        self._tell()
        self._finish()

    def _tell(self) -> None:
        self._wake()
        self._tell_end()

    def _tell_end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self._error)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _finish(self) -> None:
        self._timer.cancel()
        if not self._closed:
            self._closed = True
            self.lifetime.close()

    def _check_silence(self) -> None:
        """One timer a stream, looked at late, instead of one a piece."""
        due = self._heard + self._silence - self._loop.time()
        if self._paused:
            due = self._silence
        if due <= 0:
            self.fail(EngineTimeout(SILENT))
        else:
            self._timer = self._loop.call_later(due, self._check_silence)


def _ignore(_: bytes) -> None:
    """What nobody waits for."""


Watch = Callable[[Answer], contextlib.AbstractContextManager[Any]]


class Connection(asyncio.Protocol):
    """One connection to one engine; one answer at a time, with a parser of its own: it calls the answer itself."""

    def __init__(self, pool: "Connections", address: Address) -> None:
        self._pool = pool
        self.address = address
        self.idle_since = 0.0
        self._answer: Answer | None = None
        self._transport: Any = None
        self._parser: httptools.HttpResponseParser | None = None

    @property
    def usable(self) -> bool:
        """Whether the next request may go this way."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def status(self) -> int:
        """Of the answer whose head has arrived."""
        return self._parser.get_status_code() if self._parser is not None else 0

    def send(self, answer: Answer, request: bytes) -> None:
        """Ask for an answer."""
        self._answer = answer
        self._parser = httptools.HttpResponseParser(answer)
        answer.attach(self)
        self._transport.write(request)

    def pause(self) -> None:
        """Read nothing."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """End it now, whatever is under way."""
        self._answer = self._parser = None
        if self._transport is not None:
            self._transport.abort()

    def let_go(self) -> None:
        """The answer is whole: the next request may go this way, if the engine allows it."""
        parser, self._answer, self._parser = self._parser, None, None
        if parser is not None and parser.should_keep_alive():
            self._pool.keep(self)
        else:
            self._transport.close()

    # --- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer; any that nobody asked for end the connection."""
        if self._answer is None or self._parser is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended: the engine closed it, or we did."""
        self._pool.forget(self)
        self._lose(exc)

    def _lose(self, error: Exception | None) -> None:
        answer = self._answer
        self.abort()
        if answer is not None:
            answer.lose(error)


class Connections:
    """Connections to engines, kept for a moment after use.

    Args:
        limit: Answers under way at once; one more is an EngineBusy.
        connect_within: Seconds to reach an engine.
        silence: Seconds that an engine may send nothing.
        connect: Opens connections; by default the event loop does.
    """

    def __init__(self, limit: int, *, connect_within: float, silence: float, connect: Connect | None = None) -> None:
        self._limit = limit
        self._connect_within = connect_within
        self._silence = silence
        self._connect = connect
        self._idle: dict[Address, deque[Connection]] = {}
        self._open: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<Connections {self._under_way} under way, {len(self._open)} open>"

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, watched: Watch = contextlib.nullcontext
    ) -> Answer:
        """Send a JSON body and return the answer once its status is there.

        ``watched`` is entered with the answer and left when nobody waits for it any more: it may let it fail.

        Raises:
            EngineUnreachable: Nobody listens, or the connection ended before an answer.
            EngineBusy: Too many answers are under way.
            EngineTimeout: No answer for too long.
        """
        if self._under_way >= self._limit:
            raise EngineBusy("Too many requests are under way to the engines.")
        self._under_way += 1
        answer = Answer(self._silence)
        answer.lifetime.callback(self._release)
        answer.lifetime.enter_context(watched(answer))
        try:
            where = locate(url)
            request = _request(where, body, headers)
            connection = await self._open_to(where.address)
            if answer.failed:
                self.keep(connection)
            else:
                connection.send(answer, request)
            await answer.begin()
        except BaseException:
            answer.close()
            raise
        return answer

    def _release(self) -> None:
        self._under_way -= 1

    async def _open_to(self, address: Address) -> Connection:
        kept = self._idle.get(address)
        oldest = asyncio.get_running_loop().time() - IDLE
        while kept:
            connection = kept.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.abort()
        host, port, tls = address
        connect = self._connect or asyncio.get_running_loop().create_connection
        try:
            async with asyncio.timeout(self._connect_within):
                _, connection = await connect(
                    lambda: Connection(self, address), host, port, ssl=self._tls_context() if tls else None
                )
        except (OSError, TimeoutError) as error:
            raise EngineUnreachable(UNREACHABLE, refused=True) from error
        self._open.add(connection)
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        self._tls = self._tls or ssl.create_default_context()
        return self._tls

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose answer is whole."""
        connection.idle_since = asyncio.get_running_loop().time()
        kept = self._idle.setdefault(connection.address, deque())
        kept.append(connection)
        while kept and kept[0].idle_since < connection.idle_since - IDLE:
            kept.popleft().abort()

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that has ended."""
        self._open.discard(connection)
        kept = self._idle.get(connection.address)
        if kept is not None and connection in kept:
            kept.remove(connection)

    async def aclose(self) -> None:
        """End every connection."""
        for connection in tuple(self._open):
            connection.abort()


class Place(NamedTuple):
    """What a URL says, for who sends a request there."""

    address: Address
    host: str
    path: str


@lru_cache(maxsize=256)
def locate(url: str) -> Place:
    """Return where a URL of an engine leads; there are few."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    address = parts.hostname or "", parts.port or (443 if tls else 80), tls
    return Place(address, parts.netloc.rpartition("@")[2], parts.path or "/")


def _request(where: Place, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return an HTTP request; a header with a line end in it is none (it would become another one)."""
    lines = {
        "Host": where.host,
        "Content-Type": "application/json",
        "Accept": "*/*",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = "\r\n".join([f"{name}: {value}" for name, value in lines.items()])
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("A header of an engine request holds a line end.")
    return f"POST {where.path} HTTP/1.1\r\n{head}\r\n\r\n".encode("latin-1") + body
