"""Life and death of the real product: whatever is killed, clients are told, conversations go on, no process is left.

Its own products, beside the session's: two that are ended while they start, and one that is started whole, as the
successor of a killed one. That a worker is killed is shown with a fake engine (tests/process/test_engine_failures.py).
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.processes import alive, eventually, named
from tests.product import Product, only, started
from tests.surroundings import ARTIFACTS, running_product
from tests.vllm.sse import events
from vllm_launcher.status import LauncherStatus

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(running_product() is not None, reason="a developer's product is not to be killed"),
]

GONE_WITHIN = 15.0
"""Seconds from the death of the launcher to that of the last process."""
STOPPED_WITHIN = 40.0
"""Seconds from SIGTERM to the last process's end, requests under way included."""
BACK_WITHIN = 240.0
"""Seconds for a second start on a busy machine."""
TORN_WITHIN = 240.0
"""Seconds for the begin of some answers, and the end that a death puts to them."""
STREAMS = ("/smollm2/stream", "/smollm2/stream_events")
"""Pushed through, and through LangChain's own machinery."""
BEGUN = 8
"""Events after which the engine is surely at work: LangChain tells of its own steps first."""

STORY: dict[str, Any] = {
    "input": "Tell me a story about a lighthouse.",
    "config": {"configurable": {"temperature": 0, "max_tokens": 1500, "frequency_penalty": -2}},
}
"""Its answer turns in a circle, because the penalty rewards what was said, and so lasts long enough to be killed."""


async def status(product: Product) -> LauncherStatus | None:
    """What the launcher says; None as long as it does not answer."""
    try:
        return product.status()
    except OSError:
        return None


def engine_starts(now: LauncherStatus | None) -> bool:
    """Whether an engine process exists that does not answer yet."""
    return now is not None and now.servers[0].state == "starting" and now.servers[0].pid is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every product of this file lives, one after the other."""
    return tmp_path_factory.mktemp("life")


@pytest.mark.parametrize(
    ("deadly", "within"), [(signal.SIGTERM, STOPPED_WITHIN), (signal.SIGKILL, GONE_WITHIN)], ids=["SIGTERM", "SIGKILL"]
)
async def test_ending_the_launcher_during_start_up_ends_everything(
    folder: Path, deadly: signal.Signals, within: float
) -> None:
    """An engine loses a SIGTERM that comes while it starts, and would come up all the same."""
    models = only(folder, "smollm2")
    with started(folder / "run", ARTIFACTS / f"start-up-{deadly.name}.log", models=models) as product:
        await eventually(lambda: status(product), engine_starts, within=300)
        assert named(product.family(), "vllm.entrypoints"), "no engine process was found, so nothing is proved"
        product.process.send_signal(deadly)
        assert product.leftovers(within=within) == []
        assert product.process.returncode == (0 if deadly == signal.SIGTERM else -signal.SIGKILL)


@pytest.fixture(scope="module")
async def victim(folder: Path) -> AsyncIterator[Product]:
    """The product that comes after those that were ended in their start-up, ready. The last test kills it."""
    with started(folder / "run", ARTIFACTS / "victim.log", models=only(folder, "smollm2")) as product:
        product.wait_ready()
        yield product


async def torn(product: Product, condemned: psutil.Process) -> dict[str, list[tuple[str, Any]]]:
    """Kill a process while answers are under way; the events of each."""
    seen: dict[str, list[tuple[str, Any]]] = {route: [] for route in STREAMS}
    begun = {route: asyncio.Event() for route in STREAMS}

    async def listen(client: httpx.AsyncClient, route: str) -> None:
        async with client.stream("POST", route, json=STORY) as response:
            async for event in events(response):
                seen[route].append(event)
                if len(seen[route]) == BEGUN:
                    begun[route].set()

    async with (
        asyncio.timeout(TORN_WITHIN),
        httpx.AsyncClient(base_url=product.url, timeout=TORN_WITHIN) as client,
        asyncio.TaskGroup() as group,
    ):
        for route in STREAMS:
            group.create_task(listen(client, route))
        for event in begun.values():
            await event.wait()
        condemned.kill()
    return seen


@pytest.mark.parametrize("process", ["VLLM::EngineCore", "vllm.entrypoints"])
async def test_a_killed_process_of_the_engine_is_named_to_its_clients_and_all_comes_back(
    victim: Product, process: str
) -> None:
    """SIGKILL of either in mid-stream: an error event with a name, one restart, none left, and an answer again."""
    before = named(victim.family(), "VLLM::")
    condemned = server_process(victim) if process == "vllm.entrypoints" else named(before, process)[0]
    restarts = victim.status().servers[0].restarts
    conversation = await goes_on(victim)
    for route, told in (await torn(victim, condemned)).items():
        name, error = told[-1]
        assert name == "error", (route, told[-3:])
        assert (error["type"], error["status_code"]) == ("engine_died", 502), route
        assert "end" not in [event for event, _ in told], f"{route}: a torn answer was called whole"

    def back(now: LauncherStatus | None) -> bool:
        return now is not None and now.servers[0].state == "ready" and now.servers[0].restarts == restarts + 1

    await eventually(lambda: status(victim), back, within=BACK_WITHIN)
    assert not [old for old in before if alive(old)]
    await answers(victim)
    assert len(await goes_on(victim)) == len(conversation) + 2


def server_process(product: Product) -> psutil.Process:
    """The API server's."""
    pid = product.status().servers[0].pid
    assert pid is not None
    return psutil.Process(pid)


async def goes_on(product: Product) -> list[Any]:
    """One more turn of one conversation; all that is kept of it, after what was kept before."""
    turn = {"input": "Count on.", "config": {"configurable": {"session_id": "life", "max_tokens": 4}}}
    async with httpx.AsyncClient(base_url=product.url, timeout=TORN_WITHIN) as client:
        kept = [await client.get("/sessions/smollm2/life")]
        said = await client.post("/smollm2/invoke", json=turn)
        assert said.status_code == 200, said.text
        kept.append(await client.get("/sessions/smollm2/life"))
    before, after = [each.json().get("messages", []) for each in kept]
    assert (after[: len(before)], len(after)) == (before, len(before) + 2)
    return after


async def answers(product: Product) -> None:
    """It does, and rightly."""
    async with httpx.AsyncClient(base_url=product.url, timeout=TORN_WITHIN) as client:
        question = {"input": "Name the capital of France.", "config": {"configurable": {"temperature": 0}}}
        answer = await client.post("/smollm2/invoke", json=question)
    assert "Paris" in answer.text


async def test_a_killed_launcher_leaves_no_process_and_its_successor_serves(victim: Product) -> None:
    """SIGKILL in mid-stream: app, engine and workers go with the launcher, and the client's stream ends."""
    living = victim.family()
    conversation = await goes_on(victim)
    assert named(living, "EngineCore"), "no engine process was found, so nothing is proved"

    async def stream_and_kill() -> None:
        async with (
            httpx.AsyncClient(base_url=victim.url, timeout=60) as client,
            client.stream("POST", "/smollm2/stream", json=STORY) as response,
        ):
            async for name, _ in events(response):
                if name == "data":
                    victim.process.kill()

    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await stream_and_kill()
    assert victim.leftovers(within=GONE_WITHIN) == []
    models = victim.run_dir.parent / "models.json"
    with started(victim.run_dir, ARTIFACTS / "successor.log", models=models) as successor:
        successor.wait_ready()
        await answers(successor)
        assert len(await goes_on(successor)) == len(conversation) + 2
