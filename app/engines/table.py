"""The app's own table of the servers: pushed by the launcher, read without a call.

One task follows the launcher's status stream. A request finds its server here; only where it is not ready is the
launcher asked, once, to get it ready.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, Protocol

from app.errors import LauncherGone, ModelFailed, ModelNotReady, TooManyWaiting, UnknownModel
from vllm_launcher.status import LauncherStatus, ServerStatus

log = logging.getLogger(__name__)

SILENCE = 20.0
"""Seconds without a status line (one comes every 5 s) after which the launcher counts as gone."""
RETRY_AFTER = 5
"""What a client is told to wait where nothing better is known, in seconds."""


BACK_OFF = (0, 0.5, 1, 2)
"""Seconds before each try to reach the launcher again; the last one repeats."""


class Launcher(Protocol):
    """What the table needs of the launcher: ``vllm_launcher.control.ControlClient``."""

    def watch(self) -> AsyncGenerator[LauncherStatus, None]:
        """Yield the whole status now and after every change, until the connection ends."""
        ...

    async def ensure_ready(self, model: str) -> Any:
        """Ask for the model to be started; returns at once."""
        ...


class Endpoint:
    """Where a ready server is reached, for as long as it is the same server."""

    def __init__(self, server: ServerStatus) -> None:
        if server.endpoint is None:
            raise ValueError(f"{server.model} has no endpoint while {server.state}")
        self.model = server.model
        self.url = server.endpoint
        self.served_name = server.served_name
        self._run = _run(server)
        self._ended = False
        self._listeners: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"<Endpoint {self.model} {self.url}{' ended' if self._ended else ''}>"

    @property
    def ended(self) -> bool:
        """Whether this server is known to have gone."""
        return self._ended

    def serves(self, server: ServerStatus | None) -> bool:
        """Whether ``server`` is still this one, and takes requests."""
        return server is not None and server.state == "ready" and self._run == _run(server)

    def drains(self, server: ServerStatus | None) -> bool:
        """Whether this server may still finish what it has; where it may not, everybody is told that it ended."""
        draining = server is not None and server.state == "draining"
        if not draining:
            self._end()
        return draining

    @contextlib.contextmanager
    def on_end(self, listener: Callable[[], None]) -> Generator[None]:
        """Call ``listener`` when the server goes while the block runs."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def _end(self) -> None:
        self._ended = True
        for listener in tuple(self._listeners):
            listener()


def _run(server: ServerStatus) -> tuple[str | None, int | None, int]:
    """Return what tells one run of a server from the next."""
    return server.endpoint, server.pid, server.restarts


