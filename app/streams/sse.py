"""Server-sent events: frames, and an answer that always ends in a named event or with its caller.

Follows the WHATWG HTML standard, section 9.2, and LangServe's use of it: lines end in CR LF, every event is named.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from app.errors import InternalError
from app.guard.bodies import CallerLeft, while_wanted
from app.guard.client_connection import WRITE, Write
from app.shutdown import Shutdown

WAITING = 16
"""Events that may wait for a slow caller; then the engine waits."""
CANCEL_AGAIN = 0.1
"""Seconds between two cancellations: time for a connection to be closed properly."""
PING = b": ping\r\n\r\n"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_LINE_END = re.compile(r"\r\n|\r|\n")
_OTHER_LINE_ENDS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")
"""Three characters, in UTF-8, at which many clients (``str.splitlines``) end a line, though no protocol does."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``data`` is None for an event that is only a name.

    One without a name is a comment with ``data`` in it: clients that follow the standard pass over it.
    """

    name: str
    data: str | None = None

    def encode(self) -> bytes:
        """Return the event's frame."""
        if not self.name:
            return f": {_LINE_END.sub(' ', self.data or '')}\r\n\r\n".encode()
        frame = f"event: {self.name}\r\n"
        if self.data is not None:
            lines = _LINE_END.split(self.data) if "\n" in self.data or "\r" in self.data else (self.data,)
            frame += "".join(f"data: {line}\r\n" for line in lines)
        return f"{frame}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Data(Event):
    """An event without a name, as OpenAI's protocol and TGI's have them; made by ``data``."""

    def encode(self) -> bytes:
        """Return the frame: its data is one line of JSON."""
        return f"data: {self.data}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Line(Event):
    """A line of a stream of JSON lines; made by ``line``."""

    def encode(self) -> bytes:
        """Return the line."""
        return f"{self.data}\n".encode()


@dataclass(frozen=True, slots=True)
class Piece(Event):
    """Bytes of somebody else's stream, passed on as they are."""

    content: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes."""
        return self.content


COMMENT = Piece("comment", content=PING)


def one_line(text: bytes) -> bytes:
    """Return a JSON text with everything escaped that a client may take for the end of a line."""
    return text if text.isascii() else _OTHER_LINE_ENDS.sub(_escape, text)


def _escape(found: re.Match[bytes]) -> bytes:
    return f"\\u{ord(found[0].decode()):04x}".encode()


def dump(value: Any) -> str:
    """Return a value as one line of JSON, in characters as they are."""
    try:
        return one_line(orjson.dumps(value)).decode()
    except TypeError:  # half a character, or a number of more than 64 bits: as escapes and digits
        return json.dumps(value, separators=(",", ":"))


def data(value: Any) -> Data:
    """Return an event without a name that carries ``value`` as JSON."""
    return Data("data", dump(value))


def line(value: Any) -> Line:
    """Return ``value`` as a line of JSON."""
    return Line("line", dump(value))


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing a pump delivers: the end, or what ended it."""

    error: BaseException | None


class Pump:
    """Runs a generator of events in a task of its own, so that waiting for one can be given up without harm.

    A generator of LangChain must run in one task from first to last (it sets context variables), and an ``anext`` of
    it that is cancelled kills it.
    """

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._queue: asyncio.Queue[Event | _End] = asyncio.Queue(WAITING)
        self._end: _End | None = None
        self._stopped = False
        self._task = asyncio.create_task(self._run(events), name="event pump")

    async def _run(self, events: AsyncGenerator[Event, None]) -> None:
        end = _End(None)
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    await self._queue.put(event)
        except asyncio.CancelledError as error:
            if self._stopped:
                raise
            end = _End(error)  # something inside cancelled itself: whoever reads must not wait for ever
        except Exception as error:  # noqa: BLE001 -- handed to whoever reads
            end = _End(error)
        await self._queue.put(end)

    async def next(self) -> Event | None:
        """Return the next event, or None at the end.

        Raises:
            Exception: What the generator raised.
        """
        item = self._end or await self._queue.get()
        if isinstance(item, Event):
            return item
        self._end = item
        if isinstance(item.error, asyncio.CancelledError):
            raise InternalError from item.error
        if item.error is not None:
            raise item.error
        return None

    async def hold(self, enough: Callable[[Event], bool], seconds: float) -> tuple[Event, ...]:
        """Return the events up to the first that is ``enough``, or those of ``seconds``, or all.

        Raises:
            BaseException: What the generator raised before that, or what ended the waiting; the pump is stopped then.
        """
        try:
            return await self._hold(enough, seconds)
        except BaseException:
            await self.stop()
            raise

    async def _hold(self, enough: Callable[[Event], bool], seconds: float) -> tuple[Event, ...]:
        held: list[Event] = []
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                while (event := await self.next()) is not None:
                    held.append(event)
                    if enough(event):
                        break
        except TimeoutError:
            if not scope.expired():
                raise
        return tuple(held)

    def comment(self) -> None:
        """Deliver a comment next, unless there is something to deliver."""
        if self._queue.empty():
            self._queue.put_nowait(COMMENT)

    async def stop(self) -> None:
        """End the generator, wherever it is, and wait until it has.

        One cancellation is not enough: LangChain's ``astream_log`` answers the first by waiting for the run to finish,
        and passes only the second on to it.
        """
        self._stopped = True
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CANCEL_AGAIN)


