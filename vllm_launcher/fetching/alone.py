"""One at a time, over all processes of this machine."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from filelock import FileLock, Timeout

from vllm_launcher.progress import Progress, Report

LOOK = 0.5
"""Seconds between two looks at a lock that somebody else holds."""


@contextlib.asynccontextmanager
async def alone(target: Path, waiting: str, report: Report) -> AsyncGenerator[None, None]:
    """Hold the lock of ``target`` (a file beside it); while somebody else does, report ``waiting``.

    The kernel releases it with the process, SIGKILL included.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(target.name + ".lock"))
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            report(Progress(phase=waiting))
            await asyncio.sleep(LOOK)
    try:
        yield
    finally:
        lock.release()
