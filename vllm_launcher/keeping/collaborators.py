"""What a keeper keeps, and with whose help: values and interfaces, no behaviour.

Everything that touches the world comes through these interfaces, so that unit tests bring scripted ones.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from vllm_launcher.errors import LauncherError
from vllm_launcher.keeping.health import Health
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Report
from vllm_launcher.registry import Task
from vllm_launcher.registry.entries import Balance


@dataclass(frozen=True)
class External:
    """A server that somebody else runs. ``base_url`` is without /v1."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True)
class ServerSpec:
    """One server to keep."""

    model: str
    served_name: str
    """The name that requests to the server carry."""
    task: Task = "chat"
    load: Literal["startup", "on-demand"] = "startup"
    external: External | None = None
    refusal: LauncherError | None = None
    """Why there will be no server: it does not fit, for example. Shown as failed, never started."""
    image_size: str = "256x256"
    needs: Mapping[str, int] = field(default_factory=dict[str, int])
    """Bytes it takes while loaded, by pool (``gpu:0``, ``cpu``); nothing of an external one."""
    pinned: bool = False
    """Never unloaded for another's sake, nor for idleness."""
    shares: bool = False
    """It does not fit beside all the others: at startup it is loaded only if there is room."""
    idle_seconds: float | None = None
    """Unloaded after so long without a request."""
    sleep: int | None = None
    """The level of vLLM's sleep mode that it is put to instead of being stopped."""
    replicas: tuple["ServerSpec", ...] = ()
    """Its servers, where it has several; requests then go to a router in front of them."""
    balance: Balance = "load"
    forwards: bool = False
    """It is such a router: no model is in it, and its metrics are those of a server behind it."""
    fingerprint: str = ""
    """Changes when its command, engine or weights do: a server with another one has to be started anew."""


SEPARATOR = "@"
"""Between a model's id, which holds none, and the number of its replica."""
ROUTER = "router"
"""What the router of a model is called where its replicas have numbers."""


def part_of(model: str, part: int | str) -> str:
    """The name of one replica of a model, or of its router: ``qwen3-8b@0``, ``qwen3-8b@router``."""
    return f"{model}{SEPARATOR}{part}"


def parts(name: str) -> tuple[str, str]:
    """The model, and which of its servers; "" where it has one alone."""
    model, _, part = name.partition(SEPARATOR)
    return model, part


class Process(Protocol):
    """What the keeper needs of ``process.ServerProcess``."""

    @property
    def pid(self) -> int | None:
        """The engine's main process."""
        ...

    async def ended(self) -> None:
        """Return when the engine's main process has ended; what it started may still be there."""
        ...

    async def wait(self) -> int:
        """The exit code, once nothing of it is left."""
        ...

    async def stop(self, grace: float) -> int:
        """Ask it to leave, and make it after ``grace`` seconds."""
        ...

    async def kill(self) -> int:
        """End it at once."""
        ...

    def tail(self, count: int = 50) -> list[str]:
        """The last lines of its output."""
        ...

    async def rss_bytes(self) -> int:
        """Resident memory of its tree."""
        ...


class Ports(Protocol):
    """What the keeper needs of ``ports.PortTable``."""

    def take(self) -> int:
        """A port that nobody uses."""
        ...

    def release(self, port: int) -> None:
        """Give it back."""
        ...


Build = Callable[[int], Launch]
"""From a port to what is run: the plan's command with its checkpoint, still without a place to listen."""
Prepare = Callable[[str, Report], Awaitable[Build]]
"""Given a model and where to report: installs its engine and fetches its weights. Idempotent; called before every
start. What it raises ends the attempt; attributes ``hint`` and ``permanent`` of the exception are heeded."""
Spawn = Callable[[str, Launch], Awaitable[Process]]


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class LoopClock:
    """The event loop's time."""

    def now(self) -> float:
        """See ``Clock``."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """See ``Clock``."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Graces:
    """Seconds that a server has to leave."""

    settle: float = 0.2
    """Between the withdrawal of its endpoint and the first look whether it is idle: the app has to hear of it."""
    drain: float | None = 30.0
    """For the requests under way; None: as long as they take."""
    ready: float = 10.0
    """After SIGTERM."""
    starting: float = 1.0
    """After SIGTERM, before it was ready. vLLM loses a SIGTERM during its start: longer would only be waiting."""


@dataclass(frozen=True)
class Tools:
    """The keeper's collaborators, one set for all keepers."""

    prepare: Prepare
    spawn: Spawn
    health: Health
    ports: Ports
    turns: asyncio.Semaphore
    """So many servers start at once: each takes what memory it finds while it starts."""
    clock: Clock
    policy: RestartPolicy
    graces: Graces
