"""The app's table of servers: what it takes from the launcher, and what it tells who asks."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from app.engines.table import ServerTable
from app.errors import LauncherGone, ModelFailed, ModelNotReady, UnknownModel
from tests.unit.scripted import ENGINE, MODEL, SOON, ScriptedLauncher, server, status
from vllm_launcher.progress import Progress


@contextlib.asynccontextmanager
async def following(launcher: ScriptedLauncher) -> AsyncGenerator[ServerTable]:
    """A table whose task follows ``launcher``, without pauses."""
    table = ServerTable(launcher, (MODEL,), back_off=(0, 0))
    task = asyncio.create_task(table.follow())
    try:
        async with asyncio.timeout(SOON):
            yield table
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until_reachable(table: ServerTable, *, reachable: bool = True) -> None:
    """Wait until the launcher answers, or no longer does."""
    async for snapshot in table.changes():
        if (snapshot is not None) is reachable:
            return


async def test_a_ready_server_is_found_without_asking_the_launcher() -> None:
    """The hot path makes no control call."""
    launcher = ScriptedLauncher(server())
    async with following(launcher) as table:
        await until_reachable(table)
        endpoint = await table.ensure_ready(MODEL, 0)
    assert endpoint.url == ENGINE
    assert launcher.asked == []


async def test_who_waits_gets_the_server_when_it_gets_ready() -> None:
    """The wait ends with the change, not with its time."""
    launcher = ScriptedLauncher(server("starting"))
    async with following(launcher) as table:
        await until_reachable(table)
        waiting = asyncio.create_task(table.ensure_ready(MODEL, 60))
        await launcher.asked_once.wait()
        launcher.say(server("warming"))
        launcher.say(server())
        assert (await waiting).url == ENGINE


async def test_many_who_wait_ask_the_launcher_once() -> None:
    """A hundred requests for a cold model are one wish."""
    release = asyncio.Event()

    class SlowLauncher(ScriptedLauncher):
        async def ensure_ready(self, model: str) -> None:
            await super().ensure_ready(model)
            await release.wait()

    launcher = SlowLauncher(server("absent"))
    async with following(launcher) as table:
        await until_reachable(table)
        waiting = [asyncio.create_task(table.ensure_ready(MODEL, 60)) for _ in range(100)]
        await launcher.asked_once.wait()
        launcher.say(server())
        await asyncio.gather(*waiting)
        release.set()
    assert launcher.asked == [MODEL]


async def test_a_wait_that_is_over_tells_phase_progress_and_when_to_come_back() -> None:
    """503's body is made of these."""
    progress = Progress(phase="downloading weights", done=43, total=98, unit="bytes")
    launcher = ScriptedLauncher(server("fetching", phase="downloading weights", progress=progress))
    async with following(launcher) as table:
        await until_reachable(table)
        with pytest.raises(ModelNotReady) as told:
            await table.ensure_ready(MODEL, 0.01)
    assert told.value.phase == "downloading weights"
    assert told.value.progress == progress
    assert told.value.retry_after == 30


async def test_a_failed_model_is_told_at_once_and_not_started_again() -> None:
    """Requests never make a start loop: reviving it is a person's decision."""
    launcher = ScriptedLauncher(server("failed", reason="out of memory", hint="lower max_model_len"))
    async with following(launcher) as table:
        await until_reachable(table)
        with pytest.raises(ModelFailed, match="out of memory") as told:
            await table.ensure_ready(MODEL, 60)
    assert told.value.hint == "lower max_model_len"
    assert launcher.asked == []


async def test_a_model_that_fails_while_somebody_waits_ends_the_wait() -> None:
    """Nobody waits for what will not come."""
    launcher = ScriptedLauncher(server("starting"))
    async with following(launcher) as table:
        await until_reachable(table)
        waiting = asyncio.create_task(table.ensure_ready(MODEL, 60))
        await launcher.asked_once.wait()
        launcher.say(server("failed", reason="no such file"))
        with pytest.raises(ModelFailed, match="no such file"):
            await waiting


async def test_a_draining_server_gets_nothing_new_and_finishes_what_it_has() -> None:
    """Nothing is routed to a server that drains; what is under way is not told that it ended."""
    launcher = ScriptedLauncher(server())
    async with following(launcher) as table:
        await until_reachable(table)
        endpoint = await table.ensure_ready(MODEL, 0)
        table.update(status(server("draining")))
        with pytest.raises(ModelNotReady):
            await table.ensure_ready(MODEL, 0)
        assert not endpoint.ended
        table.update(status(server("stopped")))
        assert endpoint.ended


async def test_a_server_that_was_replaced_has_ended() -> None:
    """A crash and a fast restart may look like ready, ready: process and port tell them apart."""
    table = ServerTable(None, (MODEL,))
    table.update(status(server(pid=7)))
    before = await table.ensure_ready(MODEL, 0)
    told: list[str] = []
    with before.on_end(lambda: told.append("ended")):
        table.update(status(server(pid=8, restarts=1)))
    assert before.ended
    assert told == ["ended"]
    assert not (await table.ensure_ready(MODEL, 0)).ended


async def test_without_a_launcher_models_are_unreachable() -> None:
    """Servers of a launcher that is gone are not trusted."""
    launcher = ScriptedLauncher(server())
    async with following(launcher) as table:
        await until_reachable(table)
        launcher.vanish()
        await until_reachable(table, reachable=False)
        assert table.snapshot() is None
        with pytest.raises(LauncherGone):
            await table.ensure_ready(MODEL, 0)


async def test_a_launcher_that_comes_back_is_followed_again() -> None:
    """A restart of the launcher needs none of the app."""
    launcher = ScriptedLauncher(server())
    async with following(launcher) as table:
        await until_reachable(table)
        launcher.vanish()
        await until_reachable(table, reachable=False)
        launcher.return_with(server())
        await until_reachable(table)
        assert (await table.ensure_ready(MODEL, 0)).url == ENGINE


async def test_a_model_that_the_registry_lacks_is_unknown() -> None:
    """The launcher is not bothered with it."""
    with pytest.raises(UnknownModel):
        await ServerTable(None, (MODEL,)).ensure_ready("other", 60)


async def test_a_slow_reader_of_changes_gets_the_last_one() -> None:
    """Changes are coalesced, and the newest is never lost."""
    table = ServerTable(None, (MODEL,))
    changes = table.changes()
    await anext(changes)
    table.update(status(server("starting")))
    table.update(status(server("warming")))
    snapshot = await anext(changes)
    assert snapshot is not None
    assert snapshot.servers[0].state == "warming"
    await changes.aclose()
