"""Tokens of the real engine on their way through the app: one after the other, all of them, as long as wanted."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any, NamedTuple

import httpx
import pytest

from tests.processes import eventually
from tests.vllm.sse import events

STORY = "Tell me a story about a lighthouse."
FREED_WITHIN = 5.0
"""Seconds in which the engine lets go of a request whose client left; computing it to the end takes far longer."""


class Chunk(NamedTuple):
    """One piece of an answer, and when it came."""

    at: float
    content: str


def body(question: str = STORY, *, max_tokens: int = 64) -> dict[str, Any]:
    """A request at temperature 0."""
    return {"input": question, "config": {"configurable": {"temperature": 0, "max_tokens": max_tokens}}}


async def stream(client: httpx.AsyncClient, request: dict[str, Any]) -> list[Chunk]:
    """Every chunk of a stream; an error event fails the test."""
    chunks: list[Chunk] = []
    async with client.stream("POST", "/stream", json=request) as response:
        assert response.status_code == 200, await response.aread()
        async for name, data in events(response):
            assert name != "error", data
            if name == "data":
                chunks.append(Chunk(time.monotonic(), data["content"]))
    return chunks


async def invoke(client: httpx.AsyncClient, request: dict[str, Any]) -> str:
    """The text of one answer."""
    response = await client.post("/invoke", json=request)
    assert response.status_code == 200, response.text
    return response.json()["output"]["content"]


async def test_the_capital_of_france_is_paris(smollm2: httpx.AsyncClient) -> None:
    """A real model answers, at temperature 0."""
    assert "Paris" in await invoke(smollm2, body("Name the capital of France."))


async def test_tokens_arrive_one_after_the_other_over_time(smollm2: httpx.AsyncClient) -> None:
    """Nothing between the engine and the client collects them: they spread over the time that computing them takes."""
    started = time.monotonic()
    chunks = [chunk for chunk in await stream(smollm2, body()) if chunk.content]
    taken = chunks[-1].at - started
    gaps = [later.at - earlier.at for earlier, later in pairwise(chunks)]
    assert len(chunks) > 40, "tokens were joined"
    assert sum(gaps) > taken / 2, "the first one came late: everything was held back"
    assert max(gaps) < taken / 2, "most of them came in one burst"
    assert sum(gap > 0.002 for gap in gaps) > len(gaps) / 2, "they came in bursts"


async def test_a_stream_sums_to_the_invoke(smollm2: httpx.AsyncClient) -> None:
    """No chunk is lost or doubled: at temperature 0 the pieces are the whole."""
    pieces = await stream(smollm2, body())
    assert "".join(piece.content for piece in pieces) == await invoke(smollm2, body())


async def test_streams_at_once_do_not_mix(smollm2: httpx.AsyncClient) -> None:
    """Each of eight streams gets its own answer, while the others run."""
    cities = {"France": "Paris", "Japan": "Tokyo"}
    questions = [f"Name the capital of {country}." for country in cities] * 4
    answers = await asyncio.gather(*(stream(smollm2, body(question, max_tokens=24)) for question in questions))
    texts = ["".join(chunk.content for chunk in chunks) for chunks in answers]
    for country, text in zip([*cities] * 4, texts, strict=True):
        assert country in text or cities[country] in text
        assert not any(city in text for other, city in cities.items() if other != country)


Ask = Callable[[httpx.AsyncClient, dict[str, Any]], Coroutine[Any, Any, None]]


async def ask_stream(client: httpx.AsyncClient, request: dict[str, Any]) -> None:
    """Read an answer in pieces until told to stop."""
    async with client.stream("POST", "/stream", json=request) as response:
        async for _ in events(response):
            pass


async def ask_invoke(client: httpx.AsyncClient, request: dict[str, Any]) -> None:
    """Wait for an answer in one piece until told to stop."""
    await client.post("/invoke", json=request)


async def ask_batch(client: httpx.AsyncClient, request: dict[str, Any]) -> None:
    """Wait for three answers until told to stop."""
    await client.post("/batch", json={"inputs": [request["input"]] * 3, "config": request["config"]})


@pytest.mark.parametrize("ask", [ask_stream, ask_invoke, ask_batch])
async def test_a_client_that_leaves_frees_its_request_in_the_engine(product: Any, ask: Ask) -> None:
    """The connection closes while the engine computes: its metrics show no running request soon after."""

    async def running() -> float:
        metrics = await asyncio.to_thread(product.metrics)
        return metrics["vllm:num_requests_running"] + metrics["vllm:num_requests_waiting"]

    await eventually(running, lambda count: count == 0, within=60)
    async with httpx.AsyncClient(base_url=f"{product.url}/smollm2", timeout=120) as client:
        caller = asyncio.create_task(ask(client, endless()))
        await eventually(running, lambda count: count > 0, within=30)
        caller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await caller
    before = (await asyncio.to_thread(product.metrics))["vllm:generation_tokens_total"]
    await eventually(running, lambda count: count == 0, within=FREED_WITHIN)
    after = (await asyncio.to_thread(product.metrics))["vllm:generation_tokens_total"]
    assert after - before < 400, "it was computed to the end"


def endless() -> dict[str, Any]:
    """A request that takes the engine far longer than ``FREED_WITHIN``.

    The penalty rewards every token for each time it was there, so the text turns in a circle and never ends.
    """
    request = body(max_tokens=1500)
    request["config"]["configurable"]["frequency_penalty"] = -2
    return request
