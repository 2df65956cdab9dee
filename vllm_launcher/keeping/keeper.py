"""The keeper of one model's server: brings it to what is wanted of it, and keeps it there.

One task per model (``keep``) is the only writer of that model's status, so there is nothing to lock. It waits
until the model is wanted, runs life after life (``life.py``) as the restart policy allows, and when the model is not
wanted any more it drains and ends the server.
"""

import asyncio
import logging

from vllm_launcher.errors import ServerFailed
from vllm_launcher.keeping.collaborators import Graces, ServerSpec, Tools
from vllm_launcher.keeping.life import Life
from vllm_launcher.keeping.reporter import Reporter, Teller
from vllm_launcher.keeping.restart import PATIENT, Failure, GiveUp, decide
from vllm_launcher.keeping.room import DeclinedError, Room
from vllm_launcher.keeping.wishes import Wishes
from vllm_launcher.status import ServerStatus

logger = logging.getLogger(__name__)

REMEMBERED_FAILURES = 50
FINISHING = "finishing requests"
LOADS_LATER = "loads when it is asked for"


class Keeper:
    """Keeps one server as it is wanted: ``want``, ``release`` and ``replace`` say what is, ``keep`` is the task."""

    def __init__(self, spec: ServerSpec, board: Teller, tools: Tools, room: Room) -> None:
        self._spec = spec
        self._tools = tools
        self._room = room
        self._wishes = Wishes(tools.graces)
        self._reporter = Reporter(board, spec)
        self._life: Life | None = None
        self._resting = asyncio.Event()
        self._resting.set()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Keeper {self._spec.model} {self.status.state} {self._wishes!r}>"

    @property
    def status(self) -> ServerStatus:
        """The server's status as of now."""
        return self._reporter.status

    @property
    def spec(self) -> ServerSpec:
        """What is kept."""
        return self._spec

    @property
    def wanted(self) -> bool:
        """Whether it is to be ready."""
        return self._wishes.wanted.is_set()

    def start(self) -> None:
        """Begin to keep."""
        self._task = asyncio.create_task(self.keep(), name=f"keep {self._spec.model}")

    async def close(self, graces: Graces | None = None) -> None:
        """Stop the server and the keeping of it."""
        await self.release(graces)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def want(self, *, retry: bool = False, polite: bool = False) -> None:
        """Have the server ready. A failed one is left alone unless somebody asks to ``retry``.

        ``polite``: only if there is room; nobody has to leave for it.
        """
        if self._spec.refusal is not None or (self.status.state == "failed" and not retry):
            return
        self._wishes.want(polite=polite)
        if not polite and self._life is not None and self._life.tenant is not None and self._life.tenant.polite:
            self._life.tenant.polite = False
            self._room.look()

    async def release(self, graces: Graces | None = None, why: str = FINISHING) -> None:
        """Have the server stopped, and return when nothing of it is left. ``why`` is for people."""
        self._wishes.release(graces, why)
        await self._resting.wait()

    async def replace(self, spec: ServerSpec) -> None:
        """Keep this from now on; a server that would be another one is drained, and started anew if it was wanted."""
        same = (spec.fingerprint, spec.refusal is None) == (self._spec.fingerprint, self._spec.refusal is None)
        if same and spec.external == self._spec.external:
            self._spec = spec
            if self._life is not None:
                self._life.change(spec)
                self._reporter.change({"pinned": spec.pinned})
            elif self.status.state != "failed" or spec.refusal is not None:
                self._reporter.begin(spec)
            return
        wanted = self.wanted or self.status.state == "failed"
        await self.release()
        self._spec = spec
        self._reporter.begin(spec)
        if spec.refusal is None and (wanted or spec.load == "startup"):
            self.want()

    async def keep(self) -> None:
        """Follow what is wanted, until cancelled."""
        while True:
            await self._wishes.wanted.wait()
            if not self.wanted:  # released again before this task had its turn
                continue
            self._resting.clear()
            try:
                await self._run_until_released()
            finally:
                self._resting.set()

    async def _run_until_released(self) -> None:
        running = asyncio.create_task(self._run(), name=f"run {self._spec.model}")
        released = asyncio.create_task(self._wishes.released.wait())
        try:
            await asyncio.wait({running, released}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
            running.cancel()
            await asyncio.gather(running, released, return_exceptions=True)
        if running.cancelled():
            why = self._wishes.why
            self._reporter.enter("stopped", "" if why == FINISHING else why)
        elif error := running.exception():  # a mistake in here must not take the other servers along
            logger.error("keeping %s failed", self._spec.model, exc_info=error)
            self._fail(f"Internal error: {error!r}", None)

    async def _run(self) -> None:
        """Life after life; returns when there is no sense in another one."""
        failures: list[Failure] = []
        policy = PATIENT if self._spec.external else self._tools.policy
        self._reporter.change({"restarts": 0, "reason": None, "hint": None})
        while True:
            life = self._life = Life(self._spec, self._tools, self._room, self._wishes, self._reporter)
            try:
                await life.live()
            except DeclinedError:
                if not self._wishes.polite:  # somebody has asked for it since
                    continue
                self._wishes.unwanted()
                self._reporter.enter("absent", LOADS_LATER)
                return
            except ServerFailed as error:
                failures = [*failures, self._failure(error, life)][-REMEMBERED_FAILURES:]
                logger.warning("%s: %s", self._spec.model, error)
                outcome = decide(failures, policy)
                if isinstance(outcome, GiveUp):
                    self._fail(f"{error.reason} Given up after {outcome.why}.", error.hint)
                    return
                await self._back_off(error, outcome.delay)
            finally:
                self._life = None

    async def _back_off(self, error: ServerFailed, delay: float) -> None:
        restarts = self.status.restarts + 1
        phase = f"waiting {delay:.0f} s before restart {restarts}"
        self._reporter.enter("starting", phase, restarts=restarts, reason=error.reason, hint=error.hint)
        await self._tools.clock.sleep(delay)

    def _failure(self, error: ServerFailed, life: Life) -> Failure:
        return Failure(self._tools.clock.now(), error.reason, ready=life.was_ready, permanent=error.permanent)

    def _fail(self, reason: str, hint: str | None) -> None:
        self._wishes.unwanted()
        self._reporter.enter("failed", reason=reason, hint=hint)
