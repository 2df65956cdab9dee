"""Several servers of one model behind vLLM's own router: the real one, over fake engines."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.process.conftest import MakeFleet
from tests.process.fleet import BRISK, Fleet, until
from tests.processes import alive
from vllm_launcher.command import ROUTER_ENGINE
from vllm_launcher.fetching.install import install_engine
from vllm_launcher.keeping.collaborators import Graces
from vllm_launcher.keeping.launcher import Launcher
from vllm_launcher.prepare import Runner
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import Balance
from vllm_launcher.settings import Settings
from vllm_launcher.status import ServerStatus

TOKENS = 20


@pytest.fixture(scope="session")
async def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the router's environment, made as the product makes it."""
    folder = tmp_path_factory.mktemp("router")
    runner = Runner(log=folder / "install.log", record=folder / "install.json")
    return (await install_engine(ROUTER_ENGINE, Settings(), runner, ignore)).python


def ignore(_: Progress) -> None:
    """Nobody looks."""


MakeReplicas = Callable[..., Fleet]


@pytest.fixture
def replicas(fleet: MakeFleet, router: Path) -> MakeReplicas:
    """Makes a fleet whose models may have replicas, balanced so."""

    def make(balance: Balance = "load", env: dict[str, str] | None = None, **modes: str) -> Fleet:
        made = fleet(env, **modes)
        made.router, made.balance = router, balance
        return made

    return make


async def whole(launcher: Launcher, model: str, count: int) -> ServerStatus:
    """Wait until so many of its replicas are ready, and the router knows all of them."""
    return await until(
        launcher.events(),
        model,
        lambda now: now.state == "ready" and sum(replica.state == "ready" for replica in now.replicas) == count,
    )


async def ask(
    session: aiohttp.ClientSession, endpoint: str | None, prompt: str = "Hi", *, tokens: int = TOKENS, user: str = ""
) -> str:
    """One streamed answer; raises where its end is not a whole one's."""
    body = {"model": "a", "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": prompt}]}
    headers = {"x-session-id": user} if user else {}
    async with session.post(f"{endpoint}/v1/chat/completions", json=body, headers=headers) as answer:
        answer.raise_for_status()
        text = await answer.text()
    assert text.endswith("[DONE]\n\n"), "cut off"
    assert text.count("word") == tokens
    return text