class StreamingAnswer(Response):
    """An answer in pieces that ends in one of three ways.

    Its own last piece; one error event; silence, because the caller has left.

    Args:
        render_error: Makes the error event.
        shutdown: Interrupts the stream at its deadline.
        media_type: Of an answer that is no stream of events but of lines.
        endless: It has no end of its own, so it ends when the app begins to.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        *,
        render_error: Callable[[BaseException], Event],
        shutdown: Shutdown,
        media_type: str | None,
        endless: bool = False,
    ) -> None:
        self.media_type = media_type or self.media_type
        self.status_code = 200
        self.background = None
        self.init_headers(STREAM_HEADERS)
        self._render_error = render_error
        self._shutdown = shutdown
        self._endless = endless

    async def pour(self, send: Send, write: Write) -> None:
        """Send the pieces: at once by ``write``, or where that takes none, by ``send``."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End what is under way."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head, pieces and end."""
        write: Write = scope.get("extensions", {}).get(WRITE, take_nothing)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_all(scope, receive, send, write)
        except CallerLeft:
            pass
        finally:
            await self.aclose()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send, write: Write) -> None:
        try:
            async with while_wanted(scope, receive, self._shutdown, endless=self._endless):
                await self.pour(send, write)
        except CallerLeft:
            raise
        except Exception as error:  # noqa: BLE001 -- named, in the stream's own way
            await send(body(self._render_error(error).encode()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(StreamingAnswer):
    """An answer of events that a pump delivers.

    Args:
        pump: Where the events come from; stopped at the end, however it comes.
        held: Events that were pulled before the answer began.
        render_error: See ``StreamingAnswer``, as the others.
        shutdown: The same.
        ping: Seconds of silence before a comment line; None where the stream's form has no comments.
        media_type: The same.
        endless: The same.
    """

    def __init__(  # noqa: PLR0913 -- all but the first by name
        self,
        pump: Pump,
        *,
        held: tuple[Event, ...] = (),
        render_error: Callable[[BaseException], Event],
        shutdown: Shutdown,
        ping: float | None,
        endless: bool = False,
        media_type: str | None = None,
    ) -> None:
        super().__init__(render_error=render_error, shutdown=shutdown, media_type=media_type, endless=endless)
        self._pump = pump
        self._held = held
        self._ping = ping
        self._sent = 0.0

    @override
    async def aclose(self) -> None:
        await self._pump.stop()

    @override
    async def pour(self, send: Send, write: Write) -> None:
        now = asyncio.get_running_loop().time
        for event in self._held:
            await send(body(event.encode()))
        with self._commented():
            while (event := await self._pump.next()) is not None:
                frame = event.encode()
                if not write(frame):
                    await send(body(frame))
                self._sent = now()

    @contextlib.contextmanager
    def _commented(self) -> Generator[None]:
        """Have the pump deliver a comment after a silence: one timer a stream, looked at late, none a piece."""
        loop, ping = asyncio.get_running_loop(), self._ping
        self._sent = loop.time()
        if ping is None:
            yield
            return

        def look() -> None:
            nonlocal timer
            due = self._sent + ping - loop.time()
            if due <= 0:
                self._pump.comment()
            timer = loop.call_later(due if due > 0 else ping, look)

        timer = loop.call_later(ping, look)
        try:
            yield
        finally:
            timer.cancel()


def take_nothing(_: bytes) -> bool:
    """``Write`` of a server that has none."""
    return False


def body(frames: bytes) -> dict[str, Any]:
    """Return ASGI's message of a piece."""
    return {"type": "http.response.body", "body": frames, "more_body": True}
