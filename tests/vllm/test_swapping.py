"""Two real models that may not be loaded together take turns, while clients ask both at the same time.

A product of its own, started while the session's goes on: it has memory for either model and not for both.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import cycle, groupby

import httpx
import psutil
import pytest

from tests.product import Product, only, started
from tests.surroundings import ARTIFACTS, running_product
from tests.vllm.sse import events
from vllm_launcher.control_client import ControlClient
from vllm_launcher.processes.run_directory import control_socket

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(running_product() is not None, reason="it starts servers of its own"),
]

MEMORY = "3GiB"
"""The chat model takes 2.6 GiB, the embedding model 1.6 GiB."""
CLIENTS = 4
"""That ask each model at the same time."""
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome"}
WAIT = 240.0
"""Seconds for an answer: two loads on a busy machine."""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Launcher and app alone: nothing is loaded before somebody asks."""
    folder = tmp_path_factory.mktemp("swapping")
    models = only(folder, "smollm2", "minilm", load="on-demand")
    env = {"LANGSERVE_VLLM_MEMORY": MEMORY}
    with started(folder / "run", ARTIFACTS / "swapping.log", models=models, env=env) as own:
        own.wait_ready()
        yield own


async def chat(product: Product, country: str) -> tuple[str, float]:
    """One streamed answer, and the seconds to its first token; raises where its end is not a whole one's."""
    asked, first = time.monotonic(), 0.0
    request = {
        "input": f"Name the capital of {country}.",
        "config": {"configurable": {"temperature": 0, "max_tokens": 24}},
    }
    words: list[str] = []
    async with (
        httpx.AsyncClient(base_url=product.url, timeout=WAIT) as client,
        client.stream("POST", "/smollm2/stream", json=request) as response,
    ):
        assert response.status_code == 200, await response.aread()
        async for name, data in events(response):
            assert name != "error", data
            if name == "end":
                return "".join(words), first
            if name == "data" and data["content"]:
                first = first or time.monotonic() - asked
                words.append(data["content"])
    raise AssertionError(f"cut off after {len(words)} words")


async def embed(product: Product, text: str) -> tuple[list[float], float]:
    """One vector, and the seconds to it. A server on its way out is asked nothing: the next one is, as the app does."""
    asked, client = time.monotonic(), ControlClient(control_socket(product.run_dir))
    while True:
        await client.ensure_ready("minilm")
        async with httpx.AsyncClient(base_url=await endpoint(client, "minilm"), timeout=WAIT) as engine:
            try:
                answer = await engine.post("/v1/embeddings", json={"model": "minilm", "input": text})
            except httpx.ConnectError:
                continue
        if answer.status_code != 500:
            return answer.raise_for_status().json()["data"][0]["embedding"], time.monotonic() - asked


async def endpoint(client: ControlClient, model: str) -> str:
    """Wait until the model is ready; where it answers."""
    async for now in client.watch():
        server = now.server(model)
        assert server is not None
        assert server.state != "failed", server
        if server.endpoint:
            return server.endpoint
    raise AssertionError("the launcher has ended")


async def test_two_models_swap_under_concurrent_requests_without_a_lost_or_wrong_answer(product: Product) -> None:
    """Memory for one, everybody asks at once: all answers are whole and right, and never are both loaded."""
    _, cold = await chat(product, "France")
    _, ready = await chat(product, "France")
    together: list[tuple[str, ...]] = []
    watching = asyncio.create_task(watch(product, together))
    embedded = asyncio.Event()
    chats = [asyncio.create_task(chats_until(product, embedded)) for _ in range(CLIENTS)]
    await asyncio.gather(*(vectors_of(product) for _ in range(CLIENTS)))
    embedded.set()
    answers = await asyncio.gather(*chats)
    watching.cancel()
    assert min(answers) >= 2, "they were not asked before the swap and after it"
    assert max(map(len, together)) == 1
    turns = [loaded for loaded, _ in groupby(filter(None, together))]
    needed = [("smollm2",), ("minilm",), ("smollm2",)]
    assert turns[:3] == turns[-3:] == needed
    assert len(turns) <= 5, "more than one turn too many, which a busy machine may cost: a pause, taken for the end"
    figures = {
        "first token of a cold model, s": cold,
        "first token of a ready model, s": ready,
        **await asyncio.to_thread(idle, product),
    }
    (ARTIFACTS / "swapping.json").write_text(json.dumps(figures, indent=2))
    assert ready < cold


def idle(product: Product) -> dict[str, float]:
    """What the launcher itself takes while nothing happens."""
    launcher = psutil.Process(product.pid)
    launcher.cpu_percent()
    return {"launcher, % of a core": launcher.cpu_percent(interval=5), "launcher, MB": launcher.memory_info().rss / 1e6}


async def chats_until(product: Product, over: asyncio.Event) -> int:
    """Ask for one capital after the other until it is over, and once more; how many answers there were, all right."""
    for count, (country, capital) in enumerate(cycle(CAPITALS.items()), 1):
        last = over.is_set()
        answer, _ = await chat(product, country)
        assert capital in answer
        if last:
            return count
    raise AssertionError("the capitals do not end")


async def vectors_of(product: Product) -> None:
    """Ask for a vector of each country: all are whole, and they tell the texts apart."""
    vectors = [(await embed(product, text))[0] for text in CAPITALS]
    assert len({json.dumps(vector) for vector in vectors}) == len(vectors)
    for vector in vectors:
        assert len(vector) == 384
        assert abs(sum(x * x for x in vector) - 1) < 1e-3


async def watch(product: Product, together: list[tuple[str, ...]]) -> None:
    """Note after every change which servers have a process."""
    async for status in ControlClient(control_socket(product.run_dir)).watch():
        loaded = [server.model for server in status.servers if server.pid is not None]
        together.append(tuple(loaded))
