"""Engines that misbehave, one way each, under a real launcher with real processes and real health checks."""

import asyncio
import os
import signal
import time
import uuid
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.process.conftest import MakeFleet
from tests.process.fleet import BRISK, DEADLINE, IMPATIENT, engine_launch, until
from tests.processes import until_gone
from vllm_launcher.keeping.health import HttpHealth
from vllm_launcher.keeping.launcher import Build, External, Launcher, ServerSpec
from vllm_launcher.keeping.ports import PortTable
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.keeping.stall import Patience
from vllm_launcher.processes.run_directory import RunDirectory
from vllm_launcher.progress import Report

ONCE = RestartPolicy(most_failures=1)
"""The first failure is final."""


async def chat(launcher: Launcher, model: str, *, max_tokens: int = 4, heard: asyncio.Event | None = None) -> list[str]:
    """Stream a chat from a ready server; the events' data. ``heard`` is set when the first has come."""
    lines: list[str] = []
    server = launcher.status().server(model)
    assert server is not None
    body = {"model": server.served_name, "stream": True, "max_tokens": max_tokens}
    url = f"{server.endpoint}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        async for line in answer.content:
            if line.strip():
                lines.append(line.decode().removeprefix("data: ").strip())
            if heard is not None:
                heard.set()
    return lines


async def test_a_well_behaved_engine_gets_ready_and_serves(fleet: MakeFleet) -> None:
    """Ready comes with an endpoint that answers, a pid and the memory of the process tree."""
    async with fleet(good="").launcher() as launcher:
        events = launcher.events()
        ready = await until(events, "good", "ready")
        assert ready.endpoint
        assert ready.pid
        assert ready.restarts == 0
        assert (await chat(launcher, "good"))[-1] == "[DONE]"
        measured = await until(events, "good", lambda server: bool(server.memory_bytes))
        assert measured.memory_bytes
        assert measured.memory_bytes > 2**20


async def test_an_engine_that_never_gets_ready_fails_with_its_time(fleet: MakeFleet) -> None:
    """It is given up when its time is over, and the reason names the step and the time."""
    async with fleet(slow="never-ready").launcher(start_timeout=0.3, policy=ONCE) as launcher:
        failed = await until(launcher.events(), "slow", "failed")
        assert failed.reason
        assert "has not answered /health within" in failed.reason
        assert failed.endpoint is None
        assert failed.pid is None


@pytest.mark.parametrize("code", ["0", "1"])
async def test_an_engine_that_exits_at_its_start_fails_with_the_root_cause(fleet: MakeFleet, code: str) -> None:
    """Failing three times the same way is enough; the reason is the first error, not its echo; code 0 counts too."""
    async with fleet(broken="exits", env={"FAKE_EXIT": code}).launcher() as launcher:
        failed = await until(launcher.events(), "broken", "failed")
        assert failed.reason
        assert failed.reason.startswith(f"ValueError: the fake engine's own reason (ended with code {code})")
        assert "failing 3 times the same way" in failed.reason
        assert failed.restarts == 2


async def test_an_engine_that_dies_at_its_first_token_is_never_ready(fleet: MakeFleet) -> None:
    """/health was 200; no endpoint was ever published."""
    async with fleet(gguf="dead-on-first").launcher() as launcher:
        states: set[str] = set()
        async for status in launcher.events():
            states.add(status.servers[0].state)
            if status.servers[0].state == "failed":
                break
        assert "ready" not in states
        assert "warming" in states


async def test_an_engine_that_answers_for_another_model_is_refused(fleet: MakeFleet) -> None:
    """The reason names both models."""
    async with fleet(mine="wrong-name").launcher(policy=ONCE) as launcher:
        failed = await until(launcher.events(), "mine", "failed")
        assert failed.reason
        assert "answers for somebody-else, not for mine" in failed.reason


async def test_an_engine_that_generates_nothing_fails(fleet: MakeFleet) -> None:
    """Warming ends with the time-out that names the token."""
    async with fleet(mute="never-generates").launcher(start_timeout=3.0, policy=ONCE) as launcher:
        failed = await until(launcher.events(), "mute", "failed")
        assert failed.reason
        assert "has not generated a token within" in failed.reason


