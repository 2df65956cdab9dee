"""The launcher against a scripted world: what each state promises, and what is done in which order."""

import asyncio
from typing import Any

import pytest

from tests.unit.fakes import World, spec
from tests.unit.launching import launching, until
from vllm_launcher.errors import Hung, LauncherError, NotReady, ServerFailed, UnknownModel
from vllm_launcher.keeping.launcher import External, ServerSpec
from vllm_launcher.keeping.restart import RestartPolicy


async def test_a_server_goes_from_absent_through_every_state_to_ready() -> None:
    """Each step waits for what it promises; the endpoint comes with ready, not before."""
    world = World()
    world.health.automatic = False
    world.fetched.clear()
    async with launching(world) as launcher:
        fetching = await until(launcher, lambda server: server.progress is not None)
        assert (fetching.state, fetching.phase) == ("fetching", "downloading weights")
        assert fetching.progress is not None
        assert fetching.progress.fraction == 0.5
        world.fetched.set()
        starting = await until(launcher, lambda server: server.pid is not None)
        assert (starting.state, starting.progress, starting.endpoint) == ("starting", None, None)
        world.health.warming.set()
        assert (await until(launcher, "warming")).endpoint is None
        world.health.token.set()
        ready = await until(launcher, "ready")
        assert (ready.endpoint, ready.served_name) == ("http://127.0.0.1:1001", "served-m")


async def test_an_on_demand_model_is_absent_until_asked_for() -> None:
    """Asking twice starts one server, and tells the state as of now."""
    world = World()
    async with launching(world, spec(on_demand=True)) as launcher:
        assert launcher.status().servers[0].state == "absent"
        assert launcher.ensure_ready("m").state == "absent"
        launcher.ensure_ready("m")
        await until(launcher, "ready")
        assert launcher.ensure_ready("m").state == "ready"
        assert world.prepared == ["m"]


async def test_an_unknown_model_is_an_error() -> None:
    """For loading and unloading alike."""
    async with launching(World()) as launcher:
        with pytest.raises(UnknownModel):
            launcher.ensure_ready("other")
        with pytest.raises(UnknownModel):
            await launcher.unload("other")


async def test_servers_start_one_after_the_other_and_fetch_together() -> None:
    """The second is prepared, and waits for the first to be ready."""
    world = World()
    world.health.automatic = False
    async with launching(world, spec("a"), spec("b")) as launcher:
        await until(launcher, lambda server: server.phase == "waiting for another server to start", "b")
        assert world.prepared == ["a", "b"]
        assert len(world.processes) == 1
        world.health.warming.set()
        world.health.token.set()
        await until(launcher, "ready", "b")
        assert world.health.log == ["ask served-a", "ask served-b"]


async def test_a_failed_start_gives_the_turn_to_the_next_only_when_its_process_is_gone() -> None:
    """Two servers are never loading at once."""
    world = World()
    alive: list[int] = []
    world.on_spawn = lambda _: alive.append(sum(process.alive for process in world.processes))
    world.health.automatic = False
    async with launching(world, spec("a"), spec("b"), policy=RestartPolicy(most_failures=1)) as launcher:
        await until(launcher, lambda server: server.phase == "waiting for another server to start", "b")
        world.processes[0].exits(1)
        await until(launcher, "failed", "a")
        await until(launcher, lambda server: server.pid is not None, "b")
    assert alive == [1, 1]


@pytest.mark.parametrize("code", [0, 1, 137])
async def test_any_exit_that_nobody_asked_for_is_a_crash(code: int) -> None:
    """Code 0 included: the endpoint is withdrawn, and a new server started after a back-off."""
    world = World()
    async with launching(world) as launcher:
        await until(launcher, "ready")
        world.processes[0].exits(code, "OSError: it broke")
        crashed = await until(launcher, lambda server: server.restarts == 1)
        assert crashed.endpoint is None
        assert crashed.reason
        assert crashed.reason.startswith("OSError: it broke")
        again = await until(launcher, "ready")
        assert (again.endpoint, again.reason) == ("http://127.0.0.1:1002", None)
        assert world.clock.slept.count(1.0) == 1


async def test_the_back_off_doubles() -> None:
    """One second, two, four; then it has failed often enough."""
    world = World()
    world.on_spawn = lambda process: process.exits(1, f"OSError: reason {len(world.processes)}")
    world.health.automatic = False
    async with launching(world, policy=RestartPolicy(most_failures=4)) as launcher:
        failed = await until(launcher, "failed")
        assert world.clock.slept == [1.0, 2.0, 4.0]
        assert failed.reason == "OSError: reason 4 (ended with code 1) Given up after 4 attempts that never got ready."
        assert failed.restarts == 3


