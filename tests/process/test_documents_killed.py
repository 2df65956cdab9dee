"""The app is killed while it ingests what it was sent over REST: it answers, and the next process goes on."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.process.app_process import DEADLINE, App, StillLauncher, running
from vllm_launcher.control import ControlServer
from vllm_launcher.status import ServerStatus

EMBEDDER = "embedder"
MODELS = {"models": [{"id": EMBEDDER, "task": "embedding", "source": {"type": "path", "path": "checkpoint"}}]}
BATCH = 32
WHOLE = 4 * BATCH
TEXT = "".join(f"## Section {number}\nThis is about widget{number}.\n" for number in range(WHOLE))


class Embedder:
    """Embeds questions at once, and of documents as many batches as it is allowed to; counts the passages."""

    def __init__(self) -> None:
        self.allowed = asyncio.Semaphore(2)
        self.embedded: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Embed texts."""
        given: str | list[str] = (await request.json())["input"]
        texts = [given] if isinstance(given, str) else given
        if len(texts) > 1:
            await self.allowed.acquire()
            self.embedded += texts
        vectors = [[1.0 + text.count(letter) for letter in "0123456789abcdef"] for text in texts]
        data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "model": EMBEDDER, "data": data, "usage": usage})

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Listen on a free port; yields the URL."""
        app = web.Application()
        app.router.add_post("/v1/embeddings", self.answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def follow(app: App, until: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """Follow the jobs of the collection until one is as wanted, or all have ended; the last that was told."""
    job: dict[str, Any] = {}
    async with app.session.get(f"{app.url}/documents/docs/jobs") as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                job = json.loads(line.removeprefix(b"data: "))
                if until is not None and until(job):
                    break
    return job


async def find(app: App, query: str) -> str:
    """The best passage."""
    body = {"query": query, "limit": 1, "by": "words"}
    async with app.session.post(f"{app.url}/documents/docs/search", json=body) as response:
        assert response.status == 200, await response.text()
        return (await response.json())["passages"][0]["text"]


async def test_a_killed_app_goes_on_with_what_it_was_sent(tmp_path: Path) -> None:
    """SIGKILL in the middle: what is in is found while the next process waits, and is not embedded again."""
    embedder, told = Embedder(), {"LANGSERVE_VLLM_DATA": str(tmp_path / "data")}
    async with asyncio.timeout(2 * DEADLINE), embedder.serve() as endpoint:
        server = ServerStatus(model=EMBEDDER, state="ready", served_name=EMBEDDER, endpoint=endpoint, pid=os.getpid())
        async with ControlServer(StillLauncher(server), tmp_path / "control.sock", heartbeat=0.2):
            async with running(tmp_path, MODELS, **told) as app:
                body = {"documents": [{"source": name, "text": TEXT} for name in ("first.md", "second.md")]}
                async with app.session.post(f"{app.url}/documents/docs", json=body) as response:
                    assert response.status == 202, await response.text()
                await follow(app, lambda job: job["done"] == 2 * BATCH)
                app.process.send_signal(signal.SIGKILL)
                assert await app.process.wait() == -signal.SIGKILL
            async with running(tmp_path, MODELS, **told) as app:
                await follow(app, lambda job: job["state"] == "embedding")
                assert await find(app, "widget7") == "This is about widget7."
                assert (await app.get("/documents/docs"))["documents"] == []
                for _ in range(WHOLE):
                    embedder.allowed.release()
                assert (await follow(app))["state"] == "done"
                listed = (await app.get("/documents/docs"))["documents"]
                assert [(each["source"], each["passages"]) for each in listed] == [
                    ("first.md", WHOLE),
                    ("second.md", WHOLE),
                ]
    once = [text for text in embedder.embedded if embedder.embedded.count(text) == 2]  # one for each document
    assert len(once) == len(embedder.embedded) == 2 * WHOLE
