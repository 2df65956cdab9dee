"""A chain that remembers: with a ``session_id`` in its config or its input, the conversation goes on where it ended.

Without one it is the chain it stands around, at no cost. With one: recall what fits into the model's context, answer,
and store the turn once the answer is whole. Chunks pass through as they come.
"""

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple, cast

from chat_vllm import ChatInput, ChatPrompt
from langchain_core.exceptions import ModelError
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig, RunnableSequence
from langchain_core.runnables.utils import get_unique_config_specs
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import override

from app.errors import EngineFailed, InvalidInput, ServiceError
from app.guard.owner import current_owner
from app.memory.conversation import (
    Gathered,
    in_pairs,
    is_whole,
    newest_that_fit,
    opens,
    system_of,
    unseen,
    without_system,
    worth_keeping,
)
from app.memory.counting import Counter, room_for_prompt
from app.memory.kept import Held, SessionName, Turn
from app.memory.session import current_session
from app.memory.summary import TOKENS, summarise, with_summary
from app.memory.turntaking import TurnTaking

log = logging.getLogger(__name__)

SESSION = "session_id"
PATTERN = r"^[A-Za-z0-9._:@-]{0,128}$"
FULLEST = 0.6
"""After old turns were summarised, this part of the room is used: the next summary is then some turns away."""


def _as_text(schema: dict[str, Any]) -> None:
    """Show the field as a text: LangServe's playground stays blank at ``anyOf`` with ``null``."""
    schema.update(schema.pop("anyOf")[0])
    schema.pop("default", None)


SessionId = Annotated[str, Field(pattern=PATTERN)]

FIELD = ConfigurableFieldSpec(
    id=SESSION,
    name="Session",
    description="Messages of one session are one conversation, which the service remembers. Empty: nothing is kept.",
    annotation=Annotated[SessionId | None, Field(json_schema_extra=_as_text)],
    default=None,
    is_shared=True,
)


@dataclass(frozen=True)
class Habits:
    """How a model's conversations are kept."""

    model: str
    summarises: bool = False
    """Whether turns that no longer fit are told as a summary; else they are left out."""
    ttl: float | None = None
    """Seconds after its last turn that a session is kept; None: for ever."""
    max_tokens: int | None = None
    """Of an answer, where the request names no other number."""


class Recalled(NamedTuple):
    """What the model is asked with, and what of it is new."""

    messages: list[BaseMessage]
    new: list[BaseMessage]


@dataclass(frozen=True)
class OpenTurn:
    """A turn of a conversation under way, for who asks the model in another way than by the chain."""

    messages: list[BaseMessage]
    """What the model is asked with."""
    keep: Callable[[Gathered], Awaitable[None]]
    """Stores the turn once its answer is whole."""
    lifetime: contextlib.AsyncExitStack
    """Closed at the end, in whatever way that comes: others may have the session then."""


