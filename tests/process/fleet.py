"""A launcher over fake engines: what the process tests are made of."""

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.processes import MARK, alive
from vllm_launcher.command import ROUTE
from vllm_launcher.keeping.collaborators import ROUTER, part_of, parts
from vllm_launcher.keeping.health import HttpHealth
from vllm_launcher.keeping.launcher import Build, Graces, Launcher, ServerSpec
from vllm_launcher.keeping.ports import PortTable
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.keeping.router import POLICIES
from vllm_launcher.keeping.stall import Patience
from vllm_launcher.processes.process import Launch
from vllm_launcher.processes.run_directory import RunDirectory
from vllm_launcher.progress import Progress, Report
from vllm_launcher.registry.entries import Balance
from vllm_launcher.status import LauncherStatus, ServerStatus, State

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
DEADLINE = 20.0
"""Seconds for anything that a test waits for; nothing takes that long unless it is broken."""
IMPATIENT = Patience(poll=0.05, answer=1.0, stalled=0.8, silent=1.5, idle=None, probe=0.8)
"""For engines that answer in milliseconds."""
EAGER = RestartPolicy(first_delay=0.01, longest_delay=0.05)
BRISK = Graces(settle=0.0, drain=3.0, ready=0.5, starting=0.2)


def engine_launch(model: str, port: int, modes: str = "", **env: str) -> Launch:
    """The command of a fake engine, environment included."""
    argv = (sys.executable, "-I", "-S", str(FAKE_ENGINE), "--port", str(port), "--served-model-name", model)
    return Launch(argv, {"PATH": os.defpath, "FAKE_MODES": modes, **env})


@dataclass
class Fleet:
    """What the engines do, by model; may be changed while the launcher runs. Every process carries ``mark``."""

    run: RunDirectory
    modes: dict[str, str]
    env: dict[str, str] = field(default_factory=dict[str, str])
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    ports: PortTable = field(default_factory=PortTable)
    router: Path = Path()
    """The interpreter of the router's environment, for models with replicas."""
    balance: Balance = "load"

    async def prepare(self, model: str, report: Report) -> Build:
        """Nothing to install: a report, and the command."""
        report(Progress(phase="downloading weights", done=1, total=1))
        name, part = parts(model)
        if part == ROUTER:
            return self._route
        modes = self.modes.get(model, self.modes[name])
        return lambda port: engine_launch(name, port, modes, **self.env, **{MARK: self.mark})

    def _route(self, port: int) -> Launch:
        """The real router, in the environment that the product makes for it."""
        argv = (str(self.router), "-I", str(ROUTE), str(port), POLICIES[self.balance])
        return Launch(argv, {"PATH": os.defpath, MARK: self.mark})

    @contextlib.asynccontextmanager
    async def launcher(  # noqa: PLR0913 - what a test may want otherwise
        self,
        *,
        load: str = "startup",
        start_timeout: float = DEADLINE,
        patience: Patience = IMPATIENT,
        policy: RestartPolicy = EAGER,
        graces: Graces = BRISK,
        room_for: int | None = None,
        minimum_stay: float = 0.0,
        desired: Path | None = None,
        specs: Sequence[ServerSpec] | None = None,
    ) -> AsyncGenerator[Launcher, None]:
        """A running launcher, shut down in the end; with memory for so many of its servers."""
        async with Launcher(
            [self.spec(model, load) for model in self.modes] if specs is None else specs,
            prepare=self.prepare,
            spawn=self.run.spawn,
            health=HttpHealth(start_timeout=start_timeout, patience=patience, poll=0.02, dying=0.3),
            ports=self.ports,
            policy=policy,
            graces=graces,
            capacity={} if room_for is None else {"cpu": room_for},
            minimum_stay=minimum_stay,
            desired=desired,
        ) as launcher:
            yield launcher

    def spec(self, model: str, load: str = "on-demand", *, fingerprint: str = "") -> ServerSpec:
        """One of its servers, which takes one byte."""
        return ServerSpec(
            model,
            model,
            load="startup" if load == "startup" else "on-demand",
            needs={"cpu": 1},
            fingerprint=fingerprint,
        )

    def replicated(self, model: str, count: int, load: str = "on-demand") -> ServerSpec:
        """One model with several servers, each of which takes one byte."""
        whole = self.spec(model, load)
        replicas = tuple(replace(whole, model=part_of(model, number)) for number in range(count))
        return replace(whole, replicas=replicas, needs={"cpu": count}, balance=self.balance, fingerprint=f"x{count}")

    def processes(self) -> list[psutil.Process]:
        """Every living process of this fleet's engines, guards included."""
        return marked(self.mark)


def marked(mark: str) -> list[psutil.Process]:
    """Every living process that carries ``mark``."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and alive(process):
                found.append(process)
    return found


async def until(
    events: AsyncIterator[LauncherStatus], model: str, wanted: Callable[[ServerStatus], bool] | State
) -> ServerStatus:
    """Read events until ``model`` is as wanted."""

    def satisfied(server: ServerStatus) -> bool:
        return wanted(server) if callable(wanted) else server.state == wanted

    last = None
    try:
        async with asyncio.timeout(DEADLINE):
            async for status in events:
                last = status.server(model)
                if last is not None and satisfied(last):
                    return last
    except TimeoutError:
        pass
    raise AssertionError(f"{model} did not become as wanted; last seen: {last!r}")
