"""Fifty bad images at once, at a real app: each gets its sentence, and the app's memory stays bounded."""

import asyncio
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.process.app_process import (
    DEADLINE,
    App,
    EndlessEngine,
    StillLauncher,
    free_port,
    start,
    until_listening,
)
from tests.unit.corpus import BAD, encoded, image_url, uri
from vllm_launcher.control import ControlServer
from vllm_launcher.status import ServerStatus

pytestmark = pytest.mark.timeout(180)
MODELS = {
    "models": [
        {
            "id": "tiny",
            "task": "vision-chat",
            "source": {"type": "path", "path": "checkpoint"},
            "chain": {"package": "glm4v_chat"},
            "limits": {"max_images": 2},
        }
    ]
}
MANY = 50
GROWTH = 450 << 20
"""Bytes: two large pictures at work, 96 MB each with what they are made of, eight bodies with their texts, and some."""


def corpus() -> list[bytes]:
    """Bad images of every kind; some of them large and broken at the very end, so that all of each is decoded."""
    broken = encoded(Image.new("RGB", (5000, 5000)), "PNG")[:-3000]
    noise = encoded(Image.effect_noise((1500, 1500), 90).convert("RGB"), "PNG", compress_level=1)[:-3000]
    return [*BAD.values(), broken, noise, broken, noise]


async def ask(app: App, image: bytes) -> tuple[int, Any, float]:
    """Status, error and seconds of one request."""
    body = {"input": {"messages": [{"role": "user", "content": [image_url(uri(image))]}]}}
    begun = time.perf_counter()
    data, kind = io.BytesIO(json.dumps(body).encode()), {"Content-Type": "application/json"}
    async with app.session.post(f"{app.url}/tiny/invoke", data=data, headers=kind) as response:
        answer = await response.json()
    return response.status, answer["error"], time.perf_counter() - begun


async def announce(app: App, length: int) -> bytes:
    """The first line that answers a body of this length, none of which has been sent."""
    host, _, port = app.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /tiny/invoke HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}"
    writer.write(f"{head}\r\n\r\n".encode())
    async with asyncio.timeout(1):
        line = await reader.readline()
    writer.close()
    return line


def peak(pid: int) -> int:
    """The most memory a process has had, in bytes."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


async def test_fifty_bad_images_at_once_take_bounded_memory_and_never_reach_the_engine(tmp_path: Path) -> None:
    """And a body of 200 MB is refused by the length it announces."""
    engine, port = EndlessEngine(), free_port()
    async with engine.serve() as endpoint:
        server = ServerStatus(model="tiny", state="ready", served_name="tiny", endpoint=endpoint, pid=os.getpid())
        async with ControlServer(StillLauncher(server), tmp_path / "control.sock", heartbeat=0.2):
            process = await start(tmp_path, port, MODELS)
            timeout = aiohttp.ClientTimeout(total=DEADLINE)
            connector = aiohttp.TCPConnector(limit=MANY)
            async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
                try:
                    await until_listening(port, process)
                    app = App(process, f"http://127.0.0.1:{port}", session)
                    await app.until_ready()
                    await hold(app)
                finally:
                    process.kill()
                    await process.wait()
    assert not engine.asked.is_set()


async def hold(app: App) -> None:
    """Ask it all, and look at it meanwhile."""
    images = corpus()
    await ask(app, BAD["text"])  # the first request imports what the others share
    before = peak(app.process.pid)
    answers = await asyncio.gather(*(ask(app, images[number % len(images)]) for number in range(MANY)))
    for status, error, _ in answers:
        assert status in (413, 422), error
        assert error["message"].endswith(".")
    assert peak(app.process.pid) - before < GROWTH, peak(app.process.pid) - before
    assert b"413" in await announce(app, 200 << 20)
    for image in BAD.values():
        status, error, seconds = await ask(app, image)
        assert status in (413, 422)
        assert seconds < 1
