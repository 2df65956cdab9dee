"""The single owner of state: which servers there are, what is wanted of each, and how each is.

Wiring, as the command line does it (``service.serve`` runs the parts in their order)::

    with RunDirectory.open(settings.run_dir) as run:         # one launcher per directory, else AlreadyRunning
        launcher = Launcher(
            specs,                                           # ServerSpec per model, from the plan
            prepare=prepare,                                 # install engine, fetch weights -> Build(port) -> Launch
            spawn=run.spawn,
            health=HttpHealth(),
            ports=PortTable(reserved=[app_port]),
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
import time
from collections.abc import AsyncIterator, Iterable
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
from vllm_launcher.keeping.health import Health
from vllm_launcher.keeping.keeper import Keeper
from vllm_launcher.keeping.ports import PortTable
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.status import LauncherStatus, ServerStatus

__all__ = ["Build", "External", "Graces", "Launcher", "Prepare", "Process", "ServerSpec", "Spawn"]

QUICK = Graces(settle=0.0, drain=2.0, ready=5.0, starting=0.5)
"""When everything ends: the app, which knew the endpoints, is gone already."""


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
    ) -> None:
        self._specs = {spec.model: spec for spec in specs}
        self._board = Board(_first_status(spec) for spec in self._specs.values())
        tools = Tools(
            prepare=prepare,
            spawn=spawn,
            health=health,
            ports=ports or PortTable(),
            turns=asyncio.Semaphore(starting_at_once),
            clock=clock or LoopClock(),
            policy=policy or RestartPolicy(),
            graces=graces or Graces(),
        )
        self._keepers = {model: Keeper(spec, self._board, tools) for model, spec in self._specs.items()}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    def start(self) -> None:
        """Begin to keep: what loads at start-up is wanted from now on."""
        for model, keeper in self._keepers.items():
            self._tasks.append(asyncio.create_task(keeper.keep(), name=f"keep {model}"))
            if self._specs[model].load == "startup":
                keeper.want()

    def ensure_ready(self, model: str, *, retry: bool = False) -> ServerStatus:
        """Have ``model`` ready as soon as it can be; its status as of now. Asking again costs nothing.

        A failed model stays failed, unless somebody who has mended the cause asks to ``retry``.
        """
        keeper = self._keeper(model)
        keeper.want(retry=retry)
        return keeper.status

    async def unload(self, model: str) -> ServerStatus:
        """Drain and stop ``model``; returns when nothing of it is left."""
        keeper = self._keeper(model)
        await keeper.release()
        return keeper.status

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
        await asyncio.gather(*(keeper.release(graces) for keeper in self._keepers.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._board.close()

    def _keeper(self, model: str) -> Keeper:
        if model not in self._keepers:
            raise UnknownModel(model)
        return self._keepers[model]


def _first_status(spec: ServerSpec) -> ServerStatus:
    status = ServerStatus(model=spec.model, served_name=spec.served_name, since=time.time())
    if spec.refusal is None:
        return status
    told = {"state": "failed", "reason": spec.refusal.reason, "hint": spec.refusal.hint, "refused": True}
    return status.model_copy(update=told)
