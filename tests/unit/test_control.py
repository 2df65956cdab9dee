"""The control API over a real Unix socket, in front of a scripted launcher."""

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from vllm_launcher.control import ControlClient, ControlServer
from vllm_launcher.errors import LauncherGone, UnknownModel
from vllm_launcher.keeping.board import Board
from vllm_launcher.status import LauncherStatus, ServerStatus

DEADLINE = 5.0


class Scripted:
    """A launcher that only notes what it was asked for."""

    def __init__(self) -> None:
        self.board = Board([ServerStatus(model="m", served_name="m")])
        self.asked: list[tuple[str, bool]] = []

    def status(self) -> LauncherStatus:
        """See ``control.Controlled``."""
        return self.board.snapshot()

    def events(self, heartbeat: float | None = None) -> AsyncIterator[LauncherStatus]:
        """See ``control.Controlled``."""
        return self.board.changes(heartbeat)

    def ensure_ready(self, model: str, *, retry: bool = False) -> ServerStatus:
        """See ``control.Controlled``."""
        server = self.board[model]
        self.asked.append((model, retry))
        return server


@contextlib.asynccontextmanager
async def controlled(
    tmp_path: Path, *, heartbeat: float = 60.0
) -> AsyncGenerator[tuple[Scripted, ControlClient], None]:
    """A served launcher and a client of it."""
    launcher = Scripted()
    async with ControlServer(launcher, tmp_path / "control.sock", heartbeat=heartbeat):
        yield launcher, ControlClient(tmp_path / "control.sock")
        launcher.board.close()


async def test_the_status_is_what_the_launcher_says(tmp_path: Path) -> None:
    """The same value on the other side."""
    async with controlled(tmp_path) as (launcher, client):
        assert await client.status() == launcher.status()


async def test_ensure_ready_asks_the_launcher_and_answers_at_once(tmp_path: Path) -> None:
    """Retry only where it was asked for."""
    async with controlled(tmp_path) as (launcher, client):
        assert (await client.ensure_ready("m")).state == "absent"
        await client.ensure_ready("m", retry=True)
        assert launcher.asked == [("m", False), ("m", True)]


@pytest.mark.parametrize("model", ["other", "../status", "a/b", "m?retry=true"])
async def test_an_unknown_model_is_unknown(tmp_path: Path, model: str) -> None:
    """Whatever its name looks like."""
    async with controlled(tmp_path) as (launcher, client):
        with pytest.raises(UnknownModel):
            await client.ensure_ready(model)
        assert not launcher.asked


async def test_watching_begins_with_the_status_and_follows_its_changes(tmp_path: Path) -> None:
    """One whole status for each."""
    async with controlled(tmp_path) as (launcher, client), asyncio.timeout(DEADLINE):
        watching = client.watch()
        assert (await anext(watching)).servers[0].state == "absent"
        launcher.board.put(ServerStatus(model="m", served_name="m", state="fetching"))
        assert (await anext(watching)).servers[0].state == "fetching"
        await watching.aclose()


async def test_the_stream_is_json_lines(tmp_path: Path) -> None:
    """For clients that are not ours."""
    async with controlled(tmp_path, heartbeat=0.01), asyncio.timeout(DEADLINE):
        connector = aiohttp.UnixConnector(str(tmp_path / "control.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://launcher/v1/events") as response,
        ):
            assert response.content_type == "application/x-ndjson"
            lines = [await response.content.readline() for _ in range(3)]
    assert [json.loads(line)["servers"][0]["model"] for line in lines] == ["m", "m", "m"]


async def test_a_watch_ends_with_an_error_when_the_launcher_stops(tmp_path: Path) -> None:
    """It never just ends."""
    async with asyncio.timeout(DEADLINE):
        async with controlled(tmp_path) as (_, client):
            watching = client.watch()
            await anext(watching)
        await anext(watching)  # the last status
        with pytest.raises(LauncherGone, match="has stopped"):
            await anext(watching)


async def test_a_watch_ends_with_an_error_when_the_launcher_falls_silent(tmp_path: Path) -> None:
    """A launcher that is stopped holds its socket open and says nothing."""
    async with controlled(tmp_path), asyncio.timeout(DEADLINE):
        watching = ControlClient(tmp_path / "control.sock", silence=0.05).watch()
        await anext(watching)
        with pytest.raises(LauncherGone):
            await anext(watching)


async def test_heartbeats_keep_a_watch_alive(tmp_path: Path) -> None:
    """Silence is counted between lines."""
    async with controlled(tmp_path, heartbeat=0.01), asyncio.timeout(DEADLINE):
        watching = ControlClient(tmp_path / "control.sock", silence=1.0).watch()
        seen = [await anext(watching) for _ in range(5)]
        await watching.aclose()
    assert len(set(map(str, seen))) == 1


async def test_without_a_launcher_every_call_says_so(tmp_path: Path) -> None:
    """The error names the socket."""
    client = ControlClient(tmp_path / "control.sock")
    for call in (client.status(), client.ensure_ready("m"), anext(client.watch())):
        with pytest.raises(LauncherGone, match=r"control\.sock"):
            await call


async def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    """Mode 0600, and it is removed in the end."""
    async with controlled(tmp_path):
        assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600
    assert not (tmp_path / "control.sock").exists()


async def test_a_socket_that_an_earlier_launcher_left_is_replaced(tmp_path: Path) -> None:
    """SIGKILL removes no files."""
    (tmp_path / "control.sock").touch()
    async with controlled(tmp_path) as (_, client):
        await client.status()


async def test_a_slow_watcher_gets_the_newest_status_only(tmp_path: Path) -> None:
    """Two thousand changes at once are one line."""
    async with controlled(tmp_path) as (launcher, client), asyncio.timeout(DEADLINE):
        watching = client.watch()
        await anext(watching)
        for number in range(2000):
            launcher.board.put(ServerStatus(model="m", served_name="m", restarts=number))
        assert (await anext(watching)).servers[0].restarts == 1999
        await watching.aclose()
