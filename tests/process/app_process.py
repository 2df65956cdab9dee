"""The app as a process of its own, with an engine and a launcher that stand still or go on for ever."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.product import free_port
from tests.surroundings import ROOT, environment
from vllm_launcher.control import ControlServer
from vllm_launcher.status import LauncherStatus, ServerStatus

DEADLINE = 60.0
"""Seconds for any single step: importing LangChain on a busy machine is the longest."""
QUESTION = {"input": {"messages": [{"role": "user", "content": "Hi"}]}}
MODELS = {
    "models": [{"id": "tiny", "source": {"type": "path", "path": "checkpoint"}, "chain": {"package": "smollm2_chat"}}]
}


class EndlessEngine:
    """Streams a word every few milliseconds until its client leaves; answers a whole question never."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Take the next request for the first."""
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Go on until nobody listens."""
        body = await request.json()
        left = self.left
        self.asked.set()
        try:
            if not body.get("stream"):
                await asyncio.Event().wait()
            return await self._stream(request)
        finally:
            left.set()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}
        while True:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0.005)  # the pace of an engine

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Listen on a free port; yields the URL."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@dataclass
class StillLauncher:
    """Says for ever that one server is ready."""

    server: ServerStatus

    def status(self) -> LauncherStatus:
        """Return what it says."""
        return LauncherStatus(version="0", pid=1, started_at=0.0, servers=(self.server,))

    async def events(self, heartbeat: float | None = None) -> AsyncIterator[LauncherStatus]:
        """Say it again and again."""
        while True:
            yield self.status()
            await asyncio.sleep(heartbeat or 1)

    def ensure_ready(self, model: str, *, retry: bool = False) -> ServerStatus:
        """It is."""
        _ = model, retry
        return self.server

    async def unload(self, model: str) -> ServerStatus:
        """It stays."""
        _ = model
        return self.server

    async def restart(self, model: str) -> ServerStatus:
        """It stays."""
        _ = model
        return self.server


@dataclass
class App:
    """One running app, and what is asked of it."""

    process: asyncio.subprocess.Process
    url: str
    session: aiohttp.ClientSession
    said: list[str] = field(default_factory=list[str])

    async def get(self, path: str) -> Any:
        """Return a JSON answer."""
        async with self.session.get(self.url + path) as response:
            return await response.json()

    async def until_ready(self) -> None:
        """Wait until its model is ready, by the events that the home page follows."""
        async with asyncio.timeout(DEADLINE), self.session.get(f"{self.url}/models/events") as response:
            async for line in response.content:
                if b'"state": "ready"' in line:
                    return
        raise AssertionError("the events ended before the model was ready")


@contextlib.asynccontextmanager
async def running(folder: Path, models: Any = MODELS, **settings: str) -> AsyncGenerator[App]:
    """Run the app on a free port; kill it at the end, whatever happened."""
    port = free_port()
    process = await start(folder, port, models, **settings)
    timeout = aiohttp.ClientTimeout(total=DEADLINE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            await until_listening(port, process)
            yield App(process, f"http://127.0.0.1:{port}", session)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def start(folder: Path, port: int, models: Any = MODELS, **settings: str) -> asyncio.subprocess.Process:
    """Start the app with a registry in ``folder``."""
    (folder / "checkpoint").mkdir(exist_ok=True)
    (folder / "models.json").write_text(json.dumps(models))
    told = {
        "LANGSERVE_VLLM_MODELS": str(folder / "models.json"),
        "LANGSERVE_VLLM_CONTROL": str(folder / "control.sock"),
        "LANGSERVE_VLLM_PORT": str(port),
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", cwd=ROOT, env=environment(**told), stderr=asyncio.subprocess.PIPE
    )


async def until_listening(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the port takes connections."""
    async with asyncio.timeout(DEADLINE):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
    raise AssertionError(f"the app ended with {process.returncode}")


@contextlib.asynccontextmanager
async def ready_app(folder: Path, engine: EndlessEngine, models: Any = MODELS, **settings: str) -> AsyncGenerator[App]:
    """Run the app with a ready model in front of ``engine``."""
    async with engine.serve() as endpoint:
        server = ServerStatus(model="tiny", state="ready", served_name="tiny", endpoint=endpoint, pid=os.getpid())
        async with (
            ControlServer(StillLauncher(server), folder / "control.sock", heartbeat=0.2),
            running(folder, models, **settings) as app,
        ):
            await app.until_ready()
            yield app
