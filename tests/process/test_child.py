"""The app under supervision: restarted when it crashes, and an error, not a loop, when it cannot start."""

import asyncio
import contextlib
import os
import socket
import sys

import psutil
import pytest

from tests.process.fleet import DEADLINE, FAKE_ENGINE
from tests.processes import until_gone
from vllm_launcher.errors import ChildFailed, PortTaken
from vllm_launcher.keeping.child import SupervisedChild
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.keeping.service import check_port_free
from vllm_launcher.processes.process import Launch, ServerProcess
from vllm_launcher.processes.run_directory import RunDirectory

EAGER = RestartPolicy(first_delay=0.01, longest_delay=0.05)


def app_launch(port: int) -> Launch:
    """A stand-in for the app that listens on ``port``."""
    command = (sys.executable, "-I", "-S", str(FAKE_ENGINE), "--port", str(port), "--served-model-name", "app")
    return Launch(command, {"PATH": os.defpath})


class Spawner:
    """Spawns in a run directory, and hands over what it spawned."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self.spawned: asyncio.Queue[ServerProcess] = asyncio.Queue()

    async def __call__(self, name: str, launch: Launch) -> ServerProcess:
        """Spawn."""
        process = await self._run.spawn(name, launch)
        self.spawned.put_nowait(process)
        return process

    async def next(self) -> ServerProcess:
        """The next process."""
        return await asyncio.wait_for(self.spawned.get(), DEADLINE)


async def test_an_app_whose_port_is_taken_is_an_error_that_says_so(run: RunDirectory) -> None:
    """It is started once, not again and again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        child = SupervisedChild("app", app_launch(taken.getsockname()[1]), spawn=run.spawn, policy=EAGER)
        with pytest.raises(ChildFailed, match=r"app ended at its start: OSError: .*Address already in use") as caught:
            await asyncio.wait_for(child.keep(), DEADLINE)
    assert child.starts == 1
    assert caught.value.hint


async def test_a_crashed_app_is_started_again(run: RunDirectory) -> None:
    """After its first start has settled."""
    spawner = Spawner(run)
    child = SupervisedChild("app", app_launch(0), spawn=spawner, policy=EAGER, settled=0.0)
    keeping = asyncio.create_task(child.keep())
    first = await spawner.next()
    await first.kill()
    second = await spawner.next()
    assert second.alive
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert not second.alive


async def test_an_app_that_crashes_again_and_again_is_given_up(run: RunDirectory) -> None:
    """With the reason of the last crash."""
    spawner = Spawner(run)
    child = SupervisedChild("app", app_launch(0), spawn=spawner, policy=EAGER, settled=0.0)
    keeping = asyncio.create_task(child.keep())
    for _ in range(5):
        await (await spawner.next()).kill()
    with pytest.raises(ChildFailed, match="given up after 5 failures"):
        await asyncio.wait_for(keeping, DEADLINE)


async def test_a_cancelled_app_is_gone(run: RunDirectory) -> None:
    """Cancelling is how it is stopped."""
    spawner = Spawner(run)
    child = SupervisedChild("app", app_launch(0), spawn=spawner)
    keeping = asyncio.create_task(child.keep())
    process = await spawner.next()
    tree = [psutil.Process(process.pid)]
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    assert not until_gone(tree, within=0)


async def test_a_taken_port_is_told_with_its_owner() -> None:
    """Before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port} .*pid {os.getpid()}"):
            await check_port_free("127.0.0.1", port)
    await check_port_free("127.0.0.1", port)
