"""In-memory stand-ins for everything a launcher touches, scripted by the test. No process, no network, no waiting."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from vllm_launcher.errors import NotReady, ServerFailed
from vllm_launcher.keeping.health import Exits, OnSample, Target, until_exit
from vllm_launcher.keeping.launcher import Build, ServerSpec
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Progress, Report


class FakeProcess:
    """A process that ends when told to. ``heeds_sigterm``: whether being asked is enough."""

    def __init__(self, pid: int, *, heeds_sigterm: bool = True, lines: tuple[str, ...] = ()) -> None:
        self.pid: int | None = pid
        self.heeds_sigterm = heeds_sigterm
        self.lines = list(lines)
        self.calls: list[str] = []
        self.main_ended = asyncio.Event()
        self.on_kill: Callable[[], None] = lambda: None
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._exit.done()

    def exits(self, code: int, *lines: str) -> None:
        """End, by itself."""
        self.lines += lines
        self.main_ended.set()
        if not self._exit.done():
            self._exit.set_result(code)

    async def ended(self) -> None:
        """See ``collaborators.Process``."""
        await self.main_ended.wait()

    async def wait(self) -> int:
        """See ``collaborators.Process``."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace: float) -> int:
        """See ``collaborators.Process``."""
        self.calls.append(f"stop {grace:g}")
        return await self._end(143 if self.heeds_sigterm else 137)

    async def kill(self) -> int:
        """See ``collaborators.Process``."""
        if self.alive:
            self.on_kill()
            self.calls.append("kill")
        return await self._end(137)

    def tail(self, count: int = 50) -> list[str]:
        """See ``collaborators.Process``."""
        return self.lines[-count:]

    async def rss_bytes(self) -> int:
        """See ``collaborators.Process``."""
        return 1_000_000

    async def _end(self, code: int) -> int:
        await asyncio.sleep(0)  # ending takes a moment
        self.exits(code)
        return await self.wait()


class FakeClock:
    """Time that moves only when somebody sleeps; the sleeps are noted."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        """See ``collaborators.Clock``."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """See ``collaborators.Clock``. Longer sleeps than a back-off are for ever: what waits so is measuring."""
        self.slept.append(seconds)
        if seconds == MEASURING:
            await asyncio.Event().wait()
        self.time += seconds
        await asyncio.sleep(0)


MEASURING = 15.0


@dataclass
class FakeHealth:
    """Gets ready when the test says so; ``automatic``: at once."""

    automatic: bool = True
    warming: asyncio.Event = field(default_factory=asyncio.Event)
    token: asyncio.Event = field(default_factory=asyncio.Event)
    hung: asyncio.Queue[ServerFailed] = field(default_factory=asyncio.Queue[ServerFailed])
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    log: list[str] = field(default_factory=list[str])
    watchers: dict[str, "asyncio.Future[OnSample]"] = field(default_factory=dict[str, "asyncio.Future[OnSample]"])
    sleepless: bool = False

    def __post_init__(self) -> None:
        self.idle.set()

    async def wait_ready(self, target: Target, process: Exits | None, *, on_warming: Callable[[], None]) -> None:
        """See ``health.Health``."""
        self.log.append(f"ask {target.served_name}")
        await until_exit(self._become_ready(on_warming), process)

    async def watch(self, target: Target, on_sample: OnSample) -> None:
        """See ``health.Health``."""
        if not (watcher := self._watcher(target.served_name)).done():
            watcher.set_result(on_sample)
        raise await self.hung.get()

    async def wait_idle(self, target: Target, timeout: float | None) -> None:  # noqa: ASYNC109 - as in Health
        """See ``health.Health``."""
        limit = "for ever" if timeout is None else f"{timeout:g}"
        self.log.append(f"wait_idle {target.base_url.rpartition(':')[0]} {limit}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.idle.wait()

    async def watcher(self, served_name: str) -> OnSample:
        """Whom to tell of a look at the first server of that name, once it is ready."""
        return await asyncio.shield(self._watcher(served_name))

    async def sleep(self, target: Target, level: int) -> None:
        """See ``health.Health``."""
        self.log.append(f"sleep {target.served_name} {level}")
        if self.sleepless:
            raise NotReady("It answered /sleep with 500.")

    async def wake(self, target: Target, level: int) -> None:
        """See ``health.Health``."""
        self.log.append(f"wake {target.served_name} {level}")

    def _watcher(self, served_name: str) -> "asyncio.Future[OnSample]":
        if served_name not in self.watchers:
            self.watchers[served_name] = asyncio.get_running_loop().create_future()
        return self.watchers[served_name]

    async def _become_ready(self, on_warming: Callable[[], None]) -> None:
        if not self.automatic:
            await self.warming.wait()
        on_warming()
        if not self.automatic:
            await self.token.wait()


class FakePorts:
    """Ports in their order, none of them opened."""

    def __init__(self) -> None:
        self.next = 1000
        self.held: set[int] = set()

    def take(self) -> int:
        """See ``ports.PortTable``."""
        self.next += 1
        self.held.add(self.next)
        return self.next

    def release(self, port: int) -> None:
        """See ``ports.PortTable``."""
        self.held.remove(port)


@dataclass
class World:
    """All of them, and what happened in them."""

    health: FakeHealth = field(default_factory=FakeHealth)
    clock: FakeClock = field(default_factory=FakeClock)
    ports: FakePorts = field(default_factory=FakePorts)
    processes: list[FakeProcess] = field(default_factory=list[FakeProcess])
    prepared: list[str] = field(default_factory=list[str])
    fetched: asyncio.Event = field(default_factory=asyncio.Event)
    prepare_errors: list[Exception] = field(default_factory=list[Exception])
    on_spawn: Callable[[FakeProcess], None] = lambda _: None

    def __post_init__(self) -> None:
        self.fetched.set()

    async def prepare(self, model: str, report: Report) -> Build:
        """See ``collaborators.Prepare``."""
        self.prepared.append(model)
        report(Progress(phase="downloading weights", done=1, total=2, unit="bytes"))
        await self.fetched.wait()
        if self.prepare_errors:
            raise self.prepare_errors.pop(0)
        return lambda port: Launch((model, str(port)), {})

    async def spawn(self, name: str, launch: Launch) -> FakeProcess:
        """See ``collaborators.Spawn``."""
        del name, launch
        self.processes.append(FakeProcess(pid=len(self.processes) + 1))
        self.on_spawn(self.processes[-1])
        return self.processes[-1]


def spec(model: str = "m", *, on_demand: bool = False) -> ServerSpec:
    """One server to keep."""
    return ServerSpec(model, f"served-{model}", load="on-demand" if on_demand else "startup")
