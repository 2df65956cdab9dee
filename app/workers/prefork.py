"""The parent of the workers: it forks them, forks those again that died, and ends them all.

It has no event loop, no thread and nothing open but sockets, so that forking it is safe; what it has imported its
workers share. They die with it (PR_SET_PDEATHSIG, prctl(2)).
"""

import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from app.shutdown import CANNOT_START

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
BACK_OFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a worker that died is forked again; the last one repeats."""
SETTLED = 60.0
"""Seconds after which a worker's death has nothing to do with the ones before."""
LONG = 3600.0


class Workers:
    """Keeps workers running. One ``run`` each.

    Args:
        live: A worker's whole life, in its own process, by its number; it ends by SystemExit or returns.
        count: How many.
        grace: Seconds that they may take to end.
        bury: Told of each that died, before another takes its number.
        close: Called when the end begins.
    """

    def __init__(
        self,
        live: Callable[[int], None],
        count: int,
        *,
        grace: float,
        bury: Callable[[int], None] = lambda _: None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._live = live
        self._count = count
        self._grace = grace
        self._bury = bury
        self._close = close
        self._running: dict[int, int] = {}
        """Numbers by process id."""
        self._due = dict.fromkeys(range(count), 0.0)
        """When each that does not run is forked."""
        self._started: dict[int, float] = {}
        self._lives: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self._ending: int | None = None
        """The signal that ends all, or the exit status."""
        self._deadline = 0.0

    def __repr__(self) -> str:
        return f"<Workers {len(self._running)} of {self._count}{' ending' if self._ending is not None else ''}>"

    def run(self) -> int:
        """Serve until told to stop; returns the exit status, below zero where a signal said so."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        try:
            while self._ending is None or self._running:
                self._fork_due()
                heard = signal.sigtimedwait(WATCHED, self._patience())
                self._collect()
                if heard is not None and heard.si_signo != signal.SIGCHLD:
                    self._end(-heard.si_signo)
                elif self._ending is not None and time.monotonic() >= self._deadline:
                    self._tell_all(signal.SIGKILL)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        return self._ending

    def _patience(self) -> float:
        """Return the seconds until there is something to do unasked."""
        times = [self._deadline] if self._ending is not None else [*self._due.values()]
        return max(0.0, min(times, default=time.monotonic() + LONG) - time.monotonic())

    # --- the end ---------------------------------------------------------------------------

    def _end(self, why: int) -> None:
        """Let all finish; told once more, end them now."""
        self._tell_all(signal.SIGTERM if self._ending is None else signal.SIGKILL)
        if self._ending is None:
            self._ending, self._deadline = why, time.monotonic() + self._grace
            self._close()

    def _tell_all(self, number: signal.Signals) -> None:
        for pid in self._running:
            os.kill(pid, number)  # none is collected meanwhile, so the id is still its own
        if number == signal.SIGKILL:
            self._deadline = time.monotonic() + LONG

    # --- lives and deaths ------------------------------------------------------------------

    def _fork_due(self) -> None:
        if self._ending is not None:
            return
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._started[number] = now
            self._lives[number] += 1
            self._running[self._fork(number)] = number

    def _collect(self) -> None:
        """Take note of all that have ended."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._running.pop(pid, None)
            if number is not None:
                self._note_death(number, pid, os.waitstatus_to_exitcode(status))

    def _note_death(self, number: int, pid: int, code: int) -> None:
        self._bury(number)
        if self._ending is not None:
            return
        if self._is_settled(number):
            self._deaths[number] = 0
        self._deaths[number] += 1
        if code == CANNOT_START and (self._lives[number] == 1 or not self._running):
            self._end(CANNOT_START)
            return
        delay = BACK_OFF[min(self._deaths[number], len(BACK_OFF)) - 1]
        self._due[number] = time.monotonic() + delay
        log.warning("worker %d (process %d) %s; another takes its place%s", number, pid, _told(code), _later(delay))

    def _is_settled(self, number: int) -> bool:
        return time.monotonic() - self._started[number] >= SETTLED

    def _fork(self, number: int) -> int:
        parent = os.getpid()
        pid = os.fork()  # noqa: TID251 -- this is the module that may
        if not pid:
            self._be(number, parent)
        return pid

    def _be(self, number: int, parent: int) -> NoReturn:
        """Live as a worker, and never return to what the parent was doing."""
        code = CANNOT_START
        try:
            _die_with(parent)
            os.setpgid(0, 0)  # Ctrl-C in a terminal is the parent's to hear; it tells
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            self._live(number)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 -- nothing of the parent's may run here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the line above could take effect
        os._exit(1)


def _told(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _later(delay: float) -> str:
    return f" in {delay:g} s" if delay else ""
