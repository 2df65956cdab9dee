"""Which processes belong to a product under test, and whether one is left."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

import psutil

MARK = "LANGSERVE_VLLM_TEST_MARK"
"""In the environment of every process of a product under test, children included."""

T = TypeVar("T")


def family(pid: int, mark: str) -> list[psutil.Process]:
    """Every living process below ``pid``, and every one that carries ``mark``, wherever it was reparented to.

    A ``psutil.Process`` knows its start time, so a pid that is used again is not taken for the old process.
    """
    found = {process.pid: process for process in _carriers(mark)}
    found.update({process.pid: process for process in _descendants(pid)})
    return [process for process in found.values() if alive(process)]


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def named(processes: Iterable[psutil.Process], part: str) -> list[psutil.Process]:
    """Those whose command line holds ``part``: vLLM names its processes VLLM::EngineCore and so on."""
    return [process for process in processes if part in command_line(process)]


def command_line(process: psutil.Process) -> str:
    """Its command line, or nothing where it has gone."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""


def until_gone(processes: list[psutil.Process], *, within: float) -> list[psutil.Process]:
    """Wait for processes to end; return those that still live after ``within`` seconds."""
    deadline = time.monotonic() + within
    while (left := [process for process in processes if alive(process)]) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.1)
    return left


async def eventually(
    look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], *, within: float, every: float = 0.1
) -> T:
    """Look again and again until what is seen is wanted.

    Raises:
        TimeoutError: It was not within so many seconds; the message tells what was seen last.
    """
    deadline = time.monotonic() + within
    while not wanted(seen := await look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {within} s: {seen!r}")
        await asyncio.sleep(every)
    return seen


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _carriers(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                yield process
        except psutil.Error:
            continue
