"""The keeper of a model with several servers, and of the router in front of them.

Each replica has a keeper of its own, which starts, watches and restarts it as if it were alone; so has the router.
This one says which of them are wanted, tells the router whom to send requests to, and tells of all of them as one
model. A replica is in the router from when it is ready until its endpoint is withdrawn, which is before it drains.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from vllm_launcher.errors import LauncherError
from vllm_launcher.keeping.collaborators import ROUTER, Build, Graces, ServerSpec, Tools, part_of
from vllm_launcher.keeping.gathered import gather
from vllm_launcher.keeping.keeper import FINISHING, Keeper
from vllm_launcher.keeping.ports import LOOPBACK
from vllm_launcher.keeping.reporter import Teller, first_status
from vllm_launcher.keeping.room import Room
from vllm_launcher.keeping.router import Routes
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Report
from vllm_launcher.status import ServerStatus

logger = logging.getLogger(__name__)

AGAIN = 0.1
"""Seconds before the router is told again what it did not take: it has just been started, mostly."""
LOOK = 1.0
"""Seconds between two looks for idleness."""


class Replicas:
    """Keeps the servers of one model; what ``Keeper`` is for a single one, with the same methods."""

    def __init__(self, spec: ServerSpec, board: Teller, tools: Tools, room: Room, routes: Routes) -> None:
        self._spec = spec
        self._board = board
        self._tools = tools
        self._routes = routes
        self._keepers = [Keeper(replica, self, tools, room) for replica in spec.replicas]
        # It takes no turn: it starts in a moment, while the next replica may be starting for minutes.
        aside = replace(tools, prepare=self._prepare_router, turns=asyncio.Semaphore(1))
        self._router = Keeper(_router_of(spec), self, aside, room)
        self._wanted = False
        self._leaving: str | None = None
        self._at: str | None = None
        """Where the router listens, from when its process is there."""
        self._routed: frozenset[str] = frozenset()
        """Whom it sends requests to."""
        self._status = first_status(spec)
        self._changed = asyncio.Event()
        self._answering = asyncio.Event()
        """A replica is ready."""
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Replicas {self._spec.model} {self._keepers!r} {self._router!r}>"

    @property
    def status(self) -> ServerStatus:
        """The model's, as of now."""
        return self._status

    @property
    def spec(self) -> ServerSpec:
        """What is kept."""
        return self._spec

    @property
    def wanted(self) -> bool:
        """Whether it is to be ready."""
        return self._wanted

    def start(self) -> None:
        """Begin to keep."""
        for keeper in self._all():
            keeper.start()
        self._task = asyncio.create_task(self._follow(), name=f"keep the replicas of {self._spec.model}")

    async def close(self, graces: Graces | None = None) -> None:
        """Stop all of them and the keeping of them."""
        await self.release(graces)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await asyncio.gather(*(keeper.close(graces) for keeper in self._all()))

    def want(self, *, retry: bool = False, polite: bool = False) -> None:
        """See ``Keeper``: of every replica."""
        if self.status.state == "failed" and not retry:
            return
        self._wanted, self._leaving = True, None
        for keeper in self._keepers:
            keeper.want(retry=retry, polite=polite)
        if retry and self._router.status.state == "failed":
            self._router.want(retry=True)
        self._tell()

    async def release(self, graces: Graces | None = None, why: str = FINISHING) -> None:
        """Have all of them stopped, the router last: what it passes on is finished then."""
        self._wanted, self._leaving = False, why
        self._tell()
        await asyncio.gather(*(keeper.release(graces, why) for keeper in self._keepers))
        if not self._wanted:
            await self._router.release(graces, why)
            self._leaving = None
            self._tell()

    async def replace(self, spec: ServerSpec) -> None:
        """Keep this from now on. Another server is another keeper's matter: its fingerprint is the same."""
        self._spec = replace(spec, replicas=self._spec.replicas, needs=self._spec.needs)
        for keeper in self._keepers:
            await keeper.replace(replace(keeper.spec, pinned=spec.pinned, load=spec.load))
        self._tell()

    # --- what its keepers tell -------------------------------------------------------------

    def put(self, status: ServerStatus, *, minor: bool = False) -> None:
        """A replica or the router tells how it is."""
        del status  # each keeper is asked
        (self._answering.set if self._ready() else self._answering.clear)()
        if not minor:
            self._changed.set()
        self._tell(minor=minor)

    def _tell(self, *, minor: bool = False) -> None:
        """Tell of all of them as one, where something has changed."""
        told = gather(
            self._spec,
            [keeper.status for keeper in self._keepers],
            self._router.status,
            routed=self._routed,
            leaving=self._leaving,
        )
        same_state = told.state == self._status.state
        told = told.model_copy(update={"since": self._status.since if same_state else time.time()})
        if told != self._status:
            self._status = told
            self._board.put(told, minor=minor)

    # --- the router ------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Follow what the keepers tell, until cancelled."""
        again: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await self._changed.wait()
            self._changed.clear()
            await self._steer()
            done = await self._route()
            again = AGAIN if not done else LOOK if self._spec.idle_seconds is not None else None

    async def _steer(self) -> None:
        """Have a router where there is something to route to; stop everything where there cannot be one, or is idle."""
        if not self._wanted:
            return
        if self._router.status.state == "failed" or not any(keeper.wanted for keeper in self._keepers):
            await self.release()  # nothing to route with, or nothing to route to: given up, or made room for others
        elif self._idle():
            await self.release(replace(self._tools.graces, drain=None), f"idle for {self._spec.idle_seconds:g} s")
        elif self._ready() and not self._router.wanted:
            self._router.want()

    async def _route(self) -> bool:
        """Bring the router's servers to those that are ready; whether that worked."""
        if self._at is None or self._router.status.pid is None:
            return True
        try:
            for server in sorted(self._routed - self._ready()):
                await self._routes.remove(self._at, server)
                self._routed -= {server}
            for server in sorted(self._ready() - self._routed):
                await self._routes.add(self._at, server)
                self._routed |= {server}
        except LauncherError as error:
            if self._router.status.endpoint is not None:  # else it is just about to answer
                logger.warning("%s: %s", self._router.spec.model, error.reason)
            return False
        finally:
            self._tell()
        return True

    async def _prepare_router(self, model: str, report: Report) -> Build:
        """As the launcher prepares it, with the replicas that are ready when it starts."""
        build = await self._tools.prepare(model, report)
        await self._answering.wait()  # ready means a token, which a router alone cannot give

        def at(port: int) -> Launch:
            launch = build(port)
            self._at, self._routed = f"http://{LOOPBACK}:{port}", self._ready()
            return replace(launch, argv=(*launch.argv, *sorted(self._routed)))

        return at

    def _ready(self) -> frozenset[str]:
        """Where replicas answer now."""
        return frozenset(keeper.status.endpoint for keeper in self._keepers if keeper.status.endpoint is not None)

    def _idle(self) -> bool:
        """Whether none of them has had a request for as long as it may be without one."""
        limit = self._spec.idle_seconds
        if limit is None or self._spec.pinned or self.status.state != "ready" or self.status.requests:
            return False
        return time.time() - max(self.status.since, self.status.last_used or 0.0) >= limit

    def _all(self) -> list[Keeper]:
        return [*self._keepers, self._router]


def _router_of(spec: ServerSpec) -> ServerSpec:
    """The router as one more server: it answers for the same model."""
    return ServerSpec(
        part_of(spec.model, ROUTER),
        spec.served_name,
        task=spec.task,
        load="on-demand",
        balance=spec.balance,
        forwards=True,
    )