async def test_an_engine_that_hangs_after_warm_up_is_restarted(fleet: MakeFleet) -> None:
    """Its /health stays 200; a request under way and counters that stand still give it away."""
    crew = fleet(stuck="hangs")
    async with crew.launcher() as launcher:
        events = launcher.events()
        ready = await until(events, "stuck", "ready")
        crew.modes["stuck"] = ""
        request = asyncio.create_task(chat(launcher, "stuck"))
        crashed = await until(events, "stuck", lambda server: server.restarts == 1)
        assert crashed.reason
        assert "no token for" in crashed.reason
        again = await until(events, "stuck", "ready")
        assert again.pid != ready.pid
        await asyncio.gather(request, return_exceptions=True)


async def test_an_idle_engine_with_old_gauges_is_asked_for_a_token(fleet: MakeFleet) -> None:
    """A hung engine whose gauge says that nothing runs is found by a token that does not come."""
    crew = fleet(stuck="hangs,stale-gauges")
    patience = Patience(poll=0.05, answer=1.0, idle=0.2, probe=0.5)
    async with crew.launcher(patience=patience) as launcher:
        events = launcher.events()
        await until(events, "stuck", "ready")
        crew.modes["stuck"] = ""
        crashed = await until(events, "stuck", lambda server: server.restarts == 1)
        assert crashed.reason
        assert "asked for one token and gave none" in crashed.reason


async def test_an_engine_that_stops_answering_is_restarted(fleet: MakeFleet) -> None:
    """Silence on /metrics and /health is enough, without any request."""
    crew = fleet(mute="mute")
    async with crew.launcher() as launcher:
        events = launcher.events()
        await until(events, "mute", "ready")
        crew.modes["mute"] = ""
        crashed = await until(events, "mute", lambda server: server.restarts == 1)
        assert crashed.reason
        assert "has not answered for" in crashed.reason
        await until(events, "mute", "ready")


async def test_a_death_in_mid_stream_with_exit_code_0_is_a_crash(fleet: MakeFleet) -> None:
    """The client sees the error event; the launcher withdraws the endpoint and restarts, on another port."""
    crew = fleet(mortal="dies-in-stream")
    async with crew.launcher() as launcher:
        events = launcher.events()
        ready = await until(events, "mortal", "ready")
        lines = await chat(launcher, "mortal")
        assert "error" in lines[-2]
        assert lines[-1] == "[DONE]"
        down = await until(events, "mortal", lambda server: server.restarts == 1)
        assert down.endpoint is None
        assert down.reason
        assert "code 0" in down.reason
        again = await until(events, "mortal", "ready")
        assert again.endpoint != ready.endpoint
        assert again.reason is None


async def test_an_engine_that_crashes_again_and_again_is_given_up(fleet: MakeFleet) -> None:
    """Five crashes of a server that was ready every time: failed, not a loop; retry revives it."""
    crew = fleet(mortal="dies-in-stream")
    async with crew.launcher() as launcher:
        for _ in range(5):
            await until(launcher.events(), "mortal", "ready")
            await chat(launcher, "mortal")
            await until(launcher.events(), "mortal", lambda server: server.state != "ready")
        failed = await until(launcher.events(), "mortal", "failed")
        assert failed.reason
        assert "5 failures within" in failed.reason
        assert launcher.ensure_ready("mortal").state == "failed"
        launcher.ensure_ready("mortal", retry=True)
        revived = await until(launcher.events(), "mortal", "ready")
        assert revived.restarts == 0


