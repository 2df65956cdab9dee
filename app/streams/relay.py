"""Streams pushed through: a piece of an engine's answer becomes frames for a client in the callback it came in.

No task, no queue and no future a piece. docs/adr/0014 says why, and on what it relies: a server's connection that
takes a piece of a body at once (``WRITE``), below every middleware. Where it does not, because the client reads slower
than we write, a task sends what waits by ASGI's ``send``, and meanwhile nothing is read from the engine.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.types import Send
from typing_extensions import override

from app.engines.connection import Answer
from app.errors import ServiceError
from app.guard.client_connection import Write
from app.shutdown import Shutdown
from app.streams.sse import PING, Event, StreamingAnswer, body, take_nothing


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

    def end(self) -> bytes:
        """Return the end of the stream, once the answer has been kept."""
        ...


Keep = Callable[[], Awaitable[None]]


class Relay:
    """Between one answer of an engine and one client. Frames wait until ``run`` is given the client.

    Args:
        answer: The engine's, its status checked.
        renderer: Makes the client's frames.
        ping: Seconds of silence before a comment line; None: the stream's form has no comments.
        keep: Keeps the answer once it is complete; the stream ends after that.
        lifetime: What it needs until its end.
    """

    def __init__(
        self,
        answer: Answer,
        renderer: Renderer,
        *,
        ping: float | None,
        keep: Keep | None = None,
        lifetime: contextlib.AsyncExitStack | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._renderer = renderer
        self._ping = ping
        self._keep = keep
        self._lifetime = lifetime
        self._send: Send | None = None
        self._write: Write = take_nothing
        self._waiting: list[bytes] = []
        self._sender: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
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
            await self.aclose()
            raise
        if self._error is not None and not self._renderer.begun:
            await self.aclose()
            raise self._error

    async def run(self, send: Send, write: Write = take_nothing) -> None:
        """Send everything to the client; return at the end, or raise what ended the stream.

        Args:
            send: ASGI's.
            write: What takes a piece at once, if the server has it.
        """
        while self._waiting:
            await self._send_waiting(send)
        self._send, self._write = send, write
        self._answer.resume()
        if self._ping is not None:
            self._timer = self._loop.call_later(self._ping, self._tick, self._ping)
        self._settle()
        try:
            await self._finished
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._send = None
            await _stop(self._sender)

    async def aclose(self) -> None:
        """End what is under way; the engine is told by the connection's end."""
        self._over = True
        self._answer.close()
        try:
            await _stop(self._keeper)
        finally:
            if self._lifetime is not None:
                await self._lifetime.aclose()

    # --- from the engine -------------------------------------------------------------------

    def _take(self, piece: bytes) -> None:
        renderer = self._renderer
        frames = renderer.feed(piece)
        if renderer.ended:
            self._take_last(frames)
        elif frames:
            self._put(frames)
            if renderer.begun and not self._begun.done():
                self._begun.set_result(None)

    def _take_end(self, error: ServiceError | None) -> None:
        if error is None:
            self._take_last(self._renderer.close())
        else:
            self._end(error)

    def _take_last(self, frames: bytes) -> None:
        """The engine's answer is over, one way or the other."""
        error, keep = self._renderer.error, self._keep
        if error is None and keep is None:
            frames += self._renderer.end()
        if frames:
            self._put(frames)
        if error is None:
            self._answer.finish()
        else:
            self._answer.close()
        if error is None and keep is not None:
            self._keeper = self._loop.create_task(self._keep_answer(keep), name="keep an answer")
        else:
            self._end(error)

    async def _keep_answer(self, keep: Keep) -> None:
        try:
            await keep()
        except Exception as error:  # noqa: BLE001 -- whoever runs the stream is told
            self._end(error)
        else:
            self._put(self._renderer.end())
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over, self._error = True, error
        if not self._begun.done():
            self._begun.set_result(None)
        self._settle()

    def _settle(self) -> None:
        """Finish once there is an end and everything before it has been sent."""
        if not self._over or self._send is None or self._sender is not None or self._finished.done():
            return
        if self._error is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(self._error)

    # --- to the client ---------------------------------------------------------------------

    def _put(self, frames: bytes) -> None:
        if self._send is not None and self._sender is None:
            self._wrote = self._loop.time()
            try:
                if self._write(frames):
                    return
            except Exception as error:  # noqa: BLE001 -- whoever runs the stream is told
                self._end(error)
                return
            self._sender = self._loop.create_task(self._send_all(self._send), name="slow client")
        self._waiting.append(frames)
        self._answer.pause()

    async def _send_all(self, send: Send) -> None:
        """Send what the client keeps waiting, and everything that came meanwhile; then read on."""
        try:
            while self._waiting:
                await self._send_waiting(send)
        except Exception as error:  # noqa: BLE001 -- whoever runs the stream is told
            self._error, self._over = error, True
        self._sender = None
        self._answer.resume()
        self._settle()

    async def _send_waiting(self, send: Send) -> None:
        frames, self._waiting = b"".join(self._waiting), []
        await send(body(frames))
        self._wrote = self._loop.time()

    def _tick(self, ping: float) -> None:
        """Write a comment after a silence. One timer a stream, looked at late, instead of one a piece."""
        due = self._wrote + ping - self._loop.time()
        if due <= 0 and self._sender is None:
            self._put(PING)
        self._timer = self._loop.call_later(due if due > 0 else ping, self._tick, ping)


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task])


class RelayedStream(StreamingAnswer):
    """As ``EventStream``, with a relay where that has a pump."""

    def __init__(
        self,
        relay: Relay,
        *,
        render_error: Callable[[BaseException], Event],
        shutdown: Shutdown,
        media_type: str | None = None,
    ) -> None:
        super().__init__(render_error=render_error, shutdown=shutdown, media_type=media_type)
        self._relay = relay

    @override
    async def aclose(self) -> None:
        await self._relay.aclose()

    @override
    async def pour(self, send: Send, write: Write) -> None:
        await self._relay.run(send, write)