async def loads(session: aiohttp.ClientSession, now: ServerStatus) -> list[float]:
    """How many prompts each replica has read."""
    read: list[float] = []
    for replica in now.replicas:
        async with session.get(f"{replica.endpoint}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        read.append(next(float(line.split()[-1]) for line in lines if line.startswith("vllm:prompt_tokens_total")) / 5)
    return read


async def taken(session: aiohttp.ClientSession, now: ServerStatus, before: list[float]) -> list[float]:
    """How many each has read since."""
    return [after - first for first, after in zip(before, await loads(session, now), strict=True)]


async def test_a_model_with_replicas_is_ready_behind_one_router(replicas: MakeReplicas) -> None:
    """One endpoint, each replica a process of its own, and all of it on loopback."""
    fleet = replicas(a="")
    async with fleet.launcher(specs=[fleet.replicated("a", 3, "startup")]) as launcher:
        async with aiohttp.ClientSession() as session:
            now = await whole(launcher, "a", 3)
            await ask(session, now.endpoint)
        assert [replica.model for replica in now.replicas] == ["a@0", "a@1", "a@2"]
        assert len({now.pid, *(replica.pid for replica in now.replicas)}) == 4
        assert now.endpoint not in [replica.endpoint for replica in now.replicas]
        listening = {
            connection.laddr[0]
            for process in fleet.processes()
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        await launcher.unload("a")
        assert not fleet.processes()
        assert launcher.status().servers[0].state == "stopped"


async def test_requests_go_where_there_is_least_to_do(replicas: MakeReplicas) -> None:
    """Twelve at once are shared by both."""
    fleet = replicas("load", {"FAKE_PACE": "0.02"}, a="")
    async with (
        fleet.launcher(specs=[fleet.replicated("a", 2, "startup")]) as launcher,
        aiohttp.ClientSession() as session,
    ):
        now = await whole(launcher, "a", 2)
        before = await loads(session, now)
        await asyncio.gather(*(ask(session, now.endpoint) for _ in range(12)))
        shares = await taken(session, now, before)
        assert sum(shares) == 12
        assert min(shares) >= 3


async def test_a_session_stays_with_its_server(replicas: MakeReplicas) -> None:
    """Whatever it asks; and not all sessions are at the same one."""
    fleet = replicas("session", a="")
    homes: set[int] = set()
    async with (
        fleet.launcher(specs=[fleet.replicated("a", 2, "startup")]) as launcher,
        aiohttp.ClientSession() as session,
    ):
        now = await whole(launcher, "a", 2)
        for number in range(16):
            before = await loads(session, now)
            for turn in range(3):
                await ask(session, now.endpoint, f"turn {turn}", tokens=1, user=f"session-{number}")
            shares = await taken(session, now, before)
            assert sorted(shares) == [0, 3]
            homes.add(shares.index(3))
    assert homes == {0, 1}


async def test_a_prompt_goes_where_its_beginning_was_read(replicas: MakeReplicas) -> None:
    """Its cache holds it already."""
    fleet = replicas("prefix", a="")
    async with (
        fleet.launcher(specs=[fleet.replicated("a", 2, "startup")]) as launcher,
        aiohttp.ClientSession() as session,
    ):
        now = await whole(launcher, "a", 2)
        for topic in ("lighthouses", "volcanoes"):
            before = await loads(session, now)
            for question in range(4):
                await ask(session, now.endpoint, f"All that is known of {topic}: {topic * 50} {question}?", tokens=1)
            assert sorted(await taken(session, now, before)) == [0, 4]


async def test_new_requests_survive_the_death_of_a_replica(replicas: MakeReplicas) -> None:
    """SIGKILL of one of two: whoever asks after that is answered by the other, and the dead one comes back.

    Though the other one is busy, and the dead one seems to have nothing to do.
    """
    fleet = replicas("load", {"FAKE_PACE": "0.05"}, a="worker")
    async with (
        fleet.launcher(specs=[fleet.replicated("a", 2, "startup")]) as launcher,
        aiohttp.ClientSession() as session,
    ):
        now = await whole(launcher, "a", 2)
        begun = [asyncio.create_task(ask(session, now.endpoint, tokens=100)) for _ in range(8)]
        await until(launcher.events(), "a", lambda now: now.requests == 8)
        victim = psutil.Process(now.replicas[0].pid)
        victim.kill()
        await asyncio.gather(*(ask(session, now.endpoint, tokens=2) for _ in range(20)))
        again = await until(
            launcher.events(),
            "a",
            lambda now: now.replicas[0].state == "ready" and now.replicas[0].restarts == 1,
        )
        assert again.endpoint == now.endpoint, "nobody who was answered by the other one was disturbed"
        assert again.restarts == 0
        assert not alive(victim)
        ends = await asyncio.gather(*begun, return_exceptions=True)
        assert 0 < sum(isinstance(end, str) for end in ends) < 8, "those of the other one were not disturbed"
        await asyncio.gather(*(ask(session, now.endpoint) for _ in range(8)))


async def test_nothing_is_routed_to_a_replica_that_drains(replicas: MakeReplicas) -> None:
    """One of two makes room for another model: its stream is finished, and nobody meets it on its way out."""
    fleet = replicas("load", {"FAKE_PACE": "0.05"}, a="", b="")
    specs = [fleet.replicated("a", 2, "startup"), fleet.spec("b")]
    async with (
        fleet.launcher(specs=specs, room_for=2, graces=Graces(settle=0.2, drain=None)) as launcher,
        aiohttp.ClientSession() as session,
    ):
        now = await whole(launcher, "a", 2)
        streams = [asyncio.create_task(ask(session, now.endpoint, tokens=60)) for _ in range(6)]
        await until(launcher.events(), "a", lambda now: now.requests == 6)
        launcher.ensure_ready("b")
        half = await until(launcher.events(), "a", lambda now: any(r.state == "draining" for r in now.replicas))
        assert half.state == "ready"
        asked = [ask(session, now.endpoint, tokens=3) for _ in range(20)]
        await asyncio.gather(*streams, *asked)
        await until(launcher.events(), "b", "ready")
        left = launcher.status().server("a")
        assert left is not None
        assert sorted(replica.state for replica in left.replicas) == ["ready", "stopped"]
        assert left.phase == "1 of 2 replicas ready"
    for number in range(2):
        assert '" 500' not in fleet.run.log(f"a@{number}").read_text(), "it was asked while it drained"


async def test_a_killed_router_is_replaced(replicas: MakeReplicas) -> None:
    """The replicas go on; the endpoint is another one."""
    fleet = replicas(a="")
    async with (
        fleet.launcher(specs=[fleet.replicated("a", 2, "startup")]) as launcher,
        aiohttp.ClientSession() as session,
    ):
        now = await whole(launcher, "a", 2)
        psutil.Process(now.pid).kill()
        again = await until(launcher.events(), "a", lambda now: now.state == "ready" and now.restarts == 1)
        assert again.endpoint != now.endpoint
        assert [replica.pid for replica in again.replicas] == [replica.pid for replica in now.replicas]
        await ask(session, again.endpoint)


async def test_replicas_that_cannot_start_fail_with_the_engines_reason(replicas: MakeReplicas) -> None:
    """And no router is left waiting for them; one that can is enough to serve."""
    fleet = replicas(**{"a": "exits", "b": "", "b@1": "exits"})
    specs = [fleet.replicated("a", 2, "startup"), fleet.replicated("b", 2, "startup")]
    async with fleet.launcher(specs=specs) as launcher:
        failed = await until(launcher.events(), "a", "failed")
        assert "the fake engine's own reason" in (failed.reason or "")
        half = await until(
            launcher.events(), "b", lambda now: now.state == "ready" and now.replicas[1].state == "failed"
        )
        assert half.phase == "1 of 2 replicas ready"


async def test_a_model_gets_replicas_while_others_answer(replicas: MakeReplicas) -> None:
    """An edit from one server to two, and back: the old ones are gone, the new ones serve."""
    fleet = replicas(a="", b="")
    async with (
        fleet.launcher(specs=[fleet.spec("a", "startup"), fleet.spec("b", "startup")]) as launcher,
        aiohttp.ClientSession() as session,
    ):
        single = await until(launcher.events(), "a", "ready")
        other = await until(launcher.events(), "b", "ready")
        await launcher.apply([fleet.replicated("a", 2, "startup"), fleet.spec("b", "startup")], {})
        now = await whole(launcher, "a", 2)
        await ask(session, now.endpoint)
        assert single.pid
        assert not psutil.pid_exists(single.pid)
        await launcher.apply([fleet.spec("a", "startup"), fleet.spec("b", "startup")], {})
        again = await until(launcher.events(), "a", lambda now: now.state == "ready" and not now.replicas)
        await ask(session, again.endpoint)
        still = launcher.status().server("b")
        assert still is not None
        assert still.pid == other.pid


async def test_replicas_without_requests_leave_together(replicas: MakeReplicas) -> None:
    """An idle time is the model's, not each server's."""
    fleet = replicas(a="")
    spec = replace(fleet.replicated("a", 2, "startup"), idle_seconds=0.5)
    async with fleet.launcher(specs=[spec], graces=BRISK) as launcher:
        await whole(launcher, "a", 2)
        gone = await until(launcher.events(), "a", "stopped")
        assert gone.phase == "idle for 0.5 s"
        assert not fleet.processes()
