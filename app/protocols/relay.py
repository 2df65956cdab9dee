"""Streams pushed through: a piece of an engine's answer becomes frames for a client in the callback it came in.

No task, no queue and no future a piece. docs/adr/0014 says why, and on what it relies: ``send`` of an ASGI server is a
coroutine that runs to its end at once unless the client reads slower than we write. So it is stepped by hand; where it
does not end at once, a task finishes it, and meanwhile nothing is read from the engine.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.engines.connection import Answer
from app.errors import ServiceError
from app.guard.bodies import CallerLeft, while_wanted
from app.protocols.sse import PING, STREAM_HEADERS, Event
from app.shutdown import Shutdown


class Renderer(Protocol):
    """Turns the pieces of one answer into the frames of one stream. Raises nothing: an error is an end."""

    ended: bool
    """Whether there is no more to come: the engine said so, or ``error`` happened."""
    error: Exception | None
    begun: bool
    """Whether a frame with output was made."""

    def feed(self, piece: bytes) -> bytes:
        """Return the frames of the events that ``piece`` completes."""
        ...

    def close(self) -> bytes:
        """Return the last frames, where the engine's answer ended without a word."""
        ...


class Relay:
    """Between one answer of an engine and one client. Frames wait until ``run`` is given the client.

    Args:
        answer: The engine's, its status checked.
        renderer: Makes the client's frames.
        ping: Seconds of silence before a comment line.
    """

    def __init__(self, answer: Answer, renderer: Renderer, *, ping: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._renderer = renderer
        self._ping = ping
        self._send: Send | None = None
        self._waiting: list[bytes] = []
        self._flusher: asyncio.Task[None] | None = None
        self._over = False
        self._error: Exception | None = None
        self._wrote = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        answer.push(self._take, self._take_end)

    async def hold(self, seconds: float) -> None:
        """Return at the first output, or after so long; raise what came in its place."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._begun
        except BaseException:
            self.close()
            raise
        if self._error is not None and not self._renderer.begun:
            self.close()
            raise self._error

    async def run(self, send: Send) -> None:
        """Send everything to the client; return at the end, or raise what ended the stream."""
        while self._waiting:
            await self._send_waiting(send)
        self._send = send
        self._answer.resume()
        self._timer = self._loop.call_later(self._ping, self._tick)
        self._settle()
        try:
            await self._finished
        finally:
            self._timer.cancel()
            self._send = None
            await self._stop_flusher()

    def close(self) -> None:
        """End what is under way; the engine is told by the connection's end."""
        self._over = True
        self._answer.close()

    # --- from the engine -------------------------------------------------------------------

    def _take(self, piece: bytes) -> None:
        renderer = self._renderer
        frames = renderer.feed(piece)
        if frames:
            self._write(frames)
        if renderer.ended:
            if renderer.error is None:
                self._answer.finish()
            else:
                self._answer.close()
            self._end(renderer.error)
        elif renderer.begun and not self._begun.done():
            self._begun.set_result(None)

    def _take_end(self, error: ServiceError | None) -> None:
        if error is None:
            self._write(self._renderer.close())
        self._end(error or self._renderer.error)

    def _end(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over, self._error = True, error
        if not self._begun.done():
            self._begun.set_result(None)
        self._settle()

    def _settle(self) -> None:
        """Finish once there is an end and everything before it has been sent."""
        if not self._over or self._send is None or self._flusher is not None or self._finished.done():
            return
        if self._error is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(self._error)

    # --- to the client ---------------------------------------------------------------------

    def _write(self, frames: bytes) -> None:
        if self._send is None or self._flusher is not None:
            if frames:
                self._waiting.append(frames)
                self._answer.pause()
            return
        self._wrote = self._loop.time()
        steps = self._send(_body(frames)).__await__()
        try:
            waits_for = next(steps)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 -- whoever runs the stream is told
            self._end(error)
            return
        self._answer.pause()
        self._flusher = self._loop.create_task(self._flush(_Rest(steps, waits_for)), name="slow client")

    async def _flush(self, under_way: Awaitable[None]) -> None:
        """Finish a send that the client keeps waiting, and everything that came meanwhile; then read on."""
        try:
            await under_way
            while self._waiting and self._send is not None:
                await self._send_waiting(self._send)
        except Exception as error:  # noqa: BLE001 -- whoever runs the stream is told
            self._error, self._over = error, True
        self._flusher = None
        self._answer.resume()
        self._settle()

    async def _send_waiting(self, send: Send) -> None:
        frames, self._waiting = b"".join(self._waiting), []
        await send(_body(frames))
        self._wrote = self._loop.time()

    async def _stop_flusher(self) -> None:
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            flusher.cancel()
            await asyncio.wait([flusher])

    def _tick(self) -> None:
        """Write a comment after a silence. One timer a stream, looked at late, instead of one a piece."""
        due = self._wrote + self._ping - self._loop.time()
        if due <= 0 and self._flusher is None:
            self._write(PING)
        self._timer = self._loop.call_later(due if due > 0 else self._ping, self._tick)


class _Rest:
    """The rest of a coroutine that was stepped once and then waited for something."""

    def __init__(self, steps: Generator[Any, Any, None], waits_for: Any) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._waits_for
            yield from self._steps
        finally:
            self._steps.close()


def _body(frames: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": frames, "more_body": True}


DIRECT = "langserve_vllm.send"
"""In a request's scope: the server's own ``send``, below every middleware."""


class DirectSend:
    """Around the whole app: lets a stream send its pieces past the middlewares, which look at heads only.

    Five of them stand between a route and the server, and each is one more coroutine a piece.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            scope[DIRECT] = send
        await self._app(scope, receive, send)


class RelayedStream(Response):
    """As ``EventStream``, with a relay where that has a pump."""

    media_type = "text/event-stream"

    def __init__(self, relay: Relay, *, render_error: Callable[[BaseException], Event], shutdown: Shutdown) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(STREAM_HEADERS)
        self._relay = relay
        self._render_error = render_error
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the frames as they come; head and end go through every middleware."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_all(receive, send, scope.get(DIRECT, send))
        except CallerLeft:
            pass
        finally:
            self._relay.close()

    async def _send_all(self, receive: Receive, send: Send, direct: Send) -> None:
        try:
            async with while_wanted(receive, self._shutdown):
                await self._relay.run(direct)
        except CallerLeft:
            raise
        except Exception as error:  # noqa: BLE001 -- named, in the stream's own way
            await send(_body(self._render_error(error).encode()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