class ServerTable:
    """The servers' states, and the way to a ready one.

    Args:
        launcher: Tells the states; without one every model stays unreachable.
        models: The registry's ids. May be replaced.
        back_off: Seconds before each try to reach the launcher again.
        waiting: Requests that may wait for one model, and for all of them.
    """

    def __init__(
        self,
        launcher: Launcher | None,
        models: tuple[str, ...],
        *,
        back_off: tuple[float, ...] = BACK_OFF,
        waiting: tuple[int, int] = (256, 1024),
    ) -> None:
        self._launcher = launcher
        self.models = models
        self.shared: Mapping[str, str] = {}
        """Models that another's server answers for, each with that one's id. May be replaced."""
        self._back_off = back_off
        self._status: LauncherStatus | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._leaving: list[Endpoint] = []
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._most_waiting = waiting
        self._waiting: Counter[str] = Counter()
        self._been_ready: set[str] = set()
        self._generation: int | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self.on_generation: Callable[[], Awaitable[None]] | None = None
        """Called when the launcher has taken over another list of models, and once at first."""
        self.permit: Callable[[str], None] | None = None
        """Raises where the request under way may not use a model: whatever protocol asks, it passes here."""

    def __repr__(self) -> str:
        servers = self._status.servers if self._status else ()
        return f"<ServerTable {', '.join(f'{server.model} {server.state}' for server in servers) or 'unreachable'}>"

    # --- reading ---------------------------------------------------------------------------

    def snapshot(self) -> LauncherStatus | None:
        """Return what the launcher said last, or None while it does not answer."""
        return self._status

    def server(self, model: str) -> ServerStatus | None:
        """Return the state of one model's server; None while the launcher does not answer."""
        return self._status.server(self._owner(model)) if self._status else None

    def has_been_ready(self, model: str) -> bool:
        """Return whether a server of the model has been ready since the app began to look."""
        return self._owner(model) in self._been_ready

    def endpoint(self, model: str) -> Endpoint | None:
        """Return the way to the model's server, or None unless it is ready."""
        return self._endpoints.get(self._owner(model))

    def _owner(self, model: str) -> str:
        """Return the model whose server answers for this one."""
        return self.shared.get(model, model)

    async def changes(self) -> AsyncGenerator[LauncherStatus | None, None]:
        """Yield the snapshot now and after every change. A slow reader misses what was in between, not the last."""
        while True:
            changed = self._changed
            yield self._status
            await changed.wait()

    async def changed(self, within: float) -> None:
        """Return after the next change, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()

    # --- asking ----------------------------------------------------------------------------

    async def ensure_ready(self, model: str, wait: float) -> Endpoint:
        """Return a ready server of ``model``; where there is none, ask for it and wait up to ``wait`` seconds.

        Raises:
            UnknownModel: The registry has no such model.
            NotAllowed: The request's key may not use it.
            ModelNotReady: It is not ready after the wait.
            TooManyWaiting: The line of those who wait is full.
            ModelFailed: The launcher gave it up.
            LauncherGone: The launcher does not answer.
        """
        if model not in self.models:
            raise UnknownModel(f"There is no model '{model}'.")
        if self.permit is not None:
            self.permit(model)
        model = self._owner(model)
        endpoint = self._endpoints.get(model)
        if endpoint is not None:
            return endpoint
        if self._failed(model):  # a person revives it; requests would start it over and over
            raise self._why_not(model)
        self._ask(model)
        if wait > 0:
            with self._in_line(model), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    async for _ in self.changes():
                        endpoint = self._endpoints.get(model)
                        if endpoint is not None:
                            return endpoint
                        if self._failed(model):
                            break
        raise self._why_not(model)

    @contextlib.contextmanager
    def _in_line(self, model: str) -> Generator[None]:
        """Be one of those who wait, of whom there is a bounded number: they hold memory and connections."""
        here, everywhere = self._most_waiting
        if self._waiting[model] >= here or self._waiting.total() >= everywhere:
            server = self.server(model)
            raise TooManyWaiting(
                model, self._waiting[model], retry_after=retry_after(server) if server else RETRY_AFTER
            )
        self._waiting[model] += 1
        try:
            yield
        finally:
            self._waiting[model] -= 1
            if not self._waiting[model]:
                del self._waiting[model]

    def _failed(self, model: str) -> bool:
        server = self.server(model)
        return server is not None and server.state == "failed"

    def _why_not(self, model: str) -> ModelNotReady | ModelFailed | LauncherGone:
        server = self.server(model)
        if self._status is None:
            return LauncherGone("The launcher does not answer, so no model can be reached.", hint="Is it running?")
        if server is None:
            return ModelNotReady(model, state="absent", phase="", progress=None, retry_after=RETRY_AFTER)
        if server.state == "failed":
            return ModelFailed(model, reason=server.reason, hint=server.hint)
        return ModelNotReady(
            model, state=server.state, phase=server.phase, progress=server.progress, retry_after=retry_after(server)
        )

    def _ask(self, model: str) -> None:
        """Ask the launcher for a model, once however many requests wait for it."""
        if self._launcher is not None and model not in self._asked:
            task = asyncio.create_task(self._ask_launcher(self._launcher, model), name=f"ensure-ready {model}")
            self._asked[model] = task
            task.add_done_callback(lambda _: self._asked.pop(model, None))

    async def _ask_launcher(self, launcher: Launcher, model: str) -> None:
        try:
            await launcher.ensure_ready(model)
        except Exception as error:  # noqa: BLE001 -- whoever waits sees the state, whatever the call said
            log.warning("could not ask the launcher for %s: %r", model, error)

    # --- following -------------------------------------------------------------------------

    async def follow(self) -> None:
        """Keep the table current until cancelled: reconnect for ever, later and later."""
        if self._launcher is None:
            return
        try:
            await self._follow_for_ever(self._launcher)
        finally:
            self._lose()  # what nobody keeps current is not to be trusted

    async def _follow_for_ever(self, launcher: Launcher) -> None:
        failures = 0
        while True:
            started = self._status
            try:
                await self._follow_once(launcher)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next try decides
                log.debug("the launcher's status stream ended: %r", error)
            failures = 0 if self._status is not started else failures + 1
            if failures == 1:
                log.warning("the launcher does not answer")
                self._lose()
            await asyncio.sleep(self._back_off[min(failures, len(self._back_off) - 1)])

    async def _follow_once(self, launcher: Launcher) -> None:
        async with asyncio.timeout(SILENCE) as silence, contextlib.aclosing(launcher.watch()) as statuses:
            async for status in statuses:
                silence.reschedule(asyncio.get_running_loop().time() + SILENCE)
                self.update(status)

    def update(self, status: LauncherStatus) -> None:
        """Take what the launcher says now."""
        self._status = status
        if status.generation != self._generation:
            self._generation = status.generation
            self._refreshing = asyncio.create_task(self._refresh(self._refreshing), name="take over the list of models")
        self._replace({server.model: server for server in status.servers})

    async def _refresh(self, before: asyncio.Task[None] | None) -> None:
        """One after the other: the last list wins."""
        if before is not None:
            await asyncio.wait([before])
        if self.on_generation is not None:
            await self.on_generation()
            self._wake()

    def _lose(self) -> None:
        """Route nothing more. What is under way may go on: the servers may be well."""
        if self._status is not None:
            self._status = None
            self._endpoints.clear()
            self._wake()

    def _replace(self, servers: Mapping[str, ServerStatus]) -> None:
        """Give exactly the ready servers an endpoint, and end those of servers that have gone."""
        for model, endpoint in [*self._endpoints.items()]:
            if not endpoint.serves(servers.get(model)):
                del self._endpoints[model]
                self._leaving.append(endpoint)
        self._leaving = [endpoint for endpoint in self._leaving if endpoint.drains(servers.get(endpoint.model))]
        for model, server in servers.items():
            if server.state == "ready":
                self._been_ready.add(model)
            if server.state == "ready" and server.endpoint and model not in self._endpoints:
                self._endpoints[model] = Endpoint(server)
        self._wake()

    def _wake(self) -> None:
        self._changed, changed = asyncio.Event(), self._changed
        changed.set()


def retry_after(server: ServerStatus) -> int:
    """Return after how many seconds another try makes sense: long downloads are not asked after every second."""
    return {"fetching": 30, "starting": 10, "warming": 3, "draining": 10}.get(server.state, RETRY_AFTER)