async def test_sigkill_of_a_worker_in_mid_stream_is_a_crash_that_leaves_nothing(fleet: MakeFleet) -> None:
    """The client sees the error event and no finish; the whole server is restarted, with a worker of its own."""
    crew = fleet(team="needs-worker")
    async with crew.launcher() as launcher:
        events = launcher.events()
        ready = await until(events, "team", "ready")
        before = crew.processes()
        (worker,) = [process for process in before if "-c" in process.cmdline()]
        heard = asyncio.Event()
        under_way = asyncio.create_task(chat(launcher, "team", max_tokens=100_000, heard=heard))
        await asyncio.wait_for(heard.wait(), DEADLINE)
        worker.kill()
        lines = await asyncio.wait_for(under_way, DEADLINE)
        assert "EngineCore encountered an issue" in lines[-2]
        assert not any("finish_reason" in line for line in lines)
        again = await until(events, "team", lambda server: server.state == "ready" and server.restarts == 1)
        assert again.pid != ready.pid
        assert until_gone(before, within=DEADLINE) == []
        assert (await chat(launcher, "team"))[-1] == "[DONE]"


@pytest.mark.parametrize("modes", ["worker", "setsid-worker", "worker,setsid-worker,ignores-sigterm"])
async def test_sigkill_of_the_api_process_leaves_no_worker(fleet: MakeFleet, modes: str) -> None:
    """Workers go with it, in whatever session they are, before the next attempt starts."""
    crew = fleet(parent=modes)
    async with crew.launcher() as launcher:
        events = launcher.events()
        ready = await until(events, "parent", "ready")
        assert ready.pid
        before = crew.processes()
        workers = [process for process in before if "-c" in process.cmdline()]
        assert len(workers) == modes.count("worker")
        os.kill(ready.pid, signal.SIGKILL)
        down = await until(events, "parent", lambda server: server.restarts == 1)
        assert down.reason
        assert "SIGKILL" in down.reason
        assert down.hint
        assert "memory" in down.hint
        assert not until_gone(before, within=0)


async def test_sigkill_leaves_no_shared_memory(fleet: MakeFleet) -> None:
    """Python's resource tracker has the time to remove what the dead processes shared."""
    name = f"test_{uuid.uuid4().hex}"
    crew = fleet(parent="shm", env={"FAKE_SHM": name})
    async with crew.launcher() as launcher:
        ready = await until(launcher.events(), "parent", "ready")
        assert ready.pid
        assert shared(name)
        crew.modes["parent"] = ""
        os.kill(ready.pid, signal.SIGKILL)
        await until(launcher.events(), "parent", lambda server: server.restarts == 1)
        assert not shared(name)


def shared(name: str) -> bool:
    """Whether there is shared memory of this name."""
    return Path("/dev/shm", name).exists()  # noqa: S108 - where Linux keeps it


async def test_sigkill_of_the_guard_leaves_nothing(fleet: MakeFleet) -> None:
    """The kernel ends the API process with its guard, and the launcher finds the orphaned workers by their mark."""
    crew = fleet(parent="worker,setsid-worker")
    async with crew.launcher() as launcher:
        events = launcher.events()
        ready = await until(events, "parent", "ready")
        before = crew.processes()
        guard = psutil.Process(ready.pid).parent()
        assert guard is not None
        assert "guard.py" in " ".join(guard.cmdline())
        guard.kill()
        await until(events, "parent", lambda server: server.restarts == 1)
        assert not until_gone(before, within=0)


async def test_a_stopped_guard_cannot_keep_its_engine(fleet: MakeFleet) -> None:
    """A guard under SIGSTOP obeys nobody; the launcher kills its group itself."""
    crew = fleet(parent="worker")
    async with crew.launcher() as launcher:
        ready = await until(launcher.events(), "parent", "ready")
        before = crew.processes()
        guard = psutil.Process(ready.pid).parent()
        assert guard is not None
        guard.suspend()
        await launcher.unload("parent")
        assert not until_gone(before, within=0)


async def test_sigterm_lost_at_start_up_does_not_matter(fleet: MakeFleet, tmp_path: Path) -> None:
    """A server that is unloaded while it starts is gone soon, though it never saw SIGTERM."""
    crew = fleet(deaf="gate,loses-sigterm,worker", env={"FAKE_GATE": str(tmp_path / "never")})
    async with crew.launcher() as launcher:
        await until(launcher.events(), "deaf", lambda server: server.pid is not None)
        began = time.monotonic()
        stopped = await launcher.unload("deaf")
        assert stopped.state == "stopped"
        assert stopped.pid is None
        assert time.monotonic() - began < BRISK.starting + 2
        assert not crew.processes()


