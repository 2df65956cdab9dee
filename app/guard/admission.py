"""Who may ask an engine now, and who waits: a bounded, fair line for each model.

An engine computes so many requests at once; more than a few beyond that only wait inside of it, first come, first
served, where one caller can fill the line for everybody. So they wait here: the next place goes to the owner (API
key) who has the fewest requests under way. A full line refuses the newest request of whoever has the most in it.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable

from app.errors import QueueFull

LONGEST_RETRY = 60
"""Seconds that a refused request is told to wait at most."""


class Place:
    """A request's place at an engine; ``leave`` gives it to the next one."""

    __slots__ = ("_line", "_owner", "_taken")

    def __init__(self, line: "Line", owner: str) -> None:
        self._line: Line | None = line
        self._owner = owner
        self._taken = asyncio.get_running_loop().time()

    def leave(self) -> None:
        """Give the place up; a second call changes nothing."""
        line, self._line = self._line, None
        if line is not None:
            line.release(self._owner, asyncio.get_running_loop().time() - self._taken)


class Line:
    """The places at one model's engine and those who wait for one.

    Args:
        model: For messages.
        places: Requests at the engine at once.
        longest: Requests that may wait.
        patience: Seconds that one may wait.
    """

    def __init__(self, model: str, *, places: int, longest: int, patience: float) -> None:
        self._model = model
        self.places = places
        self._longest = longest
        self._patience = patience
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._mean_stay = 1.0

    def __repr__(self) -> str:
        return f"<Line {self._model}: {self.running} of {self.places}, {self.waiting} waiting>"

    @property
    def running(self) -> int:
        """Requests at the engine."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return sum(map(len, self._waiting.values()))

    async def enter(self, owner: str) -> Place:
        """Wait for a place.

        Raises:
            QueueFull: The line is full, or the wait was too long.
        """
        if self.running < self.places and not self._waiting:
            self._running[owner] += 1
            return Place(self, owner)
        self._make_room(owner)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        timer = asyncio.get_running_loop().call_later(self._patience, self._give_up, owner, turn)
        try:
            await turn
        except BaseException:
            self._withdraw(owner, turn)
            raise
        finally:
            timer.cancel()
        return Place(self, owner)

    def release(self, owner: str, stay: float) -> None:
        """Take a place back and give it on."""
        self._mean_stay += (stay - self._mean_stay) / 16
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting and self.running < self.places:
            owner = min(self._waiting, key=lambda waiting: self._running[waiting])
            turns = self._waiting.pop(owner)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns  # to the end: among equals the turn goes round
            if turn.done():
                continue  # it was cancelled just now, and its task has not yet run to get out of the line
            self._running[owner] += 1
            turn.set_result(None)

    def _give_up(self, owner: str, turn: asyncio.Future[None]) -> None:
        """End a wait that is too long, unless its turn came before: a place that was given is kept."""
        if not turn.done():
            self._withdraw(owner, turn)
            turn.set_exception(self._full(f"no place came free within {self._patience:g} s"))

    def _withdraw(self, owner: str, turn: asyncio.Future[None]) -> None:
        """Undo a wait that ended otherwise: out of the line, or the place back that came too late."""
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.release(owner, self._mean_stay)
            return
        turns = self._waiting.get(owner)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[owner]

    def _make_room(self, newcomer: str) -> None:
        """Refuse somebody if the line is full: the newcomer, unless another has more in it."""
        if self.waiting < self._longest:
            return
        most = max(self._waiting, key=lambda owner: len(self._waiting[owner]), default=newcomer)
        if len(self._waiting.get(most, ())) <= len(self._waiting.get(newcomer, ())) + 1:
            raise self._full(f"{self.waiting} requests wait already")
        newest = self._waiting[most].pop()
        if not newest.done():  # else it has just been cancelled, which is room enough
            newest.set_exception(self._full(f"{self.waiting} requests wait already, most of them yours"))

    def _full(self, why: str) -> QueueFull:
        rounds = (self.waiting + 1) / self.places
        return QueueFull(
            f"The model '{self._model}' has more requests than it can take: {why}.",
            retry_after=max(1, min(LONGEST_RETRY, math.ceil(rounds * self._mean_stay))),
        )


class Admission:
    """The lines of all models.

    Args:
        places: Tells how many requests a model's engine takes at once; asked again for each request, so that a changed
            list of models counts.
        longest: Requests that may wait for one model.
        patience: Seconds that one may wait.
        engine_of: Tells whose engine answers for a model that has none of its own.
    """

    def __init__(
        self,
        places: Callable[[str], int],
        *,
        longest: int,
        patience: float,
        engine_of: Callable[[str], str] = lambda model: model,
    ) -> None:
        self._places = places
        self._engine_of = engine_of
        self._longest = longest
        self._patience = patience
        self.lines: dict[str, Line] = {}

    def __repr__(self) -> str:
        return f"<Admission {[*self.lines.values()]}>"

    async def enter(self, model: str, owner: str) -> Place:
        """Wait for a place at the engine of ``model``.

        Raises:
            QueueFull: The line is full, or the wait was too long.
        """
        model = self._engine_of(model)
        places = self._places(model)
        line = self.lines.get(model)
        if line is None:
            line = self.lines[model] = Line(model, places=places, longest=self._longest, patience=self._patience)
        line.places = places
        return await line.enter(owner)
