"""The app as a process of its own: how it starts, how clients leave it, how it stops."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.process.app_process import (
    DEADLINE,
    MODELS,
    QUESTION,
    App,
    EndlessEngine,
    StillLauncher,
    free_port,
    ready_app,
    running,
    start,
)
from vllm_launcher.control import ControlServer
from vllm_launcher.status import ServerStatus

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
