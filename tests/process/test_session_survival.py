"""A conversation goes on after whatever is killed: an app in the middle of an answer, the engine, the launcher."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from aiohttp import web

from tests.product import Product, start

pytestmark = pytest.mark.timeout(240)
SESSION = {"configurable": {"session_id": "s1"}}
STARTED_WITHIN = 90.0


class Engine:
    """Answers as vLLM does with how many messages it was asked with. Asked for "more" it never ends its answer."""

    def __init__(self) -> None:
        self.streaming: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One piece, and the end, if there is one."""
        body = await request.json()
        said = f"{len(body['messages'])} messages"
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            return web.json_response({"id": "1", "model": "tiny", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self._send(response, said, None)
        if body["messages"][-1]["content"] == "more":
            self.streaming.append(request)
            await asyncio.Event().wait()
        await self._send(response, "", "stop")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, text: str, finish: str | None) -> None:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    def die(self) -> None:
        """Cut every answer that is under way, as a killed process does."""
        for request in self.streaming:
            if request.transport is not None:
                request.transport.abort()
        self.streaming.clear()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Listen on a free port; yields the URL."""

        async def well(_request: web.Request) -> web.Response:
            return web.Response(text="")

        async def models(_request: web.Request) -> web.Response:
            return web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

        async def tokens(request: web.Request) -> web.Response:
            return web.json_response({"count": len((await request.json())["messages"]), "max_model_len": 1000})

        app = web.Application()
        app.router.add_get("/health", well)
        app.router.add_get("/metrics", well)
        app.router.add_get("/v1/models", models)
        app.router.add_post("/tokenize", tokens)
        app.router.add_post("/v1/chat/completions", self.answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def say(product: Product, text: str) -> str:
    """Say something in the session; return the answer."""
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.post(f"{product.url}/tiny/invoke", json={"input": text, "config": SESSION})
    assert response.status_code == 200, response.text
    return response.json()["output"]["content"]


@contextlib.asynccontextmanager
async def half_an_answer(product: Product) -> AsyncGenerator[AsyncIterator[str]]:
    """The rest of a stream of which the first piece has come."""
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", f"{product.url}/tiny/stream", json={"input": "more", "config": SESSION}) as response,
    ):
        pieces, read = response.aiter_text(), ""
        while "messages" not in read:
            read += await anext(pieces)
        yield pieces


async def stored(product: Product) -> list[str]:
    """What is kept of the session."""
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.get(f"{product.url}/sessions/tiny/s1")
    return [message["content"] for message in response.json()["messages"]]


def app_of(product: Product) -> psutil.Process:
    """The app's process."""
    (app,) = [each for each in product.family() if each.cmdline()[1:] == ["-m", "app"]]
    return app


def begin(folder: Path, engine: str, database: str) -> Product:
    """A product in front of the engine, in a run directory that stays."""
    entry: dict[str, Any] = {
        "id": "tiny",
        "engine": {"type": "external", "url": f"{engine}/v1"},
        "chain": {"package": "smollm2_chat", "system_prompt": "Be brief."},
    }
    models = folder / "models.json"
    models.write_text(json.dumps({"models": [entry]}))
    env = {"LANGSERVE_VLLM_SESSIONS_URL": database}
    return start(folder / "run", folder / "log" / "product.log", models=models, env=env)


async def test_a_conversation_goes_on_after_whatever_is_killed(tmp_path: Path, database: str) -> None:
    """Whole turns stay, the half one leaves nothing, and the next request is answered with all that was said."""
    engine = Engine()
    async with engine.serve() as url:
        product = begin(tmp_path, url, database)
        try:
            await asyncio.to_thread(product.wait_ready, STARTED_WITHIN)
            assert await say(product, "one") == "2 messages"

            async with half_an_answer(product) as rest:
                engine.die()
                assert "event: error" in "".join([piece async for piece in rest])
            assert await say(product, "two") == "4 messages"

            async with half_an_answer(product):
                product.family()
                product.process.send_signal(signal.SIGKILL)
            assert await asyncio.to_thread(lambda: product.leftovers(within=30)) == []
            product = begin(tmp_path, url, database)
            await asyncio.to_thread(product.wait_ready, STARTED_WITHIN)
            assert await say(product, "three") == "6 messages"

            app = app_of(product)
            async with half_an_answer(product) as rest:
                app.kill()
                with contextlib.suppress(httpx.TransportError):
                    assert "event: end" not in "".join([piece async for piece in rest])
            await asyncio.to_thread(app.wait, 10)
            await asyncio.to_thread(product.wait_ready, STARTED_WITHIN)
            assert await say(product, "four") == "8 messages"
            assert [text for text in await stored(product) if "messages" not in text] == ["one", "two", "three", "four"]
        finally:
            left = await asyncio.to_thread(product.stop)
        assert left == []
