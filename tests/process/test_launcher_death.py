"""The launcher as a process of its own, ended by real signals in every state: nothing of it may be left."""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.process.fleet import DEADLINE, marked
from tests.processes import until_gone
from vllm_launcher.control_client import ControlClient
from vllm_launcher.errors import LauncherGone
from vllm_launcher.processes.run_directory import control_socket
from vllm_launcher.status import LauncherStatus, ServerStatus

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("launcher_program.py")


@dataclass
class Running:
    """A launcher program, its run directory and its mark."""

    process: asyncio.subprocess.Process
    run: Path
    mark: str

    async def reaches(self, case: str) -> ServerStatus:
        """Wait until the model is where the case wants it."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(LauncherGone):
                    async for status in ControlClient(control_socket(self.run)).watch():
                        server = status.servers[0]
                        if _is(server, case) and self._complete(status, case):
                            return server
                if self.process.returncode is not None:
                    raise AssertionError(f"the launcher ended with {self.process.returncode}")
                await asyncio.sleep(0.02)

    def _complete(self, status: LauncherStatus, case: str) -> bool:
        """Whether every process of the case is there: the engine and its workers, or the installer's."""
        programs = [" ".join(process.cmdline()) for process in self.processes()]
        wanted = {"fetching": "sleep 600", "back-off": ""}.get(case, "signal.SIG_IGN")
        return status.pid == self.process.pid and sum(wanted in line for line in programs) >= 2

    def processes(self) -> list[psutil.Process]:
        """Every process that it started, whoever is its parent now."""
        return [process for process in marked(self.mark) if process.pid != self.process.pid]


def _is(server: ServerStatus, case: str) -> bool:
    if case == "back-off":
        return server.state == "starting" and server.phase.startswith("waiting 600 s before restart")
    return server.state == case and (case == "fetching" or server.pid is not None)


@contextlib.asynccontextmanager
async def launched(run: Path, case: str, mark: str | None = None) -> AsyncGenerator[Running, None]:
    """A launcher program; killed in the end if it still lives."""
    mark = mark or uuid.uuid4().hex
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        str(run),
        case,
        mark,
        cwd=ROOT,
        # No certificates: aiohttp reads the system's at import, which takes longer than everything else here.
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "SSL_CERT_FILE": os.devnull},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Running(process, run, mark)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        left = marked(mark)
        for straggler in until_gone(left, within=5):
            straggler.kill()


@pytest.mark.parametrize("case", ["fetching", "starting", "warming", "ready", "back-off"])
async def test_sigkill_of_the_launcher_leaves_nothing_behind_and_the_next_one_serves(tmp_path: Path, case: str) -> None:
    """Whatever the model was doing, engines, workers, installers, guards and the app are gone soon."""
    async with launched(tmp_path / "run", case) as running:
        await running.reaches(case)
        before = running.processes()
        assert before
        running.process.kill()
        assert not until_gone(before, within=5)
        assert not running.processes()
    async with launched(tmp_path / "run", "ready") as successor:
        await successor.reaches("ready")


async def test_sigkill_of_a_draining_launcher_leaves_nothing_behind(tmp_path: Path) -> None:
    """In the middle of a shutdown too, with an engine that ignores SIGTERM."""
    async with launched(tmp_path / "run", "draining") as running:
        await _ready(running)
        before = running.processes()
        running.process.send_signal(signal.SIGTERM)
        await _drains(running)
        running.process.kill()
        assert not until_gone(before, within=5)


async def _ready(running: Running) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(LauncherGone):
                async for status in ControlClient(control_socket(running.run)).watch():
                    if status.servers[0].state == "ready":
                        return
            await asyncio.sleep(0.02)


async def _drains(running: Running) -> None:
    async with asyncio.timeout(DEADLINE):
        async for status in ControlClient(control_socket(running.run)).watch():
            if status.servers[0].state == "draining":
                return


@pytest.mark.parametrize(
    ("case", "number"),
    [
        ("fetching", signal.SIGTERM),
        ("starting", signal.SIGTERM),
        ("warming", signal.SIGINT),
        ("ready", signal.SIGTERM),
        ("ready", signal.SIGINT),
        ("back-off", signal.SIGINT),
    ],
)
async def test_a_signal_ends_the_launcher_cleanly(tmp_path: Path, case: str, number: signal.Signals) -> None:
    """Exit code 0, no process, no socket, no record."""
    async with launched(tmp_path / "run", case) as running:
        await running.reaches(case)
        before = running.processes()
        running.process.send_signal(number)
        _, errors = await asyncio.wait_for(running.process.communicate(), DEADLINE)
        assert running.process.returncode == 0, errors
        assert b"Traceback" not in errors
        assert not until_gone(before, within=0)
        assert not control_socket(running.run).exists()
        assert not list((running.run / "servers").iterdir())


async def test_a_second_signal_ends_the_launcher_at_once_and_nothing_is_left(tmp_path: Path) -> None:
    """Impatience is served: the process ends by the signal, its guards clean up."""
    async with launched(tmp_path / "run", "draining") as running:
        await _ready(running)
        before = running.processes()
        running.process.send_signal(signal.SIGINT)
        await _drains(running)
        running.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(running.process.wait(), DEADLINE) == -signal.SIGINT
        assert not until_gone(before, within=5)


async def test_a_second_launcher_is_turned_away_with_the_pid_of_the_first(tmp_path: Path) -> None:
    """Its error names the pid; the first one is not disturbed."""
    async with launched(tmp_path / "run", "ready") as first:
        await first.reaches("ready")
        async with launched(tmp_path / "run", "ready") as second:
            _, errors = await asyncio.wait_for(second.process.communicate(), DEADLINE)
        assert second.process.returncode == 1
        assert f"pid {first.process.pid}" in errors.decode()
        assert (await ControlClient(control_socket(first.run)).status()).servers[0].state == "ready"


async def test_what_outlived_launcher_and_guards_is_ended_at_the_next_start(tmp_path: Path) -> None:
    """Launcher and guards killed together leave workers; the next launcher finds and ends them."""
    async with launched(tmp_path / "run", "ready") as running:
        await running.reaches("ready")
        before = running.processes()
        guards = [process for process in before if "guard.py" in " ".join(process.cmdline())]
        assert len(guards) == 2
        orphans = [process for process in before if "signal.SIG_IGN" in " ".join(process.cmdline())]
        engines = [process for process in before if process not in [*guards, *orphans]]
        assert len(engines) == 2  # one of them stands for the app
        for process in guards:
            process.suspend()  # else they would be quicker than this test
        running.process.kill()
        await running.process.wait()
        for process in guards:
            process.kill()
        assert not until_gone(engines, within=5)
        assert len(until_gone(orphans, within=0.5)) == 2
        async with launched(tmp_path / "run", "fetching", running.mark) as again:
            await again.reaches("fetching")
            assert not until_gone(before, within=5)
