"""The keeper of one model's server: brings it to what is wanted of it, and keeps it there.

One task per model (``keep``) is the only writer of that model's status, so there is nothing to lock. It waits
until the model is wanted, runs attempt after attempt as the restart policy allows, and when the model is not
wanted any more it drains and ends the server. An attempt goes prepare -> spawn -> wait until ready -> watch.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator

from vllm_launcher.errors import LauncherError, ServerExited, ServerFailed
from vllm_launcher.keeping.board import Board
from vllm_launcher.keeping.collaborators import Build, External, Graces, Process, ServerSpec, Tools
from vllm_launcher.keeping.diagnosis import explain
from vllm_launcher.keeping.health import Target, until_exit
from vllm_launcher.keeping.ports import LOOPBACK
from vllm_launcher.keeping.restart import PATIENT, Failure, GiveUp, decide
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Progress
from vllm_launcher.status import ServerStatus, State

logger = logging.getLogger(__name__)

MEASURE_INTERVAL = 15.0
"""Seconds between two readings of a server's memory."""
DIAGNOSED_LINES = 200
REMEMBERED_FAILURES = 50


class Keeper:
    """Keeps one server as it is wanted. ``want`` and ``release`` say what is wanted, ``keep`` is the task."""

    def __init__(self, spec: ServerSpec, board: Board, tools: Tools) -> None:
        self._spec = spec
        self._board = board
        self._tools = tools
        self._policy = PATIENT if spec.external else tools.policy
        self._graces = tools.graces
        self._wanted = asyncio.Event()
        self._released = asyncio.Event()
        self._resting = asyncio.Event()
        self._resting.set()
        self._was_ready = False

    def __repr__(self) -> str:
        return f"<Keeper {self._spec.model} {self.status.state}{' wanted' if self._wanted.is_set() else ''}>"

    @property
    def status(self) -> ServerStatus:
        """The server's status as of now."""
        return self._board[self._spec.model]

    def want(self, *, retry: bool = False) -> None:
        """Have the server ready. A failed one is left alone unless somebody asks to ``retry``."""
        if self._spec.refusal is not None or (self.status.state == "failed" and not retry):
            return
        self._released.clear()
        self._wanted.set()

    async def release(self, graces: Graces | None = None) -> None:
        """Have the server stopped, and return when nothing of it is left."""
        self._graces = graces or self._tools.graces
        self._wanted.clear()
        self._released.set()
        await self._resting.wait()

    async def keep(self) -> None:
        """Follow what is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            if not self._wanted.is_set():  # released again before this task had its turn
                continue
            self._resting.clear()
            try:
                await self._run_until_released()
            finally:
                self._resting.set()

    async def _run_until_released(self) -> None:
        running = asyncio.create_task(self._run(), name=f"run {self._spec.model}")
        released = asyncio.create_task(self._released.wait())
        try:
            await asyncio.wait({running, released}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
            running.cancel()
            await asyncio.gather(running, released, return_exceptions=True)
        if running.cancelled():
            self._enter("stopped")
        elif error := running.exception():  # a mistake in here must not take the other servers along
            logger.error("keeping %s failed", self._spec.model, exc_info=error)
            self._fail(f"Internal error: {error!r}", None)

    async def _run(self) -> None:
        """Attempt after attempt; returns when there is no sense in another one."""
        failures: list[Failure] = []
        self._change({"restarts": 0, "reason": None, "hint": None})
        while True:
            try:
                await self._attempt()
            except ServerFailed as error:
                failures = [*failures, self._failure(error)][-REMEMBERED_FAILURES:]
                logger.warning("%s: %s", self._spec.model, error)
                outcome = decide(failures, self._policy)
                if isinstance(outcome, GiveUp):
                    self._fail(f"{error.reason} Given up after {outcome.why}.", error.hint)
                    return
                await self._back_off(error, outcome.delay)

    async def _attempt(self) -> None:
        """One life of the server. Ends only by raising: ServerFailed, or CancelledError when it was released."""
        self._was_ready = False
        if self._spec.external is not None:
            await self._attend_external(self._spec.external)
            return
        build = await self._prepared()
        if self._tools.turns.locked():
            self._enter("starting", "waiting for another server to start")
        async with _turn(self._tools.turns) as turn, self._process(build) as (process, target):
            await self._await_ready(target, process)
            turn.close()
            await until_exit(self._watch(target, process), process)

    async def _attend_external(self, external: External) -> None:
        target = self._target(external.base_url, external)
        self._enter("starting", f"waiting for {external.base_url}")
        await self._await_ready(target, None)
        await self._tools.health.watch(target)

    async def _prepared(self) -> Build:
        self._enter("fetching", "preparing")
        try:
            return await self._tools.prepare(self._spec.model, self._report)
        except Exception as error:
            reason = str(error) or repr(error)
            hint = getattr(error, "hint", None)
            if isinstance(error, LauncherError):
                reason = error.reason
            raise ServerFailed(reason, hint, permanent=bool(getattr(error, "permanent", False))) from error

    @contextlib.asynccontextmanager
    async def _process(self, build: Build) -> AsyncGenerator[tuple[Process, Target], None]:
        """A server process and its port, both gone when the context is."""
        port = self._tools.ports.take()
        try:
            self._enter("starting", "starting")
            process = await self._spawned(build(port))
            self._change({"pid": process.pid})
            try:
                yield process, self._target(f"http://{LOOPBACK}:{port}")
            except ServerExited as error:
                raise _explained(error, process) from error
            except ServerFailed:
                self._enter("starting", "ending the old process")  # and the endpoint is withdrawn
                raise
            except asyncio.CancelledError:
                await self._drain(process, port)
                raise
            finally:
                await process.kill()  # whatever happened above; nothing to do when it is gone already
        finally:
            self._tools.ports.release(port)

    async def _spawned(self, launch: Launch) -> Process:
        try:
            return await self._tools.spawn(self._spec.model, launch)
        except OSError as error:
            raise ServerFailed(f"The server could not be started: {error}") from error

    async def _await_ready(self, target: Target, process: Process | None) -> None:
        health = self._tools.health
        await health.wait_ready(target, process, on_warming=lambda: self._enter("warming", "warming up"))
        self._was_ready = True
        self._enter("ready", endpoint=target.base_url, reason=None, hint=None)

    async def _watch(self, target: Target, process: Process) -> None:
        """Raise when the server stops making progress; measure its memory meanwhile."""
        measuring = asyncio.create_task(self._measure(process))
        try:
            await self._tools.health.watch(target)
        finally:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)

    async def _measure(self, process: Process) -> None:
        while True:
            self._change({"memory_bytes": await process.rss_bytes()}, minor=True)
            await self._tools.clock.sleep(MEASURE_INTERVAL)

    async def _drain(self, process: Process, port: int) -> None:
        """Withdraw the endpoint, let the requests under way finish, and end the process."""
        if self.status.state != "ready":
            self._enter("draining", "stopping")
            await process.stop(self._graces.starting)
            return
        self._enter("draining", "finishing requests")
        await self._tools.clock.sleep(self._graces.settle)
        await self._tools.health.wait_idle(self._target(f"http://{LOOPBACK}:{port}"), self._graces.drain)
        self._enter("draining", "stopping")
        await process.stop(self._graces.ready)

    async def _back_off(self, error: ServerFailed, delay: float) -> None:
        restarts = self.status.restarts + 1
        phase = f"waiting {delay:.0f} s before restart {restarts}"
        self._enter("starting", phase, restarts=restarts, reason=error.reason, hint=error.hint)
        await self._tools.clock.sleep(delay)

    def _target(self, base_url: str, external: External | None = None) -> Target:
        spec = self._spec
        return Target(
            base_url=base_url,
            served_name=spec.served_name,
            task=spec.task,
            external=external is not None,
            headers=external.headers if external else dict[str, str](),
            image_size=spec.image_size,
        )

    def _failure(self, error: ServerFailed) -> Failure:
        return Failure(self._tools.clock.now(), error.reason, ready=self._was_ready, permanent=error.permanent)

    def _fail(self, reason: str, hint: str | None) -> None:
        self._wanted.clear()
        self._enter("failed", reason=reason, hint=hint)

    def _report(self, progress: Progress) -> None:
        if self.status.state == "fetching":  # a report that comes late is about the past
            self._change({"phase": progress.phase, "progress": progress}, minor=progress.phase == self.status.phase)

    def _enter(self, state: State, phase: str = "", **changes: object) -> None:
        """Enter a state: what belonged to the one before is gone, the endpoint above all."""
        lost: dict[str, object] = {"endpoint": None, "progress": None}
        if state in ("absent", "fetching", "stopped", "failed"):
            lost |= {"pid": None, "memory_bytes": None}
        since = self.status.since if self.status.state == state else time.time()
        self._change({"state": state, "phase": phase, "since": since} | lost | changes)

    def _change(self, changes: dict[str, object], *, minor: bool = False) -> None:
        self._board.put(ServerStatus.model_validate(dict(self.status) | changes), minor=minor)


@contextlib.asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncGenerator[contextlib.ExitStack, None]:
    """A turn; closing the stack gives it back before the context ends."""
    await turns.acquire()
    with contextlib.ExitStack() as stack:
        stack.callback(turns.release)
        yield stack


def _explained(error: ServerExited, process: Process) -> ServerFailed:
    diagnosis = explain(error.code, process.tail(DIAGNOSED_LINES))
    return ServerFailed(diagnosis.reason, diagnosis.hint)