async def test_failing_the_same_way_at_the_start_is_given_up_sooner() -> None:
    """Three times, not five; the hint comes along."""
    world = World()
    world.on_spawn = lambda process: process.exits(1, "torch.OutOfMemoryError: CUDA out of memory.")
    world.health.automatic = False
    async with launching(world) as launcher:
        failed = await until(launcher, "failed")
        assert len(world.processes) == 3
        assert failed.hint
        assert "max_model_len" in failed.hint


async def test_a_failed_model_stays_failed_until_somebody_asks_to_retry() -> None:
    """Requests do not start a loop; a person does, with a clean count."""
    world = World()
    world.on_spawn = lambda process: process.exits(1)
    world.health.automatic = False
    async with launching(world, policy=RestartPolicy(most_failures=1)) as launcher:
        await until(launcher, "failed")
        assert launcher.ensure_ready("m").state == "failed"
        world.on_spawn = lambda _: None
        world.health.automatic = True
        launcher.ensure_ready("m", retry=True)
        ready = await until(launcher, "ready")
        assert (ready.restarts, ready.reason, ready.hint) == (0, None, None)


async def test_a_hung_server_is_killed_and_restarted() -> None:
    """The endpoint goes before the process does."""
    world = World()
    async with launching(world) as launcher:
        await until(launcher, "ready")
        endpoints: list[str | None] = []
        world.processes[0].on_kill = lambda: endpoints.append(launcher.status().servers[0].endpoint)
        world.health.hung.put_nowait(Hung("Nothing moves."))
        crashed = await until(launcher, lambda server: server.restarts == 1)
        assert crashed.reason == "Nothing moves."
        assert world.processes[0].calls == ["kill"]
        assert endpoints == [None]
        await until(launcher, "ready")


async def test_a_server_that_does_not_get_ready_is_killed() -> None:
    """A living process that answers for another model is not kept."""
    world = World()

    class Refusing(type(world.health)):
        async def wait_ready(self, *_: Any, **__: Any) -> None:
            raise NotReady("It answers for another model.")

    world.health = Refusing()
    async with launching(world, policy=RestartPolicy(most_failures=1)) as launcher:
        failed = await until(launcher, "failed")
        assert failed.reason
        assert failed.reason.startswith("It answers for another model.")
        assert world.processes[0].calls == ["kill"]


async def test_a_preparation_that_fails_is_tried_again() -> None:
    """A broken download is not the end; the reason is shown meanwhile."""
    world = World(prepare_errors=[OSError("connection reset")])
    async with launching(world) as launcher:
        waiting = await until(launcher, lambda server: server.restarts == 1)
        assert waiting.reason == "connection reset"
        await until(launcher, "ready")
        assert world.prepared == ["m", "m"]


async def test_a_preparation_that_cannot_succeed_fails_at_once() -> None:
    """With its reason and its hint."""
    world = World(prepare_errors=[ServerFailed("Wrong checksum.", "Mend models.json.", permanent=True)])
    async with launching(world) as launcher:
        failed = await until(launcher, "failed")
        assert failed.reason == "Wrong checksum. Given up after an error that does not go away by itself."
        assert failed.hint == "Mend models.json."
        assert world.prepared == ["m"]


async def test_a_refused_model_is_failed_from_the_start() -> None:
    """It tells why, and no request starts it."""
    world = World()
    refused = ServerSpec("m", "m", refusal=LauncherError("It does not fit.", "Get more memory."))
    async with launching(world, refused) as launcher:
        server = launcher.ensure_ready("m", retry=True)
        assert (server.state, server.reason, server.hint) == ("failed", "It does not fit.", "Get more memory.")
        assert not world.prepared


async def test_unloading_withdraws_drains_and_stops_in_this_order() -> None:
    """The endpoint is gone before the requests under way are waited for, and the process is asked last."""
    world = World()
    world.health.idle.clear()
    async with launching(world) as launcher:
        await until(launcher, "ready")
        unloading = asyncio.create_task(launcher.unload("m"))
        draining = await until(launcher, "draining")
        assert draining.endpoint is None
        assert world.processes[0].calls == []
        world.health.idle.set()
        assert (await unloading).state == "stopped"
        assert world.health.log[-1] == "wait_idle http://127.0.0.1 7"
        assert world.processes[0].calls == ["stop 3"]


async def test_unloading_a_starting_server_waits_for_no_request() -> None:
    """It has none; its grace is short, because vLLM loses a SIGTERM that comes so early."""
    world = World()
    world.health.automatic = False
    async with launching(world) as launcher:
        await until(launcher, lambda server: server.pid is not None)
        assert (await launcher.unload("m")).state == "stopped"
        assert world.processes[0].calls == ["stop 1"]
        assert world.health.log == ["ask served-m"]


