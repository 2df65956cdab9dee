"""The control API over a real Unix socket, in front of a scripted launcher."""

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from vllm_launcher.control import Around, ControlServer
from vllm_launcher.control_client import ControlClient
from vllm_launcher.errors import InvalidModels, LauncherError, LauncherGone, UnknownModel
from vllm_launcher.keeping.board import Board
from vllm_launcher.processes.run_directory import token_of
from vllm_launcher.status import LauncherStatus, ServerStatus

DEADLINE = 20.0


class Scripted:
    """A launcher that only notes what it was asked for."""

    def __init__(self) -> None:
        self.board = Board([ServerStatus(model="m", served_name="m")])
        self.asked: list[tuple[str, bool]] = []
        self.done: list[str] = []

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

    async def unload(self, model: str) -> ServerStatus:
        """See ``control.Controlled``."""
        server = self.board[model]
        self.done.append(f"unload {model}")
        return server

    async def restart(self, model: str) -> ServerStatus:
        """See ``control.Controlled``."""
        server = self.board[model]
        self.done.append(f"restart {model}")
        return server


def bearer(token: str) -> dict[str, str]:
    """What a client shows."""
    return {"Authorization": f"Bearer {token}"}


@contextlib.asynccontextmanager
async def controlled(
    tmp_path: Path, *, heartbeat: float = 60.0, around: Around | None = None
) -> AsyncGenerator[tuple[Scripted, ControlClient], None]:
    """A served launcher and a client of it."""
    launcher = Scripted()
    async with ControlServer(launcher, tmp_path / "control.sock", heartbeat=heartbeat, around=around):
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
            aiohttp.ClientSession(connector=connector, headers=bearer(token_of(tmp_path))) as session,
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


async def test_unload_and_restart_reach_the_launcher(tmp_path: Path) -> None:
    """And answer with the server's status."""
    async with controlled(tmp_path) as (launcher, client):
        assert (await client.unload("m")).model == "m"
        assert (await client.restart("m")).model == "m"
        assert launcher.done == ["unload m", "restart m"]
        with pytest.raises(UnknownModel):
            await client.unload("other")


@pytest.mark.parametrize("token", [None, "", "wrong", "Bearer", "\u00e9"])
async def test_without_the_token_nothing_is_told_or_done(tmp_path: Path, token: str | None) -> None:
    """The socket alone is not enough."""
    async with controlled(tmp_path) as (launcher, _):
        connector = aiohttp.UnixConnector(str(tmp_path / "control.sock"))
        async with aiohttp.ClientSession(connector=connector, headers=None if token is None else bearer(token)) as http:
            for method, path in (("GET", "status"), ("GET", "events"), ("POST", "models/m/unload"), ("POST", "stop")):
                async with http.request(method, f"http://launcher/v1/{path}") as response:
                    assert response.status == 401
                    assert (await response.json())["error"]["type"] == "unauthorized"
        assert launcher.done == []


async def test_the_token_is_new_at_every_start_and_nobody_elses_to_read(tmp_path: Path) -> None:
    """One that leaked is worth nothing after a restart."""
    tokens: list[str] = []
    for _ in range(2):
        async with controlled(tmp_path):
            tokens.append(token_of(tmp_path))
            assert stat.S_IMODE((tmp_path / "control.token").stat().st_mode) == 0o600
    assert len(set(tokens)) == 2
    assert all(len(token) > 40 for token in tokens)


async def test_reloading_says_what_is_wrong(tmp_path: Path) -> None:
    """As the list of models' own errors do."""
    wrong: list[InvalidModels] = []

    async def reload() -> None:
        if wrong:
            raise wrong.pop()

    async with controlled(tmp_path, around=Around(reload=reload)) as (launcher, client):
        assert await client.reload() == launcher.status()
        wrong.append(InvalidModels("models.json:3:5: no such field"))
        with pytest.raises(InvalidModels, match=r"models\.json:3:5"):
            await client.reload()


async def test_stopping_is_asked_for_once(tmp_path: Path) -> None:
    """The answer comes before the end."""
    stopped = asyncio.Event()
    async with controlled(tmp_path, around=Around(stop=stopped.set)) as (_, client):
        await client.stop()
        assert stopped.is_set()


async def test_what_the_surroundings_do_not_offer_is_refused(tmp_path: Path) -> None:
    """In words."""
    async with controlled(tmp_path) as (_, client):
        for call in (client.reload, client.stop):
            with pytest.raises(LauncherError):
                await call()


async def test_logs_are_followed_until_the_launcher_ends(tmp_path: Path) -> None:
    """The last lines, then what comes, then what comes after the file was moved aside."""
    log = tmp_path / "m.log"
    log.write_text("one\ntwo\nthree\n")
    seen: list[str] = []
    async with asyncio.timeout(DEADLINE):
        async with controlled(tmp_path, around=Around(log=lambda model: tmp_path / f"{model}.log")) as (_, client):
            assert [line async for line in client.logs("m", lines=2)] == ["two", "three"]
            assert [line async for line in client.logs("m", lines=0)] == []
            following = client.logs("m", lines=1, follow=True)
            seen.append(await anext(following))
            with log.open("a") as file:
                file.write("four\n")
            seen.append(await anext(following))
            log.rename(tmp_path / "m.log.1")
            log.write_text("five\n")
            seen.append(await anext(following))
        seen += [line async for line in following]
    assert seen == ["three", "four", "five"]


async def test_logs_of_an_unknown_model_are_unknown(tmp_path: Path) -> None:
    """No path is made of a client's text."""
    async with controlled(tmp_path, around=Around(log=lambda model: tmp_path / f"{model}.log")) as (_, client):
        with pytest.raises(UnknownModel):
            _ = [line async for line in client.logs("../control", lines=5)]