class RememberingChain(Runnable[Any, Any]):
    """See the module.

    Args:
        chain: A chain over ``{"messages": [...]}``.
        llm: The model behind it, asked for summaries.
        turns: Gives each request its session for itself.
        counter: Counts tokens.
        habits: How the model's conversations are kept.
    """

    def __init__(
        self,
        chain: Runnable[Any, Any],
        llm: Runnable[Any, BaseMessage],
        *,
        turns: TurnTaking,
        counter: Counter,
        habits: Habits,
    ) -> None:
        self.chain = chain
        self.llm = llm
        self.habits = habits
        self._turns = turns
        self._counter = counter
        self._prompt, self._system = _prompt_of(chain)
        self._said = input_of(chain)
        self._input = _with_session(self._said)

    def __repr__(self) -> str:
        return f"<RememberingChain {self.habits.model}: {self.chain!r}>"

    # --- what it takes and gives: as the chain, and a session -----------------------------------

    @property
    @override
    def InputType(self) -> Any:
        return self.chain.InputType

    @property
    @override
    def OutputType(self) -> Any:
        return self.chain.OutputType

    @override
    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """The chain's."""
        return self.chain.get_name(suffix, name=name)

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The chain's, which takes a ``session_id`` too."""
        return self._input

    @override
    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The chain's."""
        return cast("type[BaseModel]", self.chain.get_output_schema(config))

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        return get_unique_config_specs([*self.chain.config_specs, FIELD])

    # --- asking ------------------------------------------------------------------------------

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answer without a session; conversations are kept by asynchronous code alone."""
        name, value = self.session(input, config)
        if name is not None:
            raise TypeError("A chain that remembers is asked with ainvoke or astream.")
        return self.chain.invoke(value, config, **kwargs)

    @override
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any | None) -> Iterator[Any]:
        """As ``invoke``, in pieces."""
        name, value = self.session(input, config)
        if name is not None:
            raise TypeError("A chain that remembers is asked with ainvoke or astream.")
        return self.chain.stream(value, config, **kwargs)

    @override
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answer, and remember."""
        name, value = self.session(input, config)
        if name is None:
            return await self.chain.ainvoke(value, config, **kwargs)
        async with self._turns.turn(name) as held:
            recalled = await self._recall(held, value, config)
            answer = await self.chain.ainvoke({"messages": recalled.messages}, config, **kwargs)
            gathered = Gathered()
            gathered.add(answer)
            await self._remember(held, recalled.new, gathered)
            return answer

    @override
    def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any | None) -> AsyncIterator[Any]:
        """Answer in pieces, and remember. The stream ends after the turn was stored."""
        name, value = self.session(input, config)
        if name is None:
            return self.chain.astream(value, config, **kwargs)
        return self._stream(name, value, config, **kwargs)

    async def _stream(
        self, name: SessionName, value: Any, config: RunnableConfig | None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        async with self._turns.turn(name) as held:
            recalled = await self._recall(held, value, config)
            pieces = Gathered()
            keep = pieces.add
            chunks = self.chain.astream({"messages": recalled.messages}, config, **kwargs)
            async with contextlib.aclosing(cast("AsyncGenerator[Any, None]", chunks)):
                async for chunk in chunks:
                    keep(chunk)
                    yield chunk
            await self._remember(held, recalled.new, pieces)

    async def open(self, name: SessionName, value: Any, config: RunnableConfig | None) -> OpenTurn:
        """Begin a turn as ``astream`` does."""
        async with contextlib.AsyncExitStack() as lifetime:
            held = await lifetime.enter_async_context(self._turns.turn(name))
            recalled = await self._recall(held, value, config)
            keep = partial(self._remember, held, recalled.new)
            return OpenTurn(recalled.messages, keep, lifetime.pop_all())

    def session(self, value: Any, config: RunnableConfig | None) -> tuple[SessionName | None, Any]:
        """Return the request's session, if it has one, and its input without it.

        Raises:
            InvalidInput: The id has a form that no session has, or config and input name two.
        """
        asked = (config or {}).get("configurable", {}).get(SESSION) or None
        there, rest = _split(value)
        if asked and there and asked != there:
            raise InvalidInput("The config and the input name two different sessions.", param=SESSION)
        asked = asked or there
        if asked is None:
            return None, rest
        try:
            _Session(session_id=asked)
        except ValidationError:
            raise InvalidInput(
                "A session_id is 1 to 128 letters, digits or . _ : @ - characters.", param=SESSION
            ) from None
        current_session.set(asked)
        return SessionName(current_owner.get(), self.habits.model, asked), rest

    # --- recalling ---------------------------------------------------------------------------

    async def _recall(self, held: Held, value: Any, config: RunnableConfig | None) -> Recalled:
        """Return what to ask: the system prompt, what fits of the conversation so far, and what is new."""
        parsed: Any = self._said.model_validate(value)
        sent: list[BaseMessage] = parsed.messages
        stored = [message for turn in held.turns for message in turn.messages]
        said, system = unseen(stored, sent), system_of(sent)
        new = [system, *said] if system else said
        system = system or system_of(stored)
        kept = await self._fit(held, system, said, config)
        instructed = with_summary(self._spoken(system) if held.summary else system, held.summary)
        history = without_system(message for turn in kept for message in turn.messages)
        start: list[BaseMessage] = [instructed] if instructed else []
        return Recalled([*start, *in_pairs([*history, *said])], new)

    def _spoken(self, system: SystemMessage | None) -> SystemMessage | None:
        """The system prompt that the chain would put in front: a summary is told below it, not instead of it."""
        return system or self._system

    async def _fit(
        self, held: Held, system: SystemMessage | None, said: Sequence[BaseMessage], config: RunnableConfig | None
    ) -> list[Turn]:
        """Return the turns to tell the model; where not all of them fit, the others are summarised or left out."""
        if not held.turns:
            return []
        told = with_summary(self._spoken(system), held.summary)
        start: list[BaseMessage] = [told] if told else []
        counted = await self._counter.prompt(self._prompt([*start, *said]))
        if counted is None:
            return held.turns
        turns = held.turns = await self._counted(held)
        asked = (config or {}).get("configurable", {}).get("max_tokens")
        answer = asked if isinstance(asked, int) else self.habits.max_tokens
        room = room_for_prompt(counted.limit, answer) - counted.count
        going_on = not opens(said)
        kept = newest_that_fit(turns, room, going_on=going_on)
        if len(kept) == len(turns) or not self.habits.summarises:
            return kept
        kept = newest_that_fit(turns, int((room - TOKENS) * FULLEST), going_on=going_on)
        await self._summarise(held, turns[: len(turns) - len(kept)], counted.limit)
        return kept

    async def _counted(self, held: Held) -> list[Turn]:
        """The held turns, each with its count; one that has none yet is counted now."""
        missing = {turn.number: await self._counter.turn(turn.messages) for turn in held.turns if turn.tokens is None}
        if not missing:
            return held.turns
        await self._turns.finish(self._turns.store.note_tokens(held, missing))
        return [
            Turn(turn.number, turn.text, turn.opens, missing.get(turn.number, turn.tokens), turn.created_at)
            for turn in held.turns
        ]

    async def _summarise(self, held: Held, turns: Sequence[Turn], limit: int) -> None:
        """Have the model tell the turns that are left out; where it cannot, they are left out all the same."""
        messages = [message for turn in turns for message in turn.messages]
        ask = self.llm.with_config(configurable={"temperature": 0.0, "max_tokens": TOKENS}, callbacks=[])
        try:
            summary = await summarise(ask.ainvoke, held.summary, messages, room=limit - 2 * TOKENS)
        except (ModelError, ServiceError) as error:
            log.warning("a conversation with %s could not be summarised: %s", self.habits.model, type(error).__name__)
            return
        if summary:
            await self._turns.finish(self._turns.store.note_summary(held, summary, turns[-1].number))

    # --- remembering -------------------------------------------------------------------------

    async def _remember(self, held: Held, new: Sequence[BaseMessage], answer: Gathered) -> None:
        """Store the turn.

        Raises:
            EngineFailed: The answer has no end, so it is not stored either.
        """
        said = answer.messages()
        if not is_whole(said):
            raise EngineFailed("The answer has no end, so the conversation was not kept.")
        messages = [worth_keeping(message) for message in (*new, *said)]
        tokens = await self._counter.turn(messages)
        store = self._turns.store
        await self._turns.finish(store.add(held, messages, opens=opens(new), tokens=tokens, ttl=self.habits.ttl))


def _split(value: Any) -> tuple[Any, Any]:
    """Return the session that an input names, if it does, and the input without it (a checked one may keep it)."""
    if isinstance(value, ChatInput):
        return getattr(value, SESSION, None) or None, value
    if not isinstance(value, Mapping) or SESSION not in value:
        return None, cast("Any", value)
    named = cast("Mapping[str, Any]", value)
    return named[SESSION] or None, {key: item for key, item in named.items() if key != SESSION}


class _Session(BaseModel):
    session_id: SessionId


def _with_session(schema: type[BaseModel]) -> type[BaseModel]:
    """The input schema with a field for the session. It is not shown: a playground would make a second box of it."""
    field: Any = (SkipJsonSchema[SessionId | None], None)
    return create_model(schema.__name__, __base__=schema, **{SESSION: field})


def input_of(chain: Runnable[Any, Any]) -> type[BaseModel]:
    """Return what a chain takes. None of ours has a schema of pydantic's first version."""
    return cast("type[BaseModel]", chain.get_input_schema())


Render = Callable[[list[BaseMessage]], list[BaseMessage]]


def _prompt_of(chain: Runnable[Any, Any]) -> tuple[Render, SystemMessage | None]:
    """Return what makes the model's messages of a conversation, and the chain's own system prompt.

    Both are known where the chain begins with a prompt.
    """
    first = chain.first if isinstance(chain, RunnableSequence) else None
    if not isinstance(first, ChatPrompt):
        return list[BaseMessage], None
    return lambda messages: first.format_messages(messages=messages), first.system_message()


def remembering(
    chain: Runnable[Any, Any], llm: Runnable[Any, BaseMessage], *, turns: TurnTaking, counter: Counter, habits: Habits
) -> Runnable[Any, Any]:
    """Return the chain with a memory, where it is one over messages; any other stays as it is."""
    if not issubclass(input_of(chain), ChatInput):
        return chain
    return RememberingChain(chain, llm, turns=turns, counter=counter, habits=habits)
