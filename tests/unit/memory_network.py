"""Connections without a network.

What the app writes becomes a request of a scripted engine; the answer comes back as bytes, in pieces of a chosen size.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import httptools
import httpx2

from app.engines.connection import Connections


class MemoryNetwork:
    """``app.engines.connection.Connect`` for an engine.

    Args:
        engine: Answers.
        cut: Bytes of a piece; 0: pieces as the engine makes them.
    """

    def __init__(self, engine: httpx2.AsyncBaseTransport, *, cut: int = 0) -> None:
        self.engine = engine
        self.cut = cut
        self.refuse = 0
        """Connections that are refused before the next one is taken."""
        self.opened: list[MemoryTransport] = []

    async def __call__(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        ssl: ssl.SSLContext | None,  # noqa: ARG002
    ) -> tuple[Any, Any]:
        """Connect."""
        if self.refuse:
            self.refuse -= 1
            raise ConnectionRefusedError
        protocol = protocol_factory()
        transport = MemoryTransport(self, protocol, f"http://{host}:{port}")
        self.opened.append(transport)
        protocol.connection_made(transport)
        return transport, protocol

    def connections(self, limit: int = 100) -> Connections:
        """Return connections that take this way."""
        return Connections(limit, connect_within=5, silence=600, connect=self)


class MemoryTransport(asyncio.Transport):
    """One connection. Reading can be paused: the engine waits."""

    def __init__(self, network: MemoryNetwork, protocol: asyncio.Protocol, address: str) -> None:
        super().__init__()
        self._network = network
        self._protocol: Any = protocol
        self._address = address
        self._parser = httptools.HttpRequestParser(self)
        self._path = ""
        self._body = b""
        self._closed = False
        self._readable = asyncio.Event()
        self._readable.set()
        self._task: asyncio.Task[None] | None = None

    # --- asyncio.Transport -----------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Bytes of a request."""
        self._parser.feed_data(data)

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def pause_reading(self) -> None:
        """Let the engine wait."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Let it go on."""
        self._readable.set()

    def close(self) -> None:
        """End it."""
        self.abort()

    def abort(self) -> None:
        """End it."""
        if not self._closed:
            self._closed = True
            if self._task is not None:
                self._task.cancel()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    # --- for tests ---------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        """Whether the app reads."""
        return self._readable.is_set()

    def deliver(self, piece: bytes, *, last: bool = False) -> None:
        """Bring a piece of the answer's body now, as one read does; with its end, where it is the last."""
        self._protocol.data_received(b"%x\r\n%b\r\n" % (len(piece), piece) + (b"0\r\n\r\n" if last else b""))

    # --- httptools' callbacks --------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """The request's path."""
        self._path, self._body = url.decode(), b""

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """It is whole."""
        request = httpx2.Request("POST", f"{self._address}{self._path}", content=self._body)
        self._task = asyncio.create_task(self._answer(request))

    async def _answer(self, request: httpx2.Request) -> None:
        try:
            response = await self._network.engine.handle_async_request(request)
            await self._send_head(response)
            try:
                async for piece in cast("httpx2.AsyncByteStream", response.stream):
                    await self._send(b"%x\r\n%b\r\n" % (len(piece), piece))
            finally:
                await response.aclose()
            await self._send(b"0\r\n\r\n")
        except httpx2.ReadTimeout:
            answer = self._protocol._answer
            answer._silence = 0.0  # its time without a word is over
            answer._check_silence()
        except httpx2.HTTPError:
            self.abort()
        except Exception:
            self.abort()
            raise

    async def _send_head(self, response: httpx2.Response) -> None:
        kind = response.headers["content-type"]
        head = f"HTTP/1.1 {response.status_code} X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        await self._send(head.encode())

    async def _send(self, data: bytes) -> None:
        size = self._network.cut or len(data)
        for start in range(0, len(data), size):
            await self._readable.wait()
            self._protocol.data_received(data[start : start + size])
