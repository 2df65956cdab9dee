"""An engine that dies in mid-stream, however its kernel says so: the client is told, and never gets half an answer."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncGenerator
from itertools import product
from pathlib import Path
from typing import Any

from typing_extensions import override

from tests.process.app_process import QUESTION, EndlessEngine, ready_app

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHOICE = {"index": 0, "delta": {"content": "word"}, "finish_reason": None}
CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [CHOICE]}
EVENT = f"data: {json.dumps(CHUNK)}\n\n".encode()
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
ROUTES: dict[str, dict[str, Any]] = {
    "/tiny/stream": QUESTION,
    "/tiny/stream_events": QUESTION,
    "/v1/chat/completions": CHAT,
}
"""Pushed through, through LangChain's own machinery, and passed on as it is."""


WAYS = ("ends", "closes", "resets")
"""The body without a last word, FIN, and RST."""


class DyingEngine(EndlessEngine):
    """Says one word and is gone, in its ``way``."""

    way = "ends"

    @override
    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            await reader.readexactly(int(length))
            last = b"0\r\n\r\n" if self.way == "ends" else b""
            writer.write(HEAD + b"%x\r\n%s\r\n" % (len(EVENT), EVENT) + last)
            await writer.drain()
            if self.way == "resets":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


async def test_a_stream_that_its_engine_tears_ends_in_a_named_error(tmp_path: Path) -> None:
    """Pushed through, through LangChain or passed on: an error with a name, and not the end of a whole answer."""
    engine = DyingEngine()
    async with ready_app(tmp_path, engine) as app:
        for engine.way, (route, question) in product(WAYS, ROUTES.items()):
            async with app.session.post(app.url + route, json=question) as response:
                told = await response.text()
            assert "engine_died" in told, (engine.way, route, response.status, told)
            assert "event: end" not in told, (engine.way, route)
            assert '"finish_reason":"stop"' not in told, (engine.way, route)
