"""One child process group: start, stop, log tail, exit. The only module that spawns processes.

Every child runs below a guard (``guard.py``), so SIGKILL of the launcher at any moment leaves nothing behind.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess  # noqa: TID251 - here is where processes are spawned
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from vllm_launcher.processes import guard, orphans
from vllm_launcher.processes.process_log import ProcessLog

logger = logging.getLogger(__name__)

KILL_PATIENCE = 5.0
"""Seconds that a guard has to carry out a kill before the launcher kills the guard's group itself."""
LOG_PATIENCE = 5.0
"""Seconds to read the last output of a process that has ended."""


@dataclass(frozen=True)
class Launch:
    """What to run: arguments and the whole environment; nothing is inherited from the launcher's."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None = None


class ServerProcess:
    """A running child with everything that it starts. Made by ``start``; ``wait`` gives the exit code.

    Exit codes are a shell's: 128 + n after signal n, 127 if the program could not be run.
    """

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: socket.socket, log: ProcessLog) -> None:
        loop = asyncio.get_running_loop()
        self._popen = popen
        self._lifeline = lifeline
        self._log = log
        self._log_ended = asyncio.Event()
        self._ended = asyncio.Event()
        self._pid: asyncio.Future[int | None] = loop.create_future()
        self._exit: asyncio.Future[int] = loop.create_future()
        self._supervision: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "alive" if self.alive else f"exited {self._exit.result()}"
        return f"<ServerProcess pid={self.pid} guard={self._popen.pid} {state}>"

    @classmethod
    async def start(
        cls,
        launch: Launch,
        *,
        log: Path,
        record: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> "ServerProcess":
        """Start a child, and return when it exists.

        Standard output and error go to the file ``log`` and, line by line, to ``on_line``. ``record`` is a file
        that identifies the process while it lives, for a later launcher to clean up after this one.
        Call it from the event loop's thread.
        """
        marker = uuid.uuid4().hex
        identity = orphans.Record(marker=marker, boot_id=orphans.boot_id())
        orphans.write_record(record, identity)  # before there is anything to find, so that there is no gap
        output = ProcessLog(log, on_line=on_line)
        try:
            popen, lifeline = _spawn(launch, marker)
        except OSError:
            output.close()
            orphans.remove_record(record)
            raise
        identity = identity.model_copy(update={"pid": popen.pid, "start_ticks": orphans.start_ticks(popen.pid)})
        orphans.write_record(record, identity)
        process = cls(popen, lifeline, output)
        process._supervision = asyncio.create_task(process._supervise(identity, record))
        try:
            await asyncio.shield(process._pid)
        except asyncio.CancelledError:
            await process.kill()
            raise
        return process

    @property
    def pid(self) -> int | None:
        """The child's pid (not the guard's); None if its guard died before it could start one."""
        return self._pid.result() if self._pid.done() else None

    @property
    def alive(self) -> bool:
        """Whether anything of the process tree may still be there."""
        return not self._exit.done()

    async def ended(self) -> None:
        """Wait until the child has ended, whatever it started."""
        await self._ended.wait()

    async def wait(self) -> int:
        """Wait until the child and everything it started are gone; the exit code."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace: float) -> int:
        """SIGTERM to the child, ``grace`` seconds to leave, then SIGKILL to the tree. Cancelled, it kills at once."""
        self._order(guard.TERMINATE)
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            return await self.kill()
        except asyncio.CancelledError:
            self._order(guard.KILL)
            raise

    async def kill(self) -> int:
        """SIGKILL to the whole tree, and wait until it is gone."""
        self._order(guard.KILL)
        try:
            async with asyncio.timeout(KILL_PATIENCE):
                return await self.wait()
        except TimeoutError:  # a guard that is stopped or starved obeys nobody but the kernel
            if self.alive:
                os.killpg(self._popen.pid, signal.SIGKILL)
            return await self.wait()

    def tail(self, count: int = 50) -> list[str]:
        """The last lines that the process printed."""
        return self._log.tail(count)

    async def rss_bytes(self) -> int:
        """Resident memory of the process tree; shared pages count once for each process that maps them."""
        return await asyncio.to_thread(_tree_rss, self._popen.pid)

    def _order(self, order: bytes) -> None:
        with contextlib.suppress(OSError):  # the guard is gone, which is what most orders are after
            self._lifeline.send(order)

    async def _supervise(self, identity: orphans.Record, record: Path | None) -> None:
        """See the guard through its whole life."""
        self._follow_output()
        await self._follow_lifeline()
        code = await asyncio.to_thread(_collect, self._popen)
        if code < 0:  # the guard was killed and cannot have swept
            await self._sweep(identity)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOG_PATIENCE):
                await self._log_ended.wait()
        self._close()
        orphans.remove_record(record)
        self._exit.set_result(code if code >= 0 else 128 - code)

    async def _sweep(self, identity: orphans.Record) -> None:
        try:
            await asyncio.to_thread(orphans.end, identity)
        except orphans.OrphansRemain as error:
            logger.error("%r: %s", self, error)  # noqa: TRY400 - the trace would say nothing more

    async def _follow_lifeline(self) -> None:
        """The guard says the child's pid, and when the child has ended; the lifeline ends when the guard does."""
        loop = asyncio.get_running_loop()
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(self._lifeline, 64):
                received += data
                pid, _, rest = received.partition(b"\n")
                if b"\n" in received and not self._pid.done():
                    self._pid.set_result(int(pid))
                if rest:
                    self._ended.set()
        if not self._pid.done():
            self._pid.set_result(None)
        self._ended.set()

    def _follow_output(self) -> None:
        loop = asyncio.get_running_loop()
        output = self._output

        def read() -> None:
            data = os.read(output, 64 * 1024)
            if data:
                self._log.feed(data)
            else:
                loop.remove_reader(output)
                self._log_ended.set()

        loop.add_reader(output, read)

    def _close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._output)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._lifeline.close()
        self._log.close()

    @property
    def _output(self) -> int:
        if self._popen.stdout is None:
            raise ValueError("the guard was started without a pipe for its output")
        return self._popen.stdout.fileno()


@dataclass(frozen=True)
class Finished:
    """How a program that runs to its end ended."""

    code: int
    tail: list[str]


async def run(
    launch: Launch, *, log: Path, record: Path | None = None, on_line: Callable[[str], None] | None = None
) -> Finished:
    """Run a program to its end (an installer, a converter). Cancelled, it kills the program's whole tree first."""
    process = await ServerProcess.start(launch, log=log, record=record, on_line=on_line)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        await process.kill()
        raise
    return Finished(code, process.tail())


def _spawn(launch: Launch, marker: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    # SPT_NOENV: vLLM renames its processes with setproctitle, which otherwise writes the title over the
    # environment that /proc shows, marker included (setproctitle's README).
    env = {**launch.env, orphans.MARKER: marker, "SPT_NOENV": "1"}
    try:
        popen = subprocess.Popen(  # noqa: S603 - the plan's command, no shell
            [sys.executable, "-I", "-S", guard.__file__, str(theirs.fileno()), *launch.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=launch.cwd,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return popen, ours


def _collect(popen: subprocess.Popen[bytes]) -> int:
    """Wait for the guard, kill what is left of its group, and only then let the kernel give its pid away."""
    os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, signal.SIGKILL)
    return popen.wait()


def _tree_rss(guard_pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(guard_pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total
