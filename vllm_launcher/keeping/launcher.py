"""The single owner of state: which servers there are, what is wanted of each, and how each is.

Wiring, as the command line does it (``service.serve`` runs the parts in their order)::

    with RunDirectory.open(settings.run_dir) as run:         # one launcher per directory, else AlreadyRunning
        launcher = Launcher(
            specs,                                           # ServerSpec per model, from the plan
            prepare=prepare,                                 # install engine, fetch weights -> Build(port) -> Launch
            spawn=run.spawn,
            health=HttpHealth(),
            ports=PortTable(reserved=[app_port]),
            capacity=plan.capacity,                          # bytes that servers may take in all, by pool
            desired=run.path / "desired.json",               # what is loaded, for the next launcher
        )
        control = ControlServer(launcher, run.control_socket)
        app = SupervisedChild("app", launch, spawn=run.spawn)
        await serve(launcher, control=control, app=app, run=run, stop=stop_signals())

where ``prepare`` is an ``async def prepare(model: str, report: Report) -> Build``: it may run for minutes, reports
progress as it goes, may be called again for every start, and returns a function from the port to a
``Launch(argv, env)`` with the whole environment. It is cancelled when the model is unloaded: whatever it spawns
must die then (``process.run`` sees to that).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Self

from vllm_launcher.errors import UnknownModel
from vllm_launcher.keeping.board import Board
from vllm_launcher.keeping.collaborators import (
    Build,
    Clock,
    External,
    Graces,
    LoopClock,
    Ports,
    Prepare,
    Process,
    ServerSpec,
    Spawn,
    Tools,
)
from vllm_launcher.keeping.desired import Desired, DesiredState
from vllm_launcher.keeping.health import Health
from vllm_launcher.keeping.keeper import Keeper
from vllm_launcher.keeping.ports import PortTable
from vllm_launcher.keeping.replicas import Replicas
from vllm_launcher.keeping.reporter import first_status
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.keeping.room import MINIMUM_STAY, Room
from vllm_launcher.keeping.router import HttpRoutes, Routes
from vllm_launcher.status import LauncherStatus, ServerStatus

__all__ = ["Build", "External", "Graces", "Launcher", "Prepare", "Process", "ServerSpec", "Spawn"]

QUICK = Graces(settle=0.0, drain=2.0, ready=5.0, starting=0.5)
"""When everything ends: the app, which knew the endpoints, is gone already."""


SETTLED = ("ready", "failed", "stopped", "absent")
"""States from which a server does not get ready by itself."""


class Launcher:
    """Keeps the servers of ``specs``. ``start`` it, or use it as an async context manager."""

    def __init__(  # noqa: PLR0913 - the composition root names them
        self,
        specs: Iterable[ServerSpec],
        *,
        prepare: Prepare,
        spawn: Spawn,
        health: Health,
        ports: Ports | None = None,
        clock: Clock | None = None,
        policy: RestartPolicy | None = None,
        graces: Graces | None = None,
        starting_at_once: int = 1,
        capacity: Mapping[str, int] | None = None,
        minimum_stay: float = MINIMUM_STAY,
        desired: Path | None = None,
        routes: Routes | None = None,
    ) -> None:
        listed = list(specs)
        self._tools = Tools(
            prepare=prepare,
            spawn=spawn,
            health=health,
            ports=ports or PortTable(),
            turns=asyncio.Semaphore(starting_at_once),
            clock=clock or LoopClock(),
            policy=policy or RestartPolicy(),
            graces=graces or Graces(),
        )
        self._board = Board(first_status(spec) for spec in listed)
        self._board.limit(capacity or {})
        self._room = Room(capacity or {}, self._tools.clock, stay=minimum_stay)
        self._routes = routes or HttpRoutes()
        self._keepers = {spec.model: self._keeper_of(spec) for spec in listed}
        self._leaving: list[Keeper | Replicas] = []
        self._unloaded: set[str] = set()
        self._desired = DesiredState(desired, self._wanted)
        self._applying = asyncio.Lock()
        self._ending = False
        self._stack = contextlib.AsyncExitStack()
        self._sharing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    async def start(self) -> None:
        """Begin to keep: what loads at startup is wanted from now on, and what the last launcher had loaded."""
        before = await asyncio.to_thread(self._desired.read)
        self._unloaded = {model for model in before.unloaded if model in self._keepers}
        for model, keeper in self._keepers.items():
            self._begin(keeper, loaded=model in before.loaded)
        await self._stack.enter_async_context(self._desired)
        self._desired.note()
        self._sharing = asyncio.create_task(self._fill(), name="load what there is room for")

    def ensure_ready(self, model: str, *, retry: bool = False) -> ServerStatus:
        """Have ``model`` ready as soon as it can be; its status as of now. Asking again costs nothing.

        A failed model stays failed, unless somebody who has mended the cause asks to ``retry``.
        """
        keeper = self._keeper(model)
        keeper.want(retry=retry)
        self._unloaded.discard(model)
        self._desired.note()
        return keeper.status

    async def unload(self, model: str) -> ServerStatus:
        """Drain and stop ``model``; returns when nothing of it is left."""
        keeper = self._keeper(model)
        if keeper.spec.load == "startup":
            self._unloaded.add(model)
        await keeper.release()
        self._desired.note()
        return keeper.status

    async def restart(self, model: str) -> ServerStatus:
        """Drain and stop ``model``, and have it ready again; a failed one is revived. Returns once it is on its way."""
        keeper = self._keeper(model)
        await keeper.release()
        return self.ensure_ready(model, retry=True)

    async def apply(self, specs: Iterable[ServerSpec], capacity: Mapping[str, int]) -> None:
        """Keep these servers from now on: new ones come, others go, those with another fingerprint start anew.

        The status tells of it at once; returns when what had to go is gone. Servers that are the same go on as if
        nothing had happened.
        """
        async with self._applying:
            listed = {spec.model: spec for spec in specs}
            known = {model: keeper for model, keeper in self._keepers.items() if _keeps(keeper, listed.get(model))}
            self._leaving = [keeper for model, keeper in self._keepers.items() if model not in known]
            self._board.arrange(map(first_status, listed.values()), capacity)
            self._room.resize(capacity)
            before, self._keepers = (
                self._keepers,
                {model: known.get(model) or self._keeper_of(spec) for model, spec in listed.items()},
            )
            for model, keeper in self._keepers.items():
                if model not in before:
                    self._begin(keeper)
            await asyncio.gather(
                *(keeper.close() for keeper in self._leaving if keeper.spec.model not in listed),
                *(keeper.replace(listed[model]) for model, keeper in known.items()),
                *(self._exchange(before[model], self._keepers[model]) for model in before if model in listed),
            )
            self._leaving = []
            self._desired.note()

    def note_problem(self, problem: str | None) -> None:
        """Why the last edit of the list of models was not taken over, for everybody to see."""
        self._board.note(problem)

    def status(self) -> LauncherStatus:
        """Everything, as of now."""
        return self._board.snapshot()

    def events(self, heartbeat: float | None = None) -> AsyncIterator[LauncherStatus]:
        """The whole status now and after every change, the newest only for slow readers; ends after ``shutdown``.

        With ``heartbeat``, also after so many seconds without a change.
        """
        return self._board.changes(heartbeat)

    async def shutdown(self, graces: Graces = QUICK) -> None:
        """Stop every server, and return when no process is left."""
        self._ending = True
        await self._stack.aclose()  # first: what is released now was wanted until the end
        if self._sharing is not None:
            self._sharing.cancel()
            await asyncio.gather(self._sharing, return_exceptions=True)
        await asyncio.gather(*(keeper.close(graces) for keeper in [*self._keepers.values(), *self._leaving]))
        self._board.close()

    async def _exchange(self, before: Keeper | Replicas, after: Keeper | Replicas) -> None:
        """One server becomes several, or several one: the new ones begin when the old ones are gone."""
        if before is not after:
            wanted = before.wanted or before.status.state == "failed"
            await before.close()
            if not self._ending:
                self._begin(after, loaded=wanted)

    def _keeper(self, model: str) -> Keeper | Replicas:
        if model not in self._keepers:
            raise UnknownModel(model)
        return self._keepers[model]

    def _keeper_of(self, spec: ServerSpec) -> Keeper | Replicas:
        if spec.replicas:
            return Replicas(spec, self._board, self._tools, self._room, self._routes)
        return Keeper(spec, self._board, self._tools, self._room)

    def _begin(self, keeper: Keeper | Replicas, *, loaded: bool = False) -> None:
        """Begin to keep, and to load what is to be loaded at once."""
        keeper.start()
        spec = keeper.spec
        if loaded or (spec.load == "startup" and not spec.shares and spec.model not in self._unloaded):
            keeper.want(polite=spec.shares)

    async def _fill(self) -> None:
        """Load the startup models that share their memory, once those that have theirs for sure are settled."""
        async for status in self._board.changes():
            sure = [model for model, keeper in self._keepers.items() if keeper.wanted and not keeper.spec.shares]
            if all((server := status.server(model)) is None or server.state in SETTLED for model in sure):
                break
        for model, keeper in self._keepers.items():
            if keeper.spec.load == "startup" and keeper.spec.shares and model not in self._unloaded:
                keeper.want(polite=True)

    def _wanted(self) -> Desired:
        loaded = tuple(model for model, keeper in self._keepers.items() if keeper.wanted)
        return Desired(loaded=loaded, unloaded=tuple(sorted(self._unloaded)))


def _keeps(keeper: Keeper | Replicas, spec: ServerSpec | None) -> bool:
    """Whether this keeper can go on with that server: one keeps a single server, the other several."""
    if spec is None:
        return False
    single = not keeper.spec.replicas and not spec.replicas
    return single or (keeper.spec.fingerprint == spec.fingerprint and spec.refusal is None)
