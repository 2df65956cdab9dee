"""More models than memory over real processes: swapped under load, changed while they answer, cycled for hours."""

import asyncio
import gc
import json
from collections import Counter
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.process.conftest import MakeFleet
from tests.process.fleet import Fleet, until
from tests.processes import until_gone
from vllm_launcher.keeping.launcher import Launcher

CLIENTS = 4
"""That ask each model at the same time."""
QUESTIONS = 5
"""That each of them asks, one after the other."""
TOKENS = 20


async def endpoint_of(launcher: Launcher, model: str) -> str:
    """Have a model ready and wait for it, as the app does for a request."""
    launcher.ensure_ready(model)
    ready = await until(launcher.events(), model, "ready")
    assert ready.endpoint
    return ready.endpoint


async def ask(session: aiohttp.ClientSession, endpoint: str, model: str) -> str:
    """One streamed answer; raises where its end is not a whole one's."""
    body = {"model": model, "stream": True, "max_tokens": TOKENS}
    words: list[str] = []
    async with session.post(f"{endpoint}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            text = line.decode().removeprefix("data: ").strip()
            if text == "[DONE]":
                return "".join(words)
            if text:
                words.append(json.loads(text)["choices"][0]["delta"].get("content", ""))
    raise AssertionError(f"cut off after {len(words)} words")


async def client(launcher: Launcher, model: str, retried: Counter[str]) -> list[str]:
    """Ask again and again. A request that no server took is asked again, as the app does; a begun one never is."""
    answers: list[str] = []
    async with aiohttp.ClientSession() as session:
        while len(answers) < QUESTIONS:
            endpoint = await endpoint_of(launcher, model)
            try:
                answers.append(await ask(session, endpoint, model))
            except (aiohttp.ClientConnectorError, aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError):
                retried[model] += 1
    return answers


@pytest.mark.parametrize("models", [2, 3])
async def test_models_are_swapped_under_concurrent_requests_without_a_lost_or_wrong_answer(
    fleet: MakeFleet, models: int
) -> None:
    """Memory for one, everybody asks at once: all answers are whole, and two servers are never loaded together."""
    names = [f"model-{number}" for number in range(models)]
    engines = fleet(**dict.fromkeys(names, ""))
    whole = "".join(f"word{number} " for number in range(TOKENS))
    retried: Counter[str] = Counter()
    together: list[int] = []
    async with engines.launcher(load="on-demand", room_for=1) as launcher:
        watching = asyncio.create_task(watch(launcher, together))
        asking = [client(launcher, name, retried) for name in names for _ in range(CLIENTS)]
        async with asyncio.timeout(100):
            answers = await asyncio.gather(*asking)
        watching.cancel()
    assert answers == [[whole] * QUESTIONS] * (models * CLIENTS)
    assert max(together) == 1
    assert together.count(1) >= models, "nothing was swapped, so nothing is proved"


async def watch(launcher: Launcher, together: list[int]) -> None:
    """Note after every change how many servers have a process."""
    async for status in launcher.events():
        loaded = [server for server in status.servers if server.pid is not None and server.state != "stopped"]
        together.append(len(loaded))


async def test_a_long_answer_is_finished_before_its_server_makes_room(fleet: MakeFleet) -> None:
    """However long it takes: there is no deadline for it."""
    engines = fleet(a="", b="", env={"FAKE_PACE": "0.15"})
    async with engines.launcher(load="on-demand", room_for=1) as launcher, aiohttp.ClientSession() as session:
        answer = asyncio.create_task(ask(session, await endpoint_of(launcher, "a"), "a"))
        await until(launcher.events(), "a", lambda server: server.requests == 1)
        launcher.ensure_ready("b")
        await until(launcher.events(), "a", "draining")
        assert not answer.done()
        await until(launcher.events(), "a", "stopped")
        assert answer.done()
        assert (await answer).count("word") == TOKENS
        await until(launcher.events(), "b", "ready")


async def test_a_changed_list_leaves_the_others_answers_alone(fleet: MakeFleet) -> None:
    """While one model answers, another is changed, a third goes and a fourth comes."""
    engines = fleet(kept="", changed="", gone="", new="", env={"FAKE_PACE": "0.1"})
    async with engines.launcher() as launcher, aiohttp.ClientSession() as session:
        for model in ("kept", "changed", "gone"):
            await until(launcher.events(), model, "ready")
        before = {server.model: server.pid for server in launcher.status().servers}
        answer = asyncio.create_task(ask(session, await endpoint_of(launcher, "kept"), "kept"))
        specs = [engines.spec("kept", "startup"), engines.spec("new", "startup")]
        await launcher.apply([*specs, engines.spec("changed", "startup", fingerprint="2")], {})
        for model in ("new", "changed"):
            await until(launcher.events(), model, "ready")
        after = {server.model: server.pid for server in launcher.status().servers}
        assert (await answer).count("word") == TOKENS
        assert after["kept"] == before["kept"]
        assert after["changed"] != before["changed"]
        assert "gone" not in after
        assert before["gone"]
        assert not psutil.pid_exists(before["gone"])


CYCLES = 200
WARM_UP = 20
"""Cycles before the first look: caches fill, pools grow."""


def taken() -> Counter[str]:
    """What this process holds that could leak."""
    gc.collect()
    me = psutil.Process()
    return Counter(
        files=me.num_fds(),
        threads=me.num_threads(),
        children=len(me.children(recursive=True)),
        tasks=len(asyncio.all_tasks()),
    )


@pytest.mark.timeout(400)
async def test_two_hundred_cycles_leave_nothing_behind(fleet: MakeFleet, tmp_path: Path) -> None:
    """No process, no file descriptor, no port, no task, and no growth worth naming."""
    engines: Fleet = fleet(a="", b="")
    memory: list[int] = []
    async with engines.launcher(load="on-demand", room_for=1, desired=tmp_path / "desired.json") as launcher:
        await cycle(launcher, WARM_UP)
        at_first = taken()
        memory.append(psutil.Process().memory_info().rss)
        await cycle(launcher, CYCLES)
        at_last = taken()
        memory.append(psutil.Process().memory_info().rss)
        assert at_last == at_first
        assert not engines.ports.held
        assert until_gone(engines.processes(), within=5) == []
    grown = (memory[1] - memory[0]) / CYCLES
    print(f"{grown / 1024:.1f} KiB a cycle")  # noqa: T201 - for whoever wants to know
    assert grown < 16 * 1024


async def cycle(launcher: Launcher, times: int) -> None:
    """Load one model, swap it for the other, unload that."""
    for _ in range(times // 2):
        await endpoint_of(launcher, "a")
        await endpoint_of(launcher, "b")
        await launcher.unload("b")
