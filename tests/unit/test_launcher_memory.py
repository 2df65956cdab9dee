"""More models than memory, against a scripted world: who is loaded, who makes room, who waits for whom."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.fakes import World, spec
from tests.unit.launching import launching, until
from vllm_launcher.errors import Hung, LauncherError, UnknownModel
from vllm_launcher.keeping.collaborators import ServerSpec
from vllm_launcher.keeping.metrics import Sample

ONE = {"cpu": 10}
"""Memory for one of the servers below."""


def big(model: str, *, load: str = "on-demand", **rules: object) -> ServerSpec:
    """A server beside which there is no room for another one."""
    return ServerSpec(
        model,
        f"served-{model}",
        load="startup" if load == "startup" else "on-demand",
        needs={"cpu": 8},
        **rules,  # pyright: ignore[reportArgumentType] - the tests' own keywords
    )


def idle(handled: float = 1.0) -> Sample:
    """A server without requests."""
    return Sample(busy=False, moved=handled, requests=0, handled=handled)


async def logged(world: World, line: str) -> None:
    """Wait until the health checks were asked for that."""
    async with asyncio.timeout(20):
        while line not in world.health.log:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0)


async def test_a_model_makes_room_for_the_one_that_is_asked_for() -> None:
    """It is drained and gone before the other starts."""
    world = World()
    alive: list[int] = []
    world.on_spawn = lambda _: alive.append(sum(process.alive for process in world.processes))
    async with launching(world, big("a", load="startup"), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        launcher.ensure_ready("b")
        stopped = await until(launcher, "stopped", "a")
        assert stopped.phase == "making room for b"
        await until(launcher, "ready", "b")
        assert alive == [1, 1]
        assert world.processes[0].calls == ["stop 3"]


async def test_requests_under_way_are_waited_for_without_a_deadline() -> None:
    """Until then the endpoint is withdrawn, the process lives, and the other model says for whom it waits."""
    world = World()
    async with launching(world, big("a", load="startup"), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        world.health.idle.clear()
        launcher.ensure_ready("b")
        draining = await until(launcher, "draining", "a")
        assert (draining.endpoint, draining.phase) == (None, "making room for b")
        waiting = await until(launcher, lambda server: bool(server.phase), "b")
        await until(launcher, lambda server: server.phase == "waiting for memory: a leaves first", "b")
        assert waiting.pid is None
        await logged(world, "wait_idle http://127.0.0.1 for ever")
        assert world.processes[0].alive
        world.health.idle.set()
        await until(launcher, "ready", "b")


async def test_a_server_that_hangs_while_it_makes_room_is_ended() -> None:
    """Its requests will never finish."""
    world = World()
    async with launching(world, big("a", load="startup"), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        world.health.idle.clear()
        launcher.ensure_ready("b")
        await until(launcher, "draining", "a")
        world.health.hung.put_nowait(Hung("It stands still."))
        await until(launcher, "ready", "b")
        assert not world.processes[0].alive
        world.health.idle.set()


async def test_shutting_down_does_not_wait_for_a_patient_drain() -> None:
    """The graces of the shutdown hold from then on."""
    world = World()
    async with launching(world, big("a", load="startup"), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        world.health.idle.clear()
        launcher.ensure_ready("b")
        await until(launcher, "draining", "a")
        ending = asyncio.create_task(launcher.shutdown())
        await logged(world, "wait_idle http://127.0.0.1 2")
        world.health.idle.set()
        async with asyncio.timeout(20):
            await ending


async def test_a_model_that_is_wanted_again_while_it_makes_room_comes_back_after_the_other() -> None:
    """First come, first served: it queues, and is loaded in its turn."""
    world = World()
    async with launching(world, big("a", load="startup"), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        world.health.idle.clear()
        launcher.ensure_ready("b")
        await until(launcher, "draining", "a")
        launcher.ensure_ready("a")
        world.health.idle.set()
        await until(launcher, "ready", "b")
        await until(launcher, "stopped", "b")
        await until(launcher, "ready", "a")
        assert world.prepared == ["a", "b", "a"]


async def test_a_pinned_model_stays_and_what_needs_its_room_fails_with_the_sizes() -> None:
    """At once, and for good: waiting would be for ever."""
    world = World()
    async with launching(world, big("a", load="startup", pinned=True), big("b"), capacity=ONE) as launcher:
        assert (await until(launcher, "ready", "a")).pinned
        launcher.ensure_ready("b")
        failed = await until(launcher, "failed", "b")
        assert failed.reason
        assert "beside the pinned a" in failed.reason
        assert failed.hint


async def test_at_startup_models_that_share_are_loaded_as_far_as_memory_goes() -> None:
    """The first of them; the other is absent, and loads when it is asked for."""
    world = World()
    shares = [big("a", load="startup", shares=True), big("b", load="startup", shares=True)]
    async with launching(world, *shares, spec("c"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        later = await until(launcher, lambda server: server.phase == "loads when it is asked for", "b")
        assert later.state == "absent"
        launcher.ensure_ready("b")
        await until(launcher, "ready", "b")


async def test_a_server_without_requests_is_unloaded_after_its_time() -> None:
    """Counted from its last request; a question of ours is none."""
    world = World()
    async with launching(world, big("a", load="startup", idle_seconds=60.0)) as launcher:
        await until(launcher, "ready", "a")
        look = await world.health.watcher("served-a")
        look(idle(1))
        world.clock.time += 50
        look(idle(2))
        used = launcher.status().servers[0]
        assert used.last_used
        world.clock.time += 59
        look(Sample(busy=False, moved=3, requests=0, handled=3, probed=True))
        assert launcher.status().servers[0].state == "ready"
        world.clock.time += 1
        look(idle(3))
        stopped = await until(launcher, "stopped", "a")
        assert stopped.phase == "idle for 60 s"


async def test_a_busy_server_is_not_idle() -> None:
    """However long one request takes."""
    world = World()
    async with launching(world, big("a", load="startup", idle_seconds=60.0)) as launcher:
        await until(launcher, "ready", "a")
        look = await world.health.watcher("served-a")
        for _ in range(3):
            world.clock.time += 100
            look(Sample(busy=True, moved=1, requests=1, handled=1))
        assert launcher.status().servers[0].state == "ready"


async def test_what_a_server_does_is_told() -> None:
    """Requests, tokens a second since the last look, and the cache in use."""
    world = World()
    async with launching(world, big("a", load="startup")) as launcher:
        await until(launcher, "ready", "a")
        look = await world.health.watcher("served-a")
        look(Sample(busy=True, moved=1, requests=2, tokens=100, cache_usage=0.5, handled=1))
        world.clock.time += 10
        look(Sample(busy=True, moved=1, requests=2, tokens=350, cache_usage=0.75, handled=1))
        told = launcher.status().servers[0]
        assert (told.requests, told.tokens_per_second, told.cache_usage) == (2, 25.0, 0.75)


async def test_a_server_with_sleep_mode_sleeps_instead_of_ending() -> None:
    """Its process stays; waking is quicker than a start, and needs room like one."""
    world = World()
    async with launching(world, big("a", load="startup", sleep=1), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        launcher.ensure_ready("b")
        asleep = await until(launcher, "asleep", "a")
        assert (asleep.endpoint, asleep.pid) == (None, 1)
        await until(launcher, "ready", "b")
        launcher.ensure_ready("a")
        await until(launcher, "stopped", "b")
        assert (await until(launcher, "ready", "a")).pid == 1
        assert [line for line in world.health.log if "served-a" in line] == [
            "ask served-a", "sleep served-a 1", "wake served-a 1", "ask served-a",
        ]  # fmt: skip
        assert len(world.processes) == 2


async def test_a_server_that_cannot_sleep_is_stopped() -> None:
    """It has to make room one way or the other."""
    world = World()
    world.health.sleepless = True
    async with launching(world, big("a", load="startup", sleep=1), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        launcher.ensure_ready("b")
        await until(launcher, "ready", "b")
        assert not world.processes[0].alive
        assert launcher.status().servers[0].state == "stopped"


async def test_a_sleeping_server_that_dies_is_started_when_it_is_asked_for() -> None:
    """Its death is a crash like any other."""
    world = World()
    async with launching(world, big("a", load="startup", sleep=2, idle_seconds=1.0)) as launcher:
        await until(launcher, "ready", "a")
        look = await world.health.watcher("served-a")
        look(idle())
        world.clock.time += 2
        look(idle())
        await until(launcher, "asleep", "a")
        world.processes[0].exits(1, "OSError: it broke")
        assert (await until(launcher, "ready", "a")).restarts == 1


async def test_unloading_a_sleeping_server_ends_it() -> None:
    """Nothing of it is left."""
    world = World()
    async with launching(world, big("a", load="startup", sleep=1, idle_seconds=1.0)) as launcher:
        await until(launcher, "ready", "a")
        look = await world.health.watcher("served-a")
        look(idle())
        world.clock.time += 2
        look(idle())
        await until(launcher, "asleep", "a")
        assert (await launcher.unload("a")).state == "stopped"
        assert not world.processes[0].alive


async def test_restarting_gives_a_new_process() -> None:
    """Drained and stopped first; a failed one is revived."""
    world = World()
    async with launching(world, big("a", load="startup")) as launcher:
        await until(launcher, "ready", "a")
        await launcher.restart("a")
        assert (await until(launcher, lambda server: server.pid == 2 and server.state == "ready", "a")).restarts == 0
        with pytest.raises(UnknownModel):
            await launcher.restart("other")


# --- changes while running -------------------------------------------------------------------


async def test_only_the_difference_is_applied() -> None:
    """New ones come, others go, changed ones start anew; who is the same does not notice."""
    world = World()
    kept, changed, gone = (big(model, load="startup", fingerprint="1") for model in ("kept", "changed", "gone"))
    async with launching(world, kept, changed, gone) as launcher:
        for model in ("kept", "changed", "gone"):
            await until(launcher, "ready", model)
        new = big("new", load="startup")
        altered = big("changed", load="startup", fingerprint="2")
        await launcher.apply([new, altered, kept], {})
        now = launcher.status()
        assert ([server.model for server in now.servers], now.generation) == (["new", "changed", "kept"], 1)
        await until(launcher, "ready", "new")
        await until(launcher, "ready", "changed")
        assert [process.alive for process in world.processes] == [True, False, False, True, True]
        with pytest.raises(UnknownModel):
            launcher.ensure_ready("gone")


async def test_rules_change_without_a_restart() -> None:
    """Pinning, idle time: the process stays."""
    world = World()
    async with launching(world, big("a", load="startup"), big("b"), capacity=ONE) as launcher:
        await until(launcher, "ready", "a")
        await launcher.apply([big("a", load="startup", pinned=True), big("b")], ONE)
        assert launcher.status().servers[0].pinned
        launcher.ensure_ready("b")
        await until(launcher, "failed", "b")
        assert world.processes[0].alive


async def test_a_model_that_does_not_fit_any_more_is_stopped_with_the_reason() -> None:
    """And comes back when it fits again."""
    world = World()
    async with launching(world, big("a", load="startup")) as launcher:
        await until(launcher, "ready", "a")
        refused = big("a", load="startup", refusal=LauncherError("needs more", "add memory"))
        await launcher.apply([refused], {})
        told = launcher.status().servers[0]
        assert (told.state, told.reason, told.refused) == ("failed", "needs more", True)
        assert not world.processes[0].alive
        await launcher.apply([big("a", load="startup")], {})
        await until(launcher, "ready", "a")


async def test_a_model_that_went_can_come_back() -> None:
    """Under its old name, with a server of its own."""
    world = World()
    async with launching(world, big("a", load="startup"), big("b")) as launcher:
        await until(launcher, "ready", "a")
        await launcher.apply([big("b")], {})
        await launcher.apply([big("a"), big("b")], {})
        assert launcher.ensure_ready("a").state == "absent"
        assert (await until(launcher, "ready", "a")).pid == 2


async def test_a_problem_is_told_until_the_next_change() -> None:
    """For whoever looks at the status."""
    world = World()
    async with launching(world, spec("a")) as launcher:
        launcher.note_problem("models.json:3: no such field")
        assert launcher.status().problem == "models.json:3: no such field"
        await launcher.apply([spec("a")], {})
        assert (launcher.status().problem, launcher.status().generation) == (None, 1)


# --- after a restart -------------------------------------------------------------------------


async def test_what_was_loaded_is_loaded_again(tmp_path: Path) -> None:
    """On demand then, at once now."""
    desired = tmp_path / "desired.json"
    async with launching(World(), spec("a"), spec("b", on_demand=True), desired=desired) as launcher:
        launcher.ensure_ready("b")
        await until(launcher, "ready", "b")
    async with launching(World(), spec("a"), spec("b", on_demand=True), desired=desired) as launcher:
        await until(launcher, "ready", "b")


async def test_what_a_person_unloaded_stays_unloaded_after_a_crash_and_comes_back_after_a_stop(tmp_path: Path) -> None:
    """A crash is no decision of anybody's; a stop is."""
    desired = tmp_path / "desired.json"
    async with launching(World(), spec("a"), desired=desired) as launcher:
        await until(launcher, "ready", "a")
        await launcher.unload("a")
        async with asyncio.timeout(20):
            while not desired.exists() or '"unloaded":["a"]' not in desired.read_text():  # noqa: ASYNC110 - nor has a file
                await asyncio.sleep(0.01)
        at_the_crash = desired.read_text()
    assert '"unloaded":[]' in desired.read_text()
    desired.write_text(at_the_crash)
    async with launching(World(), spec("a"), desired=desired) as launcher:
        assert launcher.status().servers[0].state == "absent"
        launcher.ensure_ready("a")
        await until(launcher, "ready", "a")


@pytest.mark.parametrize("content", [b"", b"{", b'{"loaded": 3}', b"\xff", b'{"loaded": ["unknown"]}'])
async def test_a_broken_record_of_what_was_loaded_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    """The start is one like the first."""
    desired = tmp_path / "desired.json"
    desired.write_bytes(content)
    async with launching(World(), spec("a"), desired=desired) as launcher:
        await until(launcher, "ready", "a")
