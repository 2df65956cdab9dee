"""The line before an engine: places, fairness between owners, and who is refused when it is full."""

import asyncio
import time

import pytest

from app.errors import QueueFull
from app.guard.admission import Admission, Line, Place


def line(places: int = 1, longest: int = 4, patience: float = 600) -> Line:
    """A line of a model. Nobody's patience ends because the machine is slow."""
    return Line("tiny", places=places, longest=longest, patience=patience)


class Callers:
    """Enter a line, one after the other, and note who got a place."""

    def __init__(self, before: Line) -> None:
        self._line = before
        self.places: list[tuple[str, Place]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, owner: str) -> asyncio.Task[None]:
        """Let a request of that owner get in line."""

        async def enter() -> None:
            self.places.append((owner, await self._line.enter(owner)))

        task = asyncio.create_task(enter())
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def leave(self, index: int = -1) -> None:
        """Give a place up, and let who gets it take it."""
        self.places[index][1].leave()
        for _ in range(3):
            await asyncio.sleep(0)

    @property
    def served(self) -> list[str]:
        """Who got a place, in order."""
        return [owner for owner, _ in self.places]


async def test_free_places_are_given_at_once() -> None:
    """Up to their number."""
    before = line(places=2)
    await before.enter("a")
    await before.enter("a")
    assert (before.running, before.waiting) == (2, 0)


async def test_a_place_given_up_goes_to_the_next() -> None:
    """And giving it up twice frees no second one."""
    before = line()
    place = await before.enter("a")
    waiting = [asyncio.create_task(before.enter("a")) for _ in range(2)]
    await asyncio.sleep(0)
    place.leave()
    place.leave()
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (before.running, before.waiting) == (1, 1)
    waiting[0].result().leave()
    (await waiting[1]).leave()
    assert (before.running, before.waiting) == (0, 0)


async def test_an_owner_with_many_requests_does_not_hold_up_another() -> None:
    """The turn goes to who has the fewest under way, then round."""
    before = line(longest=16)
    callers = Callers(before)
    for owner in ("a", "a", "a", "a", "b", "b", "c"):
        await callers.come(owner)
    for _ in range(6):
        await callers.leave()
    assert callers.served == ["a", "a", "b", "c", "a", "b", "a"]


async def test_a_hundred_waiting_requests_do_not_starve_another() -> None:
    """Whoever comes last with one is served after the one under way, not after the hundred."""
    before = line(longest=128)
    callers = Callers(before)
    for _ in range(101):
        await callers.come("many")
    await callers.come("one")
    for _ in range(2):
        await callers.leave()
    assert "one" in callers.served[:3]
    assert before.waiting == 99
    for task in callers.tasks:
        task.cancel()
    await asyncio.gather(*callers.tasks, return_exceptions=True)


async def test_a_full_line_refuses_a_newcomer_and_says_when_to_come_back() -> None:
    """429 with Retry-After, never an endless line."""
    before = line(longest=2)
    callers = Callers(before)
    for _ in range(3):
        await callers.come("a")
    with pytest.raises(QueueFull) as refused:
        await before.enter("a")
    assert 1 <= (refused.value.retry_after or 0) <= 60
    for task in callers.tasks[1:]:
        task.cancel()
    await asyncio.gather(*callers.tasks, return_exceptions=True)
    assert before.waiting == 0


async def test_a_full_line_refuses_the_newest_of_whoever_has_the_most_in_it() -> None:
    """An owner who fills the line locks nobody else out."""
    before = line(longest=3)
    callers = Callers(before)
    for _ in range(4):
        await callers.come("greedy")
    await callers.come("modest")
    await asyncio.sleep(0)
    assert isinstance(callers.tasks[3].exception(), QueueFull)
    await callers.leave()
    await callers.leave()
    assert callers.served == ["greedy", "greedy", "modest"]
    for task in callers.tasks:
        task.cancel()
    await asyncio.gather(*callers.tasks, return_exceptions=True)


async def test_a_wait_that_is_too_long_ends_in_a_named_error() -> None:
    """And the one who waited is out of the line."""
    before = line(patience=0.01)
    await before.enter("a")
    with pytest.raises(QueueFull, match=r"no place came free within 0\.01 s"):
        await before.enter("b")
    assert before.waiting == 0


async def test_who_leaves_the_line_loses_no_place() -> None:
    """Before its turn it is forgotten; at its turn the place goes on."""
    before = line()
    place = await before.enter("a")
    callers = Callers(before)
    early, late, last = [await callers.come(owner) for owner in "bcd"]
    early.cancel()
    await asyncio.sleep(0)
    assert before.waiting == 2
    place.leave()  # the turn is late's, who leaves in the same moment
    late.cancel()
    await asyncio.gather(early, late, return_exceptions=True)
    await last
    assert callers.served == ["d"]
    assert (before.running, before.waiting) == (1, 0)


async def test_who_was_cancelled_in_this_moment_gets_no_place() -> None:
    """Its task has not run yet, so it is still in line when a place is given up: the place goes to the next."""
    before = line()
    place = await before.enter("a")
    callers = Callers(before)
    leaver, last = [await callers.come(owner) for owner in "bc"]
    leaver.cancel()
    place.leave()
    await asyncio.gather(leaver, last, return_exceptions=True)
    assert callers.served == ["c"]
    assert (before.running, before.waiting) == (1, 0)


async def test_who_was_cancelled_in_this_moment_is_not_refused_too() -> None:
    """A newcomer to a full line takes its room."""
    before = line(longest=2)
    await before.enter("a")
    callers = Callers(before)
    for _ in range(2):
        await callers.come("greedy")
    newcomer = asyncio.create_task(before.enter("modest"))
    callers.tasks[1].cancel()
    await asyncio.sleep(0)
    assert callers.tasks[1].cancelled()
    assert not newcomer.done()
    assert before.waiting == 2
    for task in (newcomer, *callers.tasks):
        task.cancel()
    await asyncio.gather(newcomer, *callers.tasks, return_exceptions=True)
    assert before.waiting == 0


async def test_a_place_that_came_in_time_is_kept() -> None:
    """Though the loop was busy, and the patience ended before the one who waited could run."""
    before = line(patience=0.01)
    place = await before.enter("a")
    callers = Callers(before)
    waiting = await callers.come("b")

    def stall() -> None:
        time.sleep(0.02)
        asyncio.get_running_loop().call_soon(place.leave)  # in one turn of the loop with the timer, before it

    asyncio.get_running_loop().call_soon(stall)
    await waiting
    assert callers.served == ["b"]
    assert (before.running, before.waiting) == (1, 0)


async def test_every_model_has_a_line_of_its_own_with_the_places_of_now() -> None:
    """A changed list of models counts for the next request."""
    places = {"a": 1, "b": 1}
    admission = Admission(lambda model: places[model], longest=1, patience=600)
    await admission.enter("a", "x")
    await admission.enter("b", "x")
    waiting = asyncio.create_task(admission.enter("a", "x"))
    await asyncio.sleep(0)
    assert admission.lines["a"].waiting == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    places["a"] = 2
    await admission.enter("a", "x")
    assert admission.lines["a"].running == 2
