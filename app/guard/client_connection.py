"""One client's connection, bounded in time and size before there is a request: what uvicorn leaves open.

uvicorn waits for ever for the end of a request's head, reads heads of any length, and takes any number of connections.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.settings import Limits

ABORT = "langserve_vllm.abort"
"""ASGI extension: ends the connection without waiting for the reader."""
WRITE = "langserve_vllm.write"
"""ASGI extension: a ``Write``, once the answer's head was sent."""
ON_LEAVE = "langserve_vllm.on_leave"
"""ASGI extension: an ``OnLeave``."""
OnLeave = Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]]
"""Calls a listener if the caller closes the connection while the block runs; at once if that has happened."""
Write = Callable[[bytes], bool]
"""Sends a piece of the answer's body at once. False: it was not, and has to go by ``send``, which waits."""


def bounded(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the protocol class for uvicorn's ``http`` setting."""

    class Bounded(Connection):
        bounds = limits

    return Bounded


class Connection(HttpToolsProtocol):
    """uvicorn's, with a limit on the time and size of a request's head and on the number of connections."""

    bounds: Limits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._head_bytes = 0
        self._body_whole = True
        self._patience: asyncio.TimerHandle | None = None
        self._on_leave: set[Callable[[], None]] = set()
        self._lost = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._refuse(503, "too_many_connections", "Too many connections are open.")
            return
        self._wait_for_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it, and tell who works for it."""
        self._stop_waiting()
        super().connection_lost(exc)
        self._lost = True
        for listener in tuple(self._on_leave):
            listener()

    @override
    def data_received(self, data: bytes) -> None:
        """Read on, if that does not make the head too large."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.bounds.header_bytes:
                message = f"The request's line and headers are larger than {self.bounds.header_bytes} bytes."
                self._refuse(431, "too_large", message)

    @override
    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._body_whole = True, 0, False
        self._wait_for_head()

    @override
    def on_headers_complete(self) -> None:
        """The head is whole: from here on the guard watches."""
        self._in_head = False
        self._stop_waiting()
        extensions: dict[str, Any] = {ABORT: self.transport.abort, ON_LEAVE: self._telling}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        extensions[WRITE] = self._writer(self.cycle)  # the request's task has not run yet

    @contextlib.contextmanager
    def _telling(self, listener: Callable[[], None]) -> Generator[None]:
        """See ``OnLeave``. It reads on, as uvicorn's ``receive`` does: an end is seen by reading alone."""
        self._on_leave.add(listener)
        try:
            if self._lost:
                listener()
            else:
                self.flow.resume_reading()
            yield
        finally:
            self._on_leave.discard(listener)

    def _writer(self, cycle: RequestResponseCycle) -> Write:
        """Return the way of one answer's pieces: as uvicorn's ``send``, at once, or not where the reader is slow."""
        flow, send = self.flow, self.transport.write

        def write(body: bytes) -> bool:
            if flow.write_paused or not cycle.chunked_encoding:
                return False
            if not cycle.disconnected:
                send(b"%x\r\n%b\r\n" % (len(body), body))
            return True

        return write

    @override
    def on_message_complete(self) -> None:
        """The body is whole."""
        self._body_whole = True
        super().on_message_complete()

    @override
    def on_response_complete(self) -> None:
        """Answered, maybe before the body had come: then the rest has to come soon."""
        super().on_response_complete()
        if not self._body_whole and not self.transport.is_closing():
            self._stop_waiting()
            self._patience = self.loop.call_later(self.bounds.header_seconds, self.transport.close)

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self.bounds.header_seconds, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _lose_patience(self) -> None:
        if self._head_bytes:
            message = f"The request's head did not arrive within {self.bounds.header_seconds:g} s."
            self._refuse(408, "too_slow", message)
        else:
            self.transport.close()

    def _refuse(self, status: int, kind: str, message: str) -> None:
        """Answer without a request, and close."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if not self.cycle or self.cycle.response_complete:  # else bytes would land in the middle of an answer
            error = {"type": kind, "message": message, "hint": None, "param": None}
            body = json.dumps({"error": error, "message": message}).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
