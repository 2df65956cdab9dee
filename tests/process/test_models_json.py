"""What becomes of ``models.json`` while the launcher runs: edited, cut off, deleted, made huge. A real ``up``."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from tests.process.fleet import DEADLINE, engine_launch
from tests.product import free_port
from tests.surroundings import ROOT, environment
from vllm_launcher.control_client import ControlClient
from vllm_launcher.errors import InvalidModels, LauncherGone
from vllm_launcher.processes.run_directory import control_socket
from vllm_launcher.registry import MAX_BYTES
from vllm_launcher.status import LauncherStatus


@dataclass
class Running:
    """A launcher with its list of models; every model in it is served by the same fake engine."""

    folder: Path
    engine: int
    process: asyncio.subprocess.Process = field(init=False)

    @property
    def models(self) -> Path:
        """The list."""
        return self.folder / "models.json"

    @property
    def client(self) -> ControlClient:
        """To ask the launcher."""
        return ControlClient(control_socket(self.folder / "run"))

    def write(self, *ids: str) -> None:
        """Replace the list as editors do."""
        engine = {"type": "external", "url": f"http://127.0.0.1:{self.engine}/v1", "model": "fake"}
        new = self.folder / "models.json.new"
        new.write_text(json.dumps({"models": [{"id": name, "engine": engine} for name in ids]}))
        new.replace(self.models)

    async def until(self, wanted: Callable[[LauncherStatus], bool]) -> LauncherStatus:
        """Wait until the launcher's status is as wanted."""
        last = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE):
                while self.process.returncode is None:
                    with contextlib.suppress(LauncherGone):
                        async for last in self.client.watch():
                            if wanted(last):
                                return last
                    await asyncio.sleep(0.05)
        raise AssertionError(f"the status did not become as wanted; last seen: {last!r}")

    async def command(self, *arguments: str) -> tuple[int | None, str]:
        """Call the command line as another shell would; its exit status and everything it printed."""
        process = await start_launcher(self.folder, *arguments)
        told, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
        return process.returncode, told.decode()


async def start_launcher(
    folder: Path, *arguments: str, output: int | IO[bytes] = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    """A command line, in that folder."""
    env = environment(LANGSERVE_VLLM_RUN=str(folder / "run"), COLUMNS="200")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vllm_launcher",
        *arguments,
        cwd=ROOT,
        env=env,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
    )


@contextlib.asynccontextmanager
async def fake_engine() -> AsyncGenerator[int, None]:
    """One that somebody else runs; its port."""
    port = free_port()
    launch = engine_launch("fake", port)
    process = await asyncio.create_subprocess_exec(
        *launch.argv, env=launch.env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A launcher that serves one model; it has to end by being asked."""
    async with fake_engine() as engine:
        launcher = Running(tmp_path, engine)
        launcher.write("kept")
        launcher.process = await start_launcher(tmp_path, "up", "--models", str(launcher.models), "--no-app", "--json")
        try:
            await launcher.until(is_ready("kept"))
            yield launcher
            assert await launcher.command("stop") == (0, "stopped\n")
            lines, _ = await asyncio.wait_for(launcher.process.communicate(), DEADLINE)
            assert launcher.process.returncode == 0, lines.decode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                launcher.process.kill()
            await launcher.process.communicate()


def is_ready(model: str) -> Callable[[LauncherStatus], bool]:
    """Whether that model is."""
    return lambda now: (server := now.server(model)) is not None and server.state == "ready"


def cut_off(models: Path) -> None:
    """In the middle, in place: as a full disk or an impatient editor does."""
    os.truncate(models, models.stat().st_size // 2)


def emptied(models: Path) -> None:
    """In place."""
    models.write_text("")


def deleted(models: Path) -> None:
    """As a mistyped command does."""
    models.unlink()


def made_huge(models: Path) -> None:
    """A log that was written to the wrong file."""
    with models.open("ab") as file:
        file.write(b" " * (64 * MAX_BYTES))


def made_a_folder(models: Path) -> None:
    """A mount that went wrong."""
    models.unlink()
    models.mkdir()


async def test_a_list_that_is_broken_changes_nothing_and_says_why(running: Running) -> None:
    """In five ways; each time what runs goes on, and the same list as before is no change."""
    before = await running.client.status()
    ways: list[tuple[Callable[[Path], None], str]] = [
        (cut_off, "models.json:1:"),
        (emptied, "models.json"),
        (made_huge, "larger than"),
        (deleted, "models.json"),
        (made_a_folder, "models.json"),
    ]
    for break_it, words in ways:
        break_it(running.models)
        now = await running.until(lambda now: now.problem is not None)
        assert words in (now.problem or "")
        with pytest.raises(InvalidModels):
            await running.client.reload()
        assert now.servers == before.servers
        assert now.generation == before.generation
        code, told = await running.command("reload")
        assert code == 3, told
        assert words in told
        if running.models.is_dir():
            running.models.rmdir()
        running.write("kept")
        mended = await running.until(lambda now: now.problem is None)
        assert mended.servers == before.servers
        assert mended.generation == before.generation


async def test_the_difference_alone_is_taken_over(running: Running) -> None:
    """One comes, one goes, one stays as it was; nobody has to ask for it."""
    before = await running.client.status()
    running.write("kept", "new")
    now = await running.until(is_ready("new"))
    assert now.server("kept") == before.server("kept")
    assert now.generation == before.generation + 1
    running.write("new")
    now = await running.until(lambda now: now.server("kept") is None)
    assert [server.model for server in now.servers] == ["new"]


async def test_every_command_speaks_json(running: Running) -> None:
    """One document on standard output: status, load, unload, restart, reload; logs a line each."""
    for arguments in (["status"], ["unload", "kept"], ["load", "kept"], ["restart", "kept"], ["reload"]):
        code, told = await running.command(*arguments, "--json")
        answer: dict[str, Any] = json.loads(told[told.index("{\n") :])
        assert code == 0
        assert "kept" in (answer.get("model"), *(server["model"] for server in answer.get("servers", [])))
    code, told = await running.command("logs", "gone", "--json")
    assert code == 1
    assert "gone" in told


async def test_a_log_beside_the_list_does_not_feed_itself(tmp_path: Path) -> None:
    """``up > up.log`` in the folder of the list: an edit is taken over, and no line is about the log's own growth."""
    log = tmp_path / "up.log"
    async with fake_engine() as engine:
        launcher = Running(tmp_path, engine)
        launcher.write("kept")
        arguments = ("up", "--models", str(launcher.models), "--no-app")
        with log.open("wb") as output:
            launcher.process = await start_launcher(tmp_path, *arguments, output=output)
        try:
            await launcher.until(is_ready("kept"))
            launcher.write("kept", "added")
            await launcher.until(is_ready("added"))
            assert await launcher.command("stop") == (0, "stopped\n")
            await asyncio.wait_for(launcher.process.wait(), DEADLINE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                launcher.process.kill()
            await launcher.process.wait()
    told = log.read_text()
    assert "was taken over" in told
    assert "detected" not in told
