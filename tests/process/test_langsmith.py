"""LangSmith is told of runs where its variables are set: by LangChain itself, and of nothing where they are not."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from aiohttp import web

from tests.process.app_process import DEADLINE, EndlessEngine, ready_app
from tests.process.test_session_survival import Engine as CountingEngine


class Engine(EndlessEngine):
    """Answers whole questions."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Say how many messages came."""
        return await CountingEngine().answer(request)


class LangSmith:
    """Takes what LangSmith takes, and keeps it."""

    def __init__(self) -> None:
        self.told = b""
        self.changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Listen on a free port; yields the URL."""

        async def take(request: web.Request) -> web.Response:
            self.told += await request.read()
            self.changed.set()
            return web.json_response({})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def test_a_run_is_traced_to_langsmith(tmp_path: Path) -> None:
    """The chain and its chat model."""
    langsmith = LangSmith()
    async with langsmith.serve() as url:
        told = {"LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": url, "LANGSMITH_API_KEY": "k"}
        told |= {"LANGSMITH_TRACING_SAMPLING_RATE": "1", "LANGSMITH_DISABLE_RUN_COMPRESSION": "true"}
        async with ready_app(tmp_path, Engine(), **told) as app, asyncio.timeout(DEADLINE):
            question = {"input": "Hi"}
            async with app.session.post(f"{app.url}/tiny/invoke", json=question) as response:
                assert (await response.json())["output"]["content"] == "2 messages"
            while b"ChatVLLM" not in langsmith.told:
                langsmith.changed.clear()
                await langsmith.changed.wait()
