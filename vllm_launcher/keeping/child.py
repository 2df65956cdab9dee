"""A supervised process that is no model server: the app, and whatever else must run beside the servers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from vllm_launcher.errors import ChildFailed
from vllm_launcher.keeping.collaborators import Clock, LoopClock, Process, Spawn
from vllm_launcher.keeping.diagnosis import explain
from vllm_launcher.keeping.restart import Failure, GiveUp, RestartPolicy, decide
from vllm_launcher.processes.process import Launch

logger = logging.getLogger(__name__)

POLICY = RestartPolicy(first_delay=0.5, longest_delay=10.0)
SETTLED = 15.0
"""Seconds that the first start has to survive: what ends sooner was started wrongly (a taken port, a bad setting)."""

BY_SIGNAL = 128
"""Above it an exit code tells of a signal, as in a shell: it came from elsewhere, and nothing was started wrongly."""


class SupervisedChild:
    """Keeps ``launch`` running under ``name``. A first start that fails, and too many later ones, are final."""

    def __init__(  # noqa: PLR0913 - the composition root names them
        self,
        name: str,
        launch: Launch,
        *,
        spawn: Spawn,
        clock: Clock | None = None,
        policy: RestartPolicy = POLICY,
        settled: float = SETTLED,
        grace: float = 10.0,
    ) -> None:
        self._name = name
        self._launch = launch
        self._spawn = spawn
        self._clock = clock or LoopClock()
        self._policy = policy
        self._settled = settled
        self._grace = grace
        self.starts = 0

    def __repr__(self) -> str:
        return f"<SupervisedChild {self._name} starts={self.starts}>"

    async def keep(self) -> None:
        """Run it, again and again, until cancelled (it is stopped then) or until ChildFailed says why not."""
        failures: list[Failure] = []
        while True:
            began = self._clock.now()
            code, reason, hint = await self._run_once()
            ready = self._clock.now() - began >= self._settled
            if self.starts == 1 and code < BY_SIGNAL and not ready:
                raise ChildFailed(f"The {self._name} ended at its start: {reason}", hint)
            failures.append(Failure(self._clock.now(), reason, ready=ready))
            logger.warning("the %s ended: %s", self._name, reason)
            outcome = decide(failures, self._policy)
            if isinstance(outcome, GiveUp):
                raise ChildFailed(f"The {self._name} was given up after {outcome.why}: {reason}", hint)
            await self._clock.sleep(outcome.delay)

    async def _run_once(self) -> tuple[int, str, str | None]:
        """One life; exit code, reason and hint of its end."""
        async with self._process() as process:
            code = await process.wait()
            diagnosis = explain(code, process.tail())
        return code, diagnosis.reason, diagnosis.hint

    @contextlib.asynccontextmanager
    async def _process(self) -> AsyncGenerator[Process, None]:
        self.starts += 1
        process = await self._spawn(f"_{self._name}", self._launch)  # no model's name begins so
        try:
            yield process
        except asyncio.CancelledError:
            await process.stop(self._grace)
            raise
        finally:
            await process.kill()
