"""The app as a process of its own: how it starts, how clients leave it, how it stops."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.surroundings import ROOT, environment
from vllm_launcher.control import ControlServer
from vllm_launcher.status import LauncherStatus, ServerStatus

DEADLINE = 60.0
"""Seconds for any single step: importing LangChain on a busy machine is the longest."""
QUESTION = {"input": {"messages": [{"role": "user", "content": "Hi"}]}}
MODELS = {
    "models": [{"id": "tiny", "source": {"type": "path", "path": "checkpoint"}, "chain": {"package": "smollm2_chat"}}]
}

# --- what stands around it -------------------------------------------------------------------


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
async def running(folder: Path, **settings: str) -> AsyncGenerator[App]:
    """Run the app on a free port; kill it at the end, whatever happened."""
    port = free_port()
    process = await start(folder, port, **settings)
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


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def ready_app(folder: Path, engine: EndlessEngine, **settings: str) -> AsyncGenerator[App]:
    """Run the app with a ready model in front of ``engine``."""
    async with engine.serve() as endpoint:
        server = ServerStatus(model="tiny", state="ready", served_name="tiny", endpoint=endpoint, pid=os.getpid())
        async with (
            ControlServer(StillLauncher(server), folder / "control.sock", heartbeat=0.2),
            running(folder, **settings) as app,
        ):
            await app.until_ready()
            yield app


# --- starting --------------------------------------------------------------------------------


async def test_a_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    """With the exit status that says: starting it again changes nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        process = await start(tmp_path, port)
        async with asyncio.timeout(DEADLINE):
            _, errors = await process.communicate()
    assert process.returncode == 3
    (line,) = errors.decode().splitlines()
    assert f"port {port} of 127.0.0.1 is taken" in line


@pytest.mark.parametrize(
    "models",
    [
        {"models": [{"id": "Not An Id"}]},
        {"models": [{**MODELS["models"][0], "chain": {"package": "no_such_package"}}]},
    ],
)
async def test_a_wrong_registry_is_told_without_a_stack_trace(tmp_path: Path, models: Any) -> None:
    """A person reads it."""
    process = await start(tmp_path, free_port(), models)
    async with asyncio.timeout(DEADLINE):
        _, errors = await process.communicate()
    assert process.returncode == 3
    assert "cannot start" in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_the_app_answers_before_there_is_a_launcher_and_finds_it_later(tmp_path: Path) -> None:
    """It is started first; who looks sees that it lives, and that nothing is reachable yet."""
    async with running(tmp_path) as app:
        assert await app.get("/health") == {"status": "ok"}
        assert (await app.get("/models"))[0]["state"] == "unreachable"
        server = ServerStatus(model="tiny", state="ready", served_name="tiny", endpoint="http://127.0.0.1:9", pid=1)
        async with ControlServer(StillLauncher(server), tmp_path / "control.sock"):
            await app.until_ready()


# --- leaving ---------------------------------------------------------------------------------


async def test_a_client_that_leaves_frees_the_engine(tmp_path: Path) -> None:
    """Over real connections: the app hangs up on the engine within a second, whatever was asked."""
    engine = EndlessEngine()
    async with ready_app(tmp_path, engine) as app:
        for route in ("invoke", "stream", "stream_log", "stream_events"):
            engine.forget()
            asking = asyncio.create_task(read(app, route))
            async with asyncio.timeout(DEADLINE):
                await engine.asked.wait()
            asking.cancel()
            await asyncio.wait([asking])
            async with asyncio.timeout(1):
                await engine.left.wait()


async def test_a_client_that_does_not_read_and_leaves_frees_the_engine(tmp_path: Path) -> None:
    """It is slower than the engine, so pieces wait for it when it goes."""
    engine = EndlessEngine()
    async with ready_app(tmp_path, engine) as app:
        response = await app.session.post(f"{app.url}/tiny/stream", json=QUESTION)
        response.close()
        async with asyncio.timeout(1):
            await engine.left.wait()


async def read(app: App, route: str) -> str:
    """Ask, and return the whole answer."""
    async with app.session.post(f"{app.url}/tiny/{route}", json=QUESTION) as response:
        return await response.text()


# --- stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
async def test_what_is_under_way_ends_in_a_named_error_when_the_app_stops(tmp_path: Path, way: signal.Signals) -> None:
    """A stream is not cut, an answer is not dropped, and the process ends by itself."""
    engine = EndlessEngine()
    async with ready_app(tmp_path, engine, LANGSERVE_VLLM_DRAIN="0.2") as app:
        stream = await app.session.post(f"{app.url}/tiny/stream", json=QUESTION)
        await stream.content.readuntil(b"word")
        answer = asyncio.create_task(app.session.post(f"{app.url}/tiny/invoke", json=QUESTION))
        states = await app.session.get(f"{app.url}/models/events")
        await states.content.readuntil(b"tiny")
        app.process.send_signal(way)
        assert '"type": "shutting_down"' in (await stream.text()).rsplit("event: error", 1)[1]
        assert "event: end" in await states.text()
        assert (await answer).status == 503
        async with asyncio.timeout(DEADLINE):
            code = await app.process.wait()
    assert code in (0, -way)
