"""One life of a server: prepared, given room, started, ready, perhaps asleep now and then, drained, gone.

It ends by raising alone: ServerFailed when the server failed, DeclinedError when there was no room for what nobody
asked for, CancelledError when it was released; in each case nothing of the server is left.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from vllm_launcher.errors import LauncherError, ServerExited, ServerFailed
from vllm_launcher.keeping.collaborators import Build, Process, ServerSpec, Tools
from vllm_launcher.keeping.diagnosis import explain
from vllm_launcher.keeping.health import Target, until_exit
from vllm_launcher.keeping.metrics import Sample
from vllm_launcher.keeping.ports import LOOPBACK
from vllm_launcher.keeping.reporter import Reporter
from vllm_launcher.keeping.room import Room, Tenant
from vllm_launcher.keeping.wishes import Wishes
from vllm_launcher.processes.process import Launch

logger = logging.getLogger(__name__)

MEASURE_INTERVAL = 15.0
"""Seconds between two readings of a server's memory."""
DIAGNOSED_LINES = 200


class Life:
    """One attempt at a server. ``was_ready`` afterwards: whether it had been ready in it."""

    def __init__(self, spec: ServerSpec, tools: Tools, room: Room, wishes: Wishes, reporter: Reporter) -> None:
        self._spec = spec
        self._tools = tools
        self._room = room
        self._wishes = wishes
        self._reporter = reporter
        self._used_at = 0.0
        self.tenant: Tenant | None = None
        self.was_ready = False

    async def live(self) -> None:
        """From nothing to its end."""
        if self._spec.external is not None:
            target = target_of(self._spec, self._spec.external.base_url)
            self._reporter.enter("starting", f"waiting for {self._spec.external.base_url}")
            await self._await_ready(target, None)
            await self._tools.health.watch(target, self._seen)
            return
        build = await self._prepared()
        async with contextlib.AsyncExitStack() as memory:
            await self._take_room(memory)
            if self._tools.turns.locked():
                self._reporter.enter("starting", "waiting for another server to start")
            async with _turn(self._tools.turns) as turn, self._process(build) as (process, target):
                await self._await_ready(target, process)
                turn.close()
                while True:
                    await until_exit(self._serve(target, process), process)
                    await until_exit(self._sleep(target, memory), process)

    def change(self, spec: ServerSpec) -> None:
        """Go by these rules from now on; what it was started with stays."""
        self._spec = spec
        if self.tenant is not None:
            self.tenant.pinned = spec.pinned
            self._room.look()

    # --- from nothing to ready -------------------------------------------------------------

    async def _prepared(self) -> Build:
        self._reporter.enter("fetching", "preparing")
        try:
            return await self._tools.prepare(self._spec.model, self._reporter.progress)
        except Exception as error:
            reason = str(error) or repr(error)
            hint = getattr(error, "hint", None)
            if isinstance(error, LauncherError):
                reason = error.reason
            raise ServerFailed(reason, hint, permanent=bool(getattr(error, "permanent", False))) from error

    async def _take_room(self, memory: contextlib.AsyncExitStack) -> None:
        """Hold this server's memory until ``memory`` is closed; others may have to leave first."""
        spec, wishes = self._spec, self._wishes
        self.tenant = Tenant(
            spec.model,
            spec.needs,
            leave=self._leave,
            waits=lambda others: self._reporter.enter("starting", _waiting_for(others)),
            pinned=spec.pinned,
            polite=wishes.polite,
        )
        await memory.enter_async_context(self._room.hold(self.tenant))
        if self._reporter.status.state == "starting":
            self._reporter.enter("starting", "starting")

    @contextlib.asynccontextmanager
    async def _process(self, build: Build) -> AsyncGenerator[tuple[Process, Target], None]:
        """A server process and its port, both gone when the context is."""
        port = self._tools.ports.take()
        try:
            self._reporter.enter("starting", "starting")
            process = await self._spawned(build(port))
            self._reporter.change({"pid": process.pid})
            target = target_of(self._spec, f"http://{LOOPBACK}:{port}")
            withdrawing = asyncio.create_task(self._withdraw(process))
            try:
                yield process, target
            except ServerExited as error:
                raise _explained(error, process) from error
            except ServerFailed:
                self._reporter.enter("starting", "ending the old process")  # and the endpoint is withdrawn
                raise
            except asyncio.CancelledError:
                await self._drain(process, target)
                raise
            finally:
                await _end(withdrawing)
                await process.kill()  # whatever happened above; nothing to do when it is gone already
        finally:
            self._tools.ports.release(port)

    async def _withdraw(self, process: Process) -> None:
        """Send nobody to a server whose main process has ended: what it leaves behind may take seconds to die."""
        await process.ended()
        if self._reporter.status.state == "ready":
            self._reporter.enter("starting", "ending what is left of the old process")

    async def _spawned(self, launch: Launch) -> Process:
        try:
            return await self._tools.spawn(self._spec.model, launch)
        except OSError as error:
            raise ServerFailed(f"The server could not be started: {error}") from error

    async def _await_ready(self, target: Target, process: Process | None) -> None:
        warming = lambda: self._reporter.enter("warming", "warming up")  # noqa: E731 - said twice otherwise
        await self._tools.health.wait_ready(target, process, on_warming=warming)
        self.was_ready = True
        self._used_at = self._tools.clock.now()
        self._reporter.enter("ready", endpoint=target.base_url, reason=None, hint=None)
        if self.tenant is not None:
            self.tenant.ready_since = self.tenant.last_used = self._used_at
            self._room.look()

    # --- ready -----------------------------------------------------------------------------

    async def _serve(self, target: Target, process: Process) -> None:
        """Return when it has to sleep; raise when the server stops making progress. Measures its memory meanwhile."""
        measuring = asyncio.create_task(self._measure(process))
        try:
            await _first(self._tools.health.watch(target, self._seen), self._wishes.drowsy.wait())
        finally:
            await _end(measuring)

    async def _measure(self, process: Process) -> None:
        while True:
            self._reporter.change({"memory_bytes": await process.rss_bytes()}, minor=True)
            await self._tools.clock.sleep(MEASURE_INTERVAL)

    def _seen(self, sample: Sample) -> None:
        """A look at the ready server."""
        now = self._tools.clock.now()
        if self._reporter.sample(sample, now):
            self._used_at = now
        if self.tenant is not None:
            self.tenant.last_used, self.tenant.busy = self._used_at, sample.busy
        idle = self._spec.idle_seconds
        if idle is not None and not self._spec.pinned and sample.handled is not None and now - self._used_at >= idle:
            self._go(f"idle for {idle:g} s")

    def _leave(self, whom: str) -> None:
        """Another server needs the room."""
        self._go(f"making room for {whom}")

    def _go(self, why: str) -> None:
        """Give the memory back, one way or the other."""
        if self._spec.sleep is not None and self._reporter.status.state == "ready":
            self._wishes.sleep(why)
        else:
            self._wishes.leave(why)

    # --- asleep ----------------------------------------------------------------------------

    async def _sleep(self, target: Target, memory: contextlib.AsyncExitStack) -> None:
        """Sleep until it is wanted, and be ready again."""
        health, level = self._tools.health, self._spec.sleep or 1
        self._reporter.enter("draining", self._wishes.why)
        await self._tools.clock.sleep(self._wishes.graces.settle)
        await self._watched(target, health.wait_idle(target, None))
        try:
            await health.sleep(target, level)
        except ServerFailed as error:
            logger.warning("%s does not sleep, and is stopped instead: %s", self._spec.model, error.reason)
            self._wishes.leave(self._wishes.why)
            await asyncio.Event().wait()  # until it is released
        await memory.aclose()
        self._reporter.enter("asleep", self._wishes.why, since=time.time())
        await self._wishes.awake.wait()
        await self._take_room(memory)
        self._reporter.enter("warming", "waking up")
        await health.wake(target, level)
        await self._await_ready(target, None)

    # --- the end ---------------------------------------------------------------------------

    async def _drain(self, process: Process, target: Target) -> None:
        """Withdraw the endpoint, let the requests under way finish, and end the process."""
        if self._reporter.status.state not in ("ready", "draining"):
            self._reporter.enter("draining", "stopping")
            await process.stop(self._wishes.graces.starting)
            return
        self._reporter.enter("draining", self._wishes.why)
        await self._tools.clock.sleep(self._wishes.graces.settle)
        await self._until_idle(process, target)
        self._reporter.enter("draining", "stopping")
        await process.stop(self._wishes.graces.ready)

    async def _until_idle(self, process: Process, target: Target) -> None:
        """Return when the requests are finished, the process has ended or hangs, or the graces are over."""
        hurried = self._wishes.hurried
        while True:
            hurried.clear()
            idle = self._tools.health.wait_idle(target, self._wishes.graces.drain)
            with contextlib.suppress(ServerFailed):
                await _first(self._watched(target, idle), process.wait(), hurried.wait())
            if not hurried.is_set():
                return

    async def _watched(self, target: Target, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` as long as the server makes progress."""
        await _first(work, self._tools.health.watch(target, _unseen))


def target_of(spec: ServerSpec, base_url: str) -> Target:
    """That server at that address, to be asked."""
    return Target(
        base_url=base_url,
        served_name=spec.served_name,
        task=spec.task,
        external=spec.external is not None,
        forwards=spec.forwards,
        headers=spec.external.headers if spec.external else dict[str, str](),
        image_size=spec.image_size,
    )


def _waiting_for(others: tuple[str, ...]) -> str:
    return f"waiting for memory: {', '.join(others)} leaves first" if others else "waiting for memory"


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


async def _first(*works: Coroutine[Any, Any, Any]) -> None:
    """Return, or raise, as the first of them does; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done:
                task.result()
    finally:
        await _end(*tasks)


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _unseen(_: Sample) -> None:
    """Nobody wants to know how a server does that leaves."""
