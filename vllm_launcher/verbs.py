"""The commands that talk to a running launcher: what each does with its client, and what it prints."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from rich.console import Console

from vllm_launcher import view
from vllm_launcher.control_client import ControlClient
from vllm_launcher.errors import LauncherError, LauncherGone, ServerFailed
from vllm_launcher.processes.run_directory import control_socket
from vllm_launcher.status import LauncherStatus, ServerStatus

STOPS_WITHIN = 120.0
"""Seconds for a launcher that was told to stop: longer than every server's graces together."""
POLL = 0.1


def client_of(run: Path) -> ControlClient:
    """The client of the launcher that runs there."""
    return ControlClient(control_socket(run))


async def watch(client: ControlClient, show: Callable[[AsyncIterator[LauncherStatus]], Awaitable[None]]) -> None:
    """Show every change until the launcher ends. LauncherGone only where there is none to begin with."""
    await client.status()
    with contextlib.suppress(LauncherGone):
        await show(client.watch())


async def load(client: ControlClient, model: str, console: Console, *, wait: bool) -> ServerStatus:
    """Have a model ready; with ``wait`` its progress is shown until it is, or ServerFailed says why it is not."""
    asked = await client.ensure_ready(model, retry=True)
    return await _until_ready(client, model, console) if wait and asked.state != "ready" else asked


async def restart(client: ControlClient, model: str, console: Console, *, wait: bool) -> ServerStatus:
    """Start a model's server anew; with ``wait`` as ``load`` does."""
    begun = await client.restart(model)
    return await _until_ready(client, model, console) if wait else begun


async def stop(client: ControlClient, run: Path) -> None:
    """Have the launcher end; returns when nothing of it is left.

    Raises:
        LauncherError: It still lives after ``STOPS_WITHIN`` seconds.
    """
    await client.stop()
    try:
        async with asyncio.timeout(STOPS_WITHIN):
            while _is_locked(run / "launcher.lock"):  # noqa: ASYNC110 - a lock of another process has no event
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise LauncherError(f"It has not ended within {STOPS_WITHIN:.0f} s.", "Look at its output.") from None


async def _until_ready(client: ControlClient, model: str, console: Console) -> ServerStatus:
    last: ServerStatus | None = None

    async def of_this_model() -> AsyncIterator[LauncherStatus]:
        nonlocal last
        async for status in client.watch():
            last = status.server(model)
            yield status.model_copy(update={"servers": tuple(filter(None, [last])), "problem": None})
            if last is None or last.state in ("ready", "failed", "stopped"):
                return

    await view.follow(of_this_model(), console)
    if last is None or last.state != "ready":
        reason = last.reason if last and last.reason else "It was stopped before it was ready."
        raise ServerFailed(f"{model}: {reason}", last.hint if last else None)
    return last


def _is_locked(path: Path) -> bool:
    """Whether a launcher lives there."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
