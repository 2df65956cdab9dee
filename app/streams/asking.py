"""A question on the fast path, from an input to a relay or a whole answer, with the conversation it is part of."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from app.memory.chain import OpenTurn, RememberingChain
from app.memory.conversation import Gathered
from app.streams.frames import Frames
from app.streams.known_chain import Asked, KnownChain, recognise
from app.streams.relay import Relay


@dataclass(frozen=True)
class Question:
    """What a model is asked for one input; it is streamed or answered whole, once."""

    asked: Asked
    turn: OpenTurn | None = None
    """Of the session that it is part of."""
    gathered: Gathered = field(default_factory=Gathered)

    async def relay(self, render: Callable[[Asked], Frames], *, ping: float | None) -> Relay:
        """Send it, and return the stream.

        Args:
            render: Makes the frames of the protocol.
            ping: Seconds of silence before a comment line; None: the stream's form has none.
        """
        if self.turn is None:
            return Relay(await self.asked.stream(), render(self.asked), ping=ping)
        async with contextlib.AsyncExitStack() as lifetime:
            await lifetime.enter_async_context(self.turn.lifetime)
            frames = render(self.asked)
            frames.gather(self.gathered)
            answer = await self.asked.stream()
            return Relay(answer, frames, ping=ping, keep=self._keep, lifetime=lifetime.pop_all())

    async def whole(self) -> Any:
        """Send it, and return the chain's output."""
        if self.turn is None:
            return await self.asked.whole()
        async with self.turn.lifetime:
            message = await self.asked.whole()
            self.gathered.add(message)
            await self._keep()
            return message

    async def _keep(self) -> None:
        if self.turn is not None:
            await self.turn.keep(self.gathered)


@dataclass(frozen=True)
class FastChain:
    """A chain that the fast path knows, perhaps with a memory around it."""

    known: KnownChain
    memory: RememberingChain | None

    async def ask(self, value: Any, config: RunnableConfig) -> Question | None:
        """Return what the model is asked for this input; None where LangChain has to run the chain itself."""
        session = None
        if self.memory is not None:
            session, value = self.memory.session(value, config)
        if self.memory is None or session is None:
            asked = await self.known.prepare(value, config)
            return Question(asked) if asked is not None else None
        if not self.known.fits(config) or self.known.parser is not None:
            return None
        turn = await self.memory.open(session, value, config)
        async with contextlib.AsyncExitStack() as lifetime:
            await lifetime.enter_async_context(turn.lifetime)
            asked = await self.known.prepare({"messages": turn.messages}, config)
            if asked is None:
                return None
            lifetime.pop_all()
            return Question(asked, turn)


def find_fast_way(chain: Runnable[Any, Any]) -> FastChain | None:
    """Return a chain as the fast path asks it, if it knows the chain."""
    memory = chain if isinstance(chain, RememberingChain) else None
    known = recognise(memory.chain if memory else chain)
    return FastChain(known, memory) if known is not None else None
