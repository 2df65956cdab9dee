"""A launcher in a scripted world, and waiting for what it does."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

from tests.unit.fakes import World, spec
from vllm_launcher.keeping.launcher import Graces, Launcher, ServerSpec
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.status import ServerStatus, State

DEADLINE = 20.0
GRACES = Graces(settle=0.0, drain=7.0, ready=3.0, starting=1.0)


@contextlib.asynccontextmanager
async def launching(
    world: World,
    *specs: ServerSpec,
    policy: RestartPolicy | None = None,
    capacity: Mapping[str, int] | None = None,
    desired: Path | None = None,
) -> AsyncGenerator[Launcher, None]:
    """A launcher in a scripted world; what it holds at its end is checked."""
    async with Launcher(
        specs or [spec()],
        prepare=world.prepare,
        spawn=world.spawn,
        health=world.health,
        ports=world.ports,
        clock=world.clock,
        policy=policy,
        graces=GRACES,
        capacity=capacity,
        minimum_stay=0.0,
        desired=desired,
    ) as launcher:
        yield launcher
    assert not world.ports.held
    assert not [process for process in world.processes if process.alive]


async def until(launcher: Launcher, wanted: State | Callable[[ServerStatus], bool], model: str = "m") -> ServerStatus:
    """Wait until a server is as wanted."""
    async with asyncio.timeout(DEADLINE):
        async for status in launcher.events():
            server = status.server(model)
            assert server is not None
            if wanted(server) if callable(wanted) else server.state == wanted:
                return server
    raise AssertionError(f"not {wanted}: {launcher.status()}")
