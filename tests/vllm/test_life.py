"""Life and death of the real product: whatever is killed, clients are told, and no process is left.

Its own products, beside the session's: two that are ended while they start, and one that is started whole.
"""

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


@pytest.mark.parametrize(
    ("deadly", "within"), [(signal.SIGTERM, STOPPED_WITHIN), (signal.SIGKILL, GONE_WITHIN)], ids=["SIGTERM", "SIGKILL"]
)
async def test_ending_the_launcher_during_start_up_ends_everything(
    tmp_path: Path, deadly: signal.Signals, within: float
) -> None:
    """An engine loses a SIGTERM that comes while it starts, and would come up all the same."""
    with started(
        tmp_path / "run", ARTIFACTS / f"start-up-{deadly.name}.log", models=only(tmp_path, "smollm2")
    ) as product:
        await eventually(lambda: status(product), engine_starts, within=300)
        assert named(product.family(), "vllm.entrypoints"), "no engine process was found, so nothing is proved"
        product.process.send_signal(deadly)
        assert product.leftovers(within=within) == []
        assert product.process.returncode == (0 if deadly == signal.SIGTERM else -signal.SIGKILL)


@pytest.fixture(scope="module")
async def victim(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Product]:
    """A product of this file alone, ready. The last test kills it."""
    folder = tmp_path_factory.mktemp("victim")
    with started(folder / "run", ARTIFACTS / "victim.log", models=only(folder, "smollm2")) as product:
        product.wait_ready()
        yield product


@pytest.mark.parametrize("process", ["VLLM::EngineCore", "VLLM::Worker", "vllm.entrypoints"])
async def test_a_killed_process_of_the_engine_is_named_to_its_clients_and_all_comes_back(
    victim: Product, process: str
) -> None:
    """SIGKILL of any of them in mid-stream: an error event with a name, one restart, none left, and an answer again."""
    before = named(victim.family(), "VLLM::")
    condemned = server_process(victim) if process == "vllm.entrypoints" else named(before, process)[0]
    restarts = victim.status().servers[0].restarts
    seen: list[tuple[str, Any]] = []
    async with (
        httpx.AsyncClient(base_url=victim.url, timeout=60) as client,
        client.stream("POST", "/smollm2/stream", json=STORY) as response,
    ):
        async for event in events(response):
            seen.append(event)
            if sum(name == "data" for name, _ in seen) == 3 and condemned.is_running():
                condemned.kill()
    name, error = seen[-1]
    assert name == "error"
    assert error["type"] in {"engine_died", "engine_failed"}
    assert error["status_code"] == 502
    assert "end" not in [event for event, _ in seen], "a torn answer was called whole"

    def back(now: LauncherStatus | None) -> bool:
        return now is not None and now.servers[0].state == "ready" and now.servers[0].restarts == restarts + 1

    await eventually(lambda: status(victim), back, within=BACK_WITHIN)
    assert not [old for old in before if alive(old)]
    await answers(victim)


def server_process(product: Product) -> psutil.Process:
    """The API server's."""
    pid = product.status().servers[0].pid
    assert pid is not None
    return psutil.Process(pid)


async def answers(product: Product) -> None:
    """It does, and rightly."""
    async with httpx.AsyncClient(base_url=product.url, timeout=60) as client:
        question = {"input": "Name the capital of France.", "config": {"configurable": {"temperature": 0}}}
        answer = await client.post("/smollm2/invoke", json=question)
    assert "Paris" in answer.text


async def test_a_killed_launcher_leaves_no_process_and_its_successor_serves(victim: Product) -> None:
    """SIGKILL in mid-stream: app, engine and workers go with the launcher, and the client's stream ends."""
    living = victim.family()
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