async def test_unloading_while_fetching_cancels_the_preparation() -> None:
    """Nothing is spawned."""
    world = World()
    world.fetched.clear()
    async with launching(world) as launcher:
        await until(launcher, "fetching")
        assert (await launcher.unload("m")).state == "stopped"
        assert not world.processes


async def test_unloading_while_backing_off_ends_the_waiting() -> None:
    """The server is stopped, not started once more."""
    world = World()
    world.on_spawn = lambda process: process.exits(1)
    world.health.automatic = False
    async with launching(world, policy=RestartPolicy(first_delay=15.0)) as launcher:
        await until(launcher, lambda server: server.restarts == 1)
        assert (await launcher.unload("m")).state == "stopped"
        assert len(world.processes) == 1


async def test_a_model_wanted_again_while_it_drains_comes_back() -> None:
    """The old server ends first, then a new one starts."""
    world = World()
    world.health.idle.clear()
    async with launching(world) as launcher:
        await until(launcher, "ready")
        unloading = asyncio.create_task(launcher.unload("m"))
        await until(launcher, "draining")
        assert launcher.ensure_ready("m").state == "draining"
        world.health.idle.set()
        await unloading
        ready = await until(launcher, "ready")
        assert ready.pid == 2
        assert not world.processes[0].alive


async def turns() -> None:
    """Turns of the event loop, more than a keeper needs to begin."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_wanting_and_releasing_at_once_starts_nothing() -> None:
    """Released before the keeper had its turn."""
    world = World()
    async with launching(world, spec(on_demand=True)) as launcher:
        await turns()  # the keeper waits to be wanted
        launcher.ensure_ready("m")
        assert (await launcher.unload("m")).state == "absent"
        await turns()
        assert launcher.status().servers[0].state == "absent"
        assert not world.prepared


async def test_shutting_down_stops_every_server_and_ends_the_events() -> None:
    """The last event tells that all have stopped."""
    world = World()
    async with launching(world, spec("a"), spec("b")) as launcher:
        await until(launcher, "ready", "a")
        await until(launcher, "ready", "b")
        events = launcher.events()
        await anext(events)
        await launcher.shutdown()
        last = [status async for status in events][-1]
        assert [server.state for server in last.servers] == ["stopped", "stopped"]


async def test_a_slow_reader_gets_the_newest_status_only() -> None:
    """Whatever happened meanwhile is one event."""
    world = World()
    async with launching(world) as launcher:
        slow = launcher.events()
        assert (await anext(slow)).servers[0].state == "absent"
        await until(launcher, "ready")
        await until(launcher, lambda server: server.memory_bytes == 1_000_000)
        assert (await anext(slow)).servers[0].state == "ready"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(slow), 0.05)


async def test_a_heartbeat_repeats_an_unchanged_status() -> None:
    """So that who listens knows that somebody still talks."""
    async with launching(World(), spec(on_demand=True)) as launcher:
        events = launcher.events(heartbeat=0.01)
        assert await anext(events) == await anext(events)


async def test_a_mistake_in_a_collaborator_fails_its_model_and_no_other() -> None:
    """An exception that nobody foresaw is shown, and the other model is served."""
    world = World()
    good = world.spawn

    async def spawn(name: str, launch: Any) -> Any:
        if name == "a":
            raise RuntimeError("a mistake")
        return await good(name, launch)

    world.spawn = spawn  # pyright: ignore[reportAttributeAccessIssue]
    async with launching(world, spec("a"), spec("b")) as launcher:
        failed = await until(launcher, "failed", "a")
        assert failed.reason == "Internal error: RuntimeError('a mistake')"
        await until(launcher, "ready", "b")


async def test_an_external_server_has_no_process_and_is_never_given_up() -> None:
    """Its endpoint is the address it was given; it is asked again and again."""
    world = World()
    outside = ServerSpec("m", "theirs", external=External("http://elsewhere:8000"))
    async with launching(world, outside) as launcher:
        ready = await until(launcher, "ready")
        assert (ready.endpoint, ready.served_name, ready.pid) == ("http://elsewhere:8000", "theirs", None)
        for number in range(1, 12):
            world.health.hung.put_nowait(Hung("It has not answered."))
            await until(launcher, lambda server, number=number: server.restarts == number)
        await until(launcher, "ready")
        assert max(world.clock.slept) == 30.0
        assert not world.processes
        assert not world.prepared


async def test_nobody_is_sent_to_a_server_whose_main_process_has_ended() -> None:
    """Its workers may take seconds to die; the restart waits for them, the withdrawal does not."""
    world = World()
    async with launching(world) as launcher:
        await until(launcher, "ready")
        world.processes[0].main_ended.set()
        ending = await until(launcher, "starting")
        assert ending.endpoint is None
        assert ending.phase == "ending what is left of the old process"
        assert len(world.processes) == 1
        world.processes[0].exits(0)
        await until(launcher, lambda server: server.state == "ready" and server.restarts == 1)
