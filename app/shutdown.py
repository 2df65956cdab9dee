"""The end of the app, told in time: streams get a named error instead of a cut.

Two moments. ``begin``: the process was told to stop; nothing new starts, endless streams end, the rest goes on.
``deadline``, some seconds later: what still runs is interrupted and answers ``ShuttingDown``.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Generator
from typing import NoReturn

CANNOT_START = 3
"""Exit status: the port is taken or something it was told is wrong. Starting it again changes nothing."""


class Shutdown:
    """One per app. Belongs to the event loop that calls ``begin``.

    Args:
        grace: Seconds between the two moments.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._begun = False
        self._over = False
        self._at_begin: set[Callable[[], None]] = set()
        self._at_deadline: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"<Shutdown {'over' if self._over else 'begun' if self._begun else 'not begun'}>"

    @property
    def begun(self) -> bool:
        """Whether new work is refused."""
        return self._begun

    def begin(self) -> None:
        """Start the end; a second call changes nothing."""
        if self._begun:
            return
        self._begun = True
        _call(self._at_begin)
        asyncio.get_running_loop().call_later(self._grace, self._end)

    def _end(self) -> None:
        self._over = True
        _call(self._at_deadline)

    def on_begin(self, listener: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Call ``listener`` once the end begins while the block runs; at once if it has begun."""
        return _listening(self._at_begin, listener, now=self._begun)

    def on_deadline(self, listener: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Call ``listener`` at the deadline while the block runs; at once if it is past."""
        return _listening(self._at_deadline, listener, now=self._over)


def give_up(error: Exception) -> NoReturn:
    """Say in words why the app cannot start, and end."""
    print(f"The app cannot start: {error}", file=sys.stderr)  # noqa: T201 -- there is no log yet
    sys.exit(CANNOT_START)


@contextlib.contextmanager
def _listening(listeners: set[Callable[[], None]], listener: Callable[[], None], *, now: bool) -> Generator[None]:
    listeners.add(listener)
    try:
        if now:
            listener()
        yield
    finally:
        listeners.discard(listener)


def _call(listeners: set[Callable[[], None]]) -> None:
    for listener in tuple(listeners):
        listener()
