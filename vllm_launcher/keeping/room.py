"""The memory that the servers share: who holds it, who waits for it. Carries out what ``residence`` decides."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from vllm_launcher.errors import ServerFailed
from vllm_launcher.keeping.collaborators import Clock
from vllm_launcher.keeping.residence import Applicant, Decision, Resident, decide

MINIMUM_STAY = 10.0
"""Seconds that a server is ready before it has to leave for another one."""


class DeclinedError(Exception):
    """There is no room, and nobody has asked for this server yet."""


@dataclass(eq=False)
class Tenant:
    """A server as the room sees it. ``leave`` is told for whom; ``waits`` is told for whom it waits."""

    model: str
    needs: Mapping[str, int]
    leave: Callable[[str], None]
    waits: Callable[[tuple[str, ...]], None]
    pinned: bool = False
    polite: bool = False
    ready_since: float | None = None
    last_used: float = 0.0
    busy: bool = False
    leaving: bool = False
    _admitted: "asyncio.Future[None]" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._admitted = asyncio.get_running_loop().create_future()

    def resident(self) -> Resident:
        """As one that holds memory."""
        return Resident(
            self.model, self.needs, self.pinned, self.ready_since, self.last_used, busy=self.busy, leaving=self.leaving
        )

    def applicant(self) -> Applicant:
        """As one that wants in."""
        return Applicant(self.model, self.needs, polite=self.polite)

    def admit(self, error: Exception | None = None) -> None:
        """End its waiting."""
        if self._admitted.done():  # cancelled meanwhile
            return
        if error is None:
            self._admitted.set_result(None)
        else:
            self._admitted.set_exception(error)

    async def admitted(self) -> None:
        """Wait."""
        await self._admitted


class Room:
    """Bytes by pool, and the servers in it. Lives in one event loop.

    Args:
        capacity: Bytes that servers may take in all, by pool; a pool that is not named has no limit.
        clock: Tells the time.
        stay: Seconds that a server is ready before it has to leave for another one.
    """

    def __init__(self, capacity: Mapping[str, int], clock: Clock, *, stay: float = MINIMUM_STAY) -> None:
        self._capacity = dict(capacity)
        self._clock = clock
        self._stay = stay
        self._residents: dict[str, Tenant] = {}
        self._waiting: dict[str, Tenant] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Room {', '.join(self._residents)} | {', '.join(self._waiting)}>"

    @property
    def capacity(self) -> Mapping[str, int]:
        """Bytes by pool."""
        return self._capacity

    def resize(self, capacity: Mapping[str, int]) -> None:
        """Another capacity from now on; whoever is in stays in."""
        self._capacity = dict(capacity)
        self.look()

    @contextlib.asynccontextmanager
    async def hold(self, tenant: Tenant) -> AsyncGenerator[None, None]:
        """Wait for the tenant's memory, and hold it while the block runs.

        Raises:
            ServerFailed: It will never fit here.
            DeclinedError: It is polite, and there is no room.
        """
        self._waiting[tenant.model] = tenant
        try:
            self.look()
            await tenant.admitted()
            yield
        finally:
            self._waiting.pop(tenant.model, None)
            self._residents.pop(tenant.model, None)
            self.look()

    def look(self) -> None:
        """Decide anew: somebody came, left, became ready, or has stayed long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        now = self._clock.now()
        applicants = [tenant.applicant() for tenant in self._waiting.values()]
        residents = [tenant.resident() for tenant in self._residents.values()]
        self._carry_out(decide(self._capacity, residents, applicants, now, stay=self._stay), now)

    def _carry_out(self, decision: Decision, now: float) -> None:
        for model, why in decision.hopeless.items():
            self._waiting.pop(model).admit(ServerFailed(why, "Give it more memory, or unpin others.", permanent=True))
        for model in decision.declined:
            self._waiting.pop(model).admit(DeclinedError())
        for model in decision.admitted:
            tenant = self._residents[model] = self._waiting.pop(model)
            tenant.admit()
        for model in decision.leave:
            self._residents[model].leaving = True
            self._residents[model].leave(_for(model, decision))
        for model, others in decision.waits_for.items():
            self._waiting[model].waits(others)
        if decision.again_at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, decision.again_at - now), self.look)


def _for(model: str, decision: Decision) -> str:
    """Whom that server makes room for: the first that waits for it."""
    return next((waiting for waiting, others in decision.waits_for.items() if model in others), "another model")
