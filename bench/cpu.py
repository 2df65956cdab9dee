"""What processes take: CPU time to the nanosecond, and memory, both of whole trees. Linux."""

import asyncio
import contextlib
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import psutil


def family(pid: int) -> list[int]:
    """Return a process and everything below it."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return []


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time of processes so far, to the nanosecond; threads that have ended count too.

    Raises:
        OSError: One of the processes is gone, and its time with it.
    """
    return sum(time.clock_gettime(_clock(pid)) for pid in pids)


def _clock(pid: int) -> int:
    """Return a process's CPU clock, as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | 2


def memory_bytes(pids: list[int]) -> int:
    """Return the memory of a tree; what its processes share is counted once (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total


@dataclass
class Meter:
    """Watches a tree of processes while something runs."""

    pids: list[int]
    cpu: float = 0.0
    """Seconds."""
    memory: int = 0
    """Bytes, the most that was seen."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]], repr=False)

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Measure what happens in the block."""
        task = asyncio.create_task(self._watch())
        before = cpu_seconds(self.pids)
        try:
            yield
        finally:
            self.cpu = cpu_seconds(self.pids) - before
            task.cancel()

    async def _watch(self) -> None:
        while True:
            self.memory = max(self.memory, await asyncio.to_thread(memory_bytes, self.pids))
            await asyncio.sleep(0.5)


def pin(pids: list[int], cores: list[int]) -> None:
    """Keep processes, and what they start later, on some cores."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), cores)


def speed_of_this_moment() -> tuple[float, float]:
    """Return how long a fixed piece of work takes here now, in seconds of CPU and of the clock: its noise.

    The first tells how fast the core is, the second how long one waits for it.
    """
    began, clock = time.thread_time(), time.perf_counter()
    total = 0
    for number in range(400_000):
        total += number * number % 7
    return time.thread_time() - began, time.perf_counter() - clock