async def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace(fleet: MakeFleet) -> None:
    """Unloading takes the grace, not for ever."""
    crew = fleet(deaf="ignores-sigterm,worker")
    async with crew.launcher() as launcher:
        await until(launcher.events(), "deaf", "ready")
        began = time.monotonic()
        assert (await launcher.unload("deaf")).state == "stopped"
        assert BRISK.ready <= time.monotonic() - began < BRISK.ready + 3
        assert not crew.processes()


async def test_unloading_lets_the_open_stream_finish(fleet: MakeFleet) -> None:
    """The endpoint goes first, the stream then comes to its own end, the process last."""
    crew = fleet(good="", env={"FAKE_PACE": "0.02"})
    async with crew.launcher() as launcher:
        events = launcher.events()
        await until(events, "good", "ready")
        stream = asyncio.create_task(chat(launcher, "good", max_tokens=30))
        url = f"{launcher.status().servers[0].endpoint}/metrics"
        await running(url)
        unloading = asyncio.create_task(launcher.unload("good"))
        draining = await until(events, "good", "draining")
        assert draining.endpoint is None
        assert not stream.done()
        whole = await stream
        assert [line for line in whole if "word" in line] == whole[:30]
        assert whole[-1] == "[DONE]"
        assert (await unloading).state == "stopped"


async def running(url: str) -> None:
    """Wait until the engine computes a request."""
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as answer:
                if 'num_requests_running{engine="0",model_name="good"} 1.0' in await answer.text():
                    return


async def test_twenty_loads_and_unloads_leak_nothing(fleet: MakeFleet) -> None:
    """File descriptors, processes, ports and tasks are the same after as before."""
    crew = fleet(good="worker")
    async with crew.launcher(load="on-demand", patience=IMPATIENT) as launcher:
        assert launcher.status().servers[0].state == "absent"
        await cycle(launcher)
        own = psutil.Process()
        before = (own.num_fds(), len(asyncio.all_tasks()), len(own.children(recursive=True)))
        endpoints = [await cycle(launcher) for _ in range(20)]
        assert (own.num_fds(), len(asyncio.all_tasks()), len(own.children(recursive=True))) == before
        assert len(set(endpoints)) == 20
        assert not crew.processes()
        assert not crew.ports.held
        assert not list((crew.run.path / "servers").iterdir())


async def cycle(launcher: Launcher) -> str | None:
    """Load and unload once; the endpoint it had."""
    launcher.ensure_ready("good")
    ready = await until(launcher.events(), "good", "ready")
    await launcher.unload("good")
    return ready.endpoint


async def test_a_server_that_somebody_else_runs_comes_and_goes(run: RunDirectory) -> None:
    """Ready when it generates, withdrawn when it is silent, ready again when it is back; never given up."""
    ports = PortTable()
    port = ports.take()
    url = f"http://127.0.0.1:{port}"
    async with Launcher(
        [ServerSpec("other", "theirs", external=External(url))],
        prepare=nothing_to_prepare,
        spawn=run.spawn,
        health=HttpHealth(patience=IMPATIENT, poll=0.02),
    ) as launcher:
        assert (await until(launcher.events(), "other", "starting")).phase == f"waiting for {url}"
        theirs = await run.spawn("theirs", engine_launch("theirs", port))
        ready = await until(launcher.events(), "other", "ready")
        assert (ready.endpoint, ready.served_name, ready.pid) == (url, "theirs", None)
        await theirs.kill()
        gone = await until(launcher.events(), "other", "starting")
        assert gone.endpoint is None
        again = await run.spawn("theirs", engine_launch("theirs", port))
        await until(launcher.events(), "other", "ready")
        await launcher.shutdown()
        assert again.alive
        await again.kill()


async def nothing_to_prepare(_model: str, _report: Report) -> Build:
    """Nobody prepares a server that somebody else runs."""
    raise AssertionError("not to be called")
