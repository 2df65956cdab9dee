"""What is wanted of one server: set by everybody, followed by its keeper alone."""

import asyncio
from dataclasses import replace

from vllm_launcher.keeping.collaborators import Graces


class Wishes:
    """Ready, asleep or gone, and in the last case how soon and why.

    Args:
        graces: What a server has to leave with when nobody says otherwise.
    """

    def __init__(self, graces: Graces) -> None:
        self._usual = graces
        self.graces = graces
        self.why = ""
        """Why it leaves or sleeps, for people: the phase that its status shows."""
        self.polite = False
        """Wanted only as far as there is room: nobody has asked for it yet."""
        self.wanted = asyncio.Event()
        self.released = asyncio.Event()
        self.hurried = asyncio.Event()
        """The graces changed."""
        self.drowsy = asyncio.Event()
        self.awake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Wishes {'wanted' if self.wanted.is_set() else 'released'}>"

    def want(self, *, polite: bool = False) -> None:
        """Have it ready."""
        self.polite = polite and (self.polite or not self.wanted.is_set())
        self.released.clear()
        self.drowsy.clear()
        self.wanted.set()
        self.awake.set()

    def release(self, graces: Graces | None, why: str) -> None:
        """Have it gone, requests under way included once the graces are over."""
        self.graces = graces or self._usual
        self._let_go(why)
        self.hurried.set()

    def leave(self, why: str) -> None:
        """Have it gone as soon as its requests are finished, however long they take."""
        self.graces = replace(self._usual, drain=None)
        self._let_go(why)

    def sleep(self, why: str) -> None:
        """Have it give its memory back as soon as its requests are finished, and stay."""
        self.why = why
        self.awake.clear()
        self.drowsy.set()

    def unwanted(self) -> None:
        """Nobody wants it any more, and nothing of it is there to be released."""
        self.wanted.clear()

    def _let_go(self, why: str) -> None:
        self.why = why
        self.wanted.clear()
        self.released.set()
