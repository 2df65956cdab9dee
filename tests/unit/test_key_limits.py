"""What a key may use, counted over all workers: requests, tokens, requests at once."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from app.errors import OverLimit
from app.guard.key_limits import SILENCE, KeyLimits
from tests.processes import eventually
from vllm_launcher.keys import Key


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


def key(**limits: int) -> Key:
    """A key with these limits."""
    return Key(id="k1", name="alice", created=0, **limits)  # type: ignore[arg-type]


@asynccontextmanager
async def workers(folder: Path, clock: Clock, count: int = 2) -> AsyncGenerator[list[KeyLimits]]:
    """Several workers with one file."""
    made = [KeyLimits(folder / "limits.sqlite", now=clock) for _ in range(count)]
    async with AsyncExitStack() as stack:
        for limits in made:
            await stack.enter_async_context(limits.running())
        yield made


async def use(limits: KeyLimits, by: Key, tokens: int = 0) -> None:
    """One request from beginning to end."""
    async with limits.used(by, lambda: tokens):
        pass


async def test_requests_a_minute_are_counted_over_workers(tmp_path: Path) -> None:
    """The one too many is told when to come back, and is let in then."""
    clock = Clock()
    async with workers(tmp_path, clock) as (one, other):
        alice = key(requests_per_minute=3)
        await use(one, alice)
        await use(other, alice)
        await use(one, alice)
        with pytest.raises(OverLimit) as refused:
            await use(other, alice)
        assert refused.value.retry_after == 20
        clock.now += 20
        await use(other, alice)


async def test_tokens_are_taken_at_the_end_and_paid_back_by_time(tmp_path: Path) -> None:
    """An answer may overdraw the minute once; then nothing more is let in until it has filled up again."""
    clock = Clock()
    async with workers(tmp_path, clock) as (one, other):
        alice = key(tokens_per_minute=600)
        await use(one, alice, tokens=900)
        with pytest.raises(OverLimit) as refused:
            await use(other, alice)
        assert refused.value.retry_after == 31  # 300 tokens at 10 a second, and a little
        clock.now += 31
        await use(other, alice)


async def test_requests_at_once_are_counted_over_workers(tmp_path: Path) -> None:
    """A place is free again when its request ends, however it ends."""
    async with workers(tmp_path, Clock()) as (one, other):
        alice = key(streams=2)
        with contextlib.suppress(KeyError):
            async with one.used(alice, lambda: 0), other.used(alice, lambda: 0):
                with pytest.raises(OverLimit):
                    await use(one, alice)
                raise KeyError
        await use(one, alice)


async def test_a_refused_request_uses_up_nothing(tmp_path: Path) -> None:
    """Trying again and again does not push the moment away."""
    clock = Clock()
    async with workers(tmp_path, clock, 1) as (limits,):
        alice = key(requests_per_minute=1)
        await use(limits, alice)
        for _ in range(5):
            with pytest.raises(OverLimit):
                await use(limits, alice)
        clock.now += 60
        await use(limits, alice)


async def test_what_a_dead_worker_held_counts_no_more(tmp_path: Path) -> None:
    """It cannot give it back; nobody has heard of it for a while."""
    clock = Clock()
    alice = key(streams=1)
    async with workers(tmp_path, clock) as (silent, other), silent.used(alice, lambda: 0):
        with pytest.raises(OverLimit):
            await use(other, alice)
        clock.now += SILENCE + 1
        await use(other, alice)


async def test_a_request_given_up_while_it_enters_holds_nothing(tmp_path: Path) -> None:
    """The thread that counts it cannot be stopped, so it is told to take it back."""
    slow, entered = threading.Event(), threading.Event()

    def now() -> float:
        entered.set()
        slow.wait(5)
        return 1000.0

    slow.set()
    limits = KeyLimits(tmp_path / "limits.sqlite", now=now)
    async with limits.running():
        alice = key(streams=1)
        await use(limits, alice)
        slow.clear()
        entered.clear()
        entering = asyncio.create_task(use(limits, alice))
        await asyncio.to_thread(entered.wait, 5)
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        slow.set()
        await eventually(lambda: let_in(limits, alice), lambda seen: seen, within=5, every=0.01)


async def let_in(limits: KeyLimits, by: Key) -> bool:
    """Whether a request is."""
    with contextlib.suppress(OverLimit):
        await use(limits, by)
        return True
    return False
