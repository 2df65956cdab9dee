"""Being told to stop: a benchmark ends within seconds, with everything that it has started."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
INTERRUPTED = 130
"""Exit status."""


def run_until_told(work: Coroutine[Any, Any, T]) -> T:
    """Run it; SIGINT and SIGTERM cancel it, and once it has tidied up this process ends with status 130."""

    async def cancellable() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        print("Stopped; everything that was started has ended.", flush=True)
        sys.exit(INTERRUPTED)
