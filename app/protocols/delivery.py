"""How an HTTP protocol takes a request and delivers its answer: what all of them share, and nothing of their shapes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from fastapi import Request
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from app.catalogue import Choice
from app.errors import InvalidInput, ShuttingDown
from app.guard.bodies import parse_preferences, read_json, while_wanted
from app.protocols.chat_frames import ChatFrames
from app.protocols.chat_request import ChatRequest
from app.protocols.chat_service import ChatService, gather
from app.protocols.shapes import Shape
from app.protocols.telling import Telling
from app.responses import invalid, name_error, named_errors
from app.settings import Limits
from app.streams.relay import Relay, RelayedStream
from app.streams.sse import Event, EventStream, Pump

SESSION_HEADER = "x-session-id"
SESSION_LENGTH = 128
"""Characters of a conversation's name at most."""
Body = TypeVar("Body", bound=BaseModel)


# --- taking --------------------------------------------------------------------------------


def parse(kind: type[Body], body: Mapping[str, Any], unsupported: Mapping[str, str] | None = None) -> Body:
    """Return a body as its type.

    Args:
        kind: Names every field that is known; others are errors, as a field that does nothing misleads.
        body: The JSON object.
        unsupported: Fields that the protocol has and this service has not, each with the sentence that says so.

    Raises:
        InvalidInput: With every field that does not fit.
    """
    for name, why in (unsupported or {}).items():
        if body.get(name) not in (None, False):
            raise InvalidInput(f"{name}: {why}", param=name)
    said = {name: value for name, value in body.items() if name not in (unsupported or {})}
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise invalid([_say_unknown(problem) for problem in problems]) from error


def _say_unknown(problem: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**problem, "msg": "There is no such field here."} if problem["type"] == "extra_forbidden" else problem


def session_of(request: Request, told: Any = None) -> str | None:
    """Return the conversation a request continues: as its body tells, else its header ``x-session-id``.

    Raises:
        InvalidInput: It is no short text.
    """
    session = told if told is not None else request.headers.get(SESSION_HEADER)
    if session is None:
        return None
    if not isinstance(session, str) or not 0 < len(session) <= SESSION_LENGTH:
        raise InvalidInput(f"session_id: a text of 1 to {SESSION_LENGTH} characters.", param="session_id")
    return session


def wait_of(request: Request) -> float | None:
    """Return how long a request is willing to wait for its model, where it says so (``Prefer: wait=N``)."""
    return parse_preferences(request.headers.getlist("prefer")).wait


# --- delivering ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """The form of a protocol's streams."""

    frame: Callable[[Any], Event]
    """Makes an event of a JSON value."""
    shape: Shape
    """Of errors."""
    media_type: str = "text/event-stream"
    comments: bool = True
    """Whether silence may be broken by a comment."""

    def render_error(self, error: BaseException) -> Event:
        """Return an error that comes after the status has been sent."""
        return self.frame(self.shape(name_error(error))[1])


class Delivery:
    """Takes the requests of one protocol and delivers their answers.

    Args:
        chats: Answers conversations.
        wire: The form of its streams.
    """

    def __init__(self, chats: ChatService, wire: Wire) -> None:
        self.chats = chats
        self.settings = chats.settings
        self.catalogue = chats.catalogue
        self._wire = wire

    async def read(self, request: Request) -> dict[str, Any]:
        """Return the body of a request: a JSON object within the limits.

        Raises:
            ServiceError: It is none, or the app is about to end.
        """
        if self.chats.shutdown.begun:
            raise ShuttingDown
        async with self._room(request) as limits:
            body = await read_json(request, limits)
        if not isinstance(body, dict):
            raise InvalidInput("The body is a JSON object.", param="body")
        return cast("dict[str, Any]", body)

    @contextlib.asynccontextmanager
    async def _room(self, request: Request) -> AsyncGenerator[Limits]:
        """Give the limits of a body. One that can only hold pictures may be larger; few of those are read at once."""
        usual, images = self.settings.limits, self.chats.images
        length = request.headers.get("content-length", "")
        large = length.isdigit() and int(length) > usual.body_bytes
        if not (large and any(served.spec.task == "vision-chat" for served in self.catalogue.all())):
            yield usual
            return
        async with images.bodies:
            yield images.body_limits

    @contextlib.asynccontextmanager
    async def wanted(self, request: Request) -> AsyncGenerator[None]:
        """Run the block for as long as somebody waits for it; only errors of this service leave it.

        Raises:
            CallerLeft: Nobody waits any more.
        """
        with named_errors():
            async with while_wanted(request.scope, request.receive, self.chats.shutdown):
                yield

    async def answer(self, request: Request, asked: ChatRequest) -> list[AIMessage]:
        """Return the answers to one question.

        Raises:
            ServiceError: What went wrong.
        """
        async with self.wanted(request):
            return await self.chats.answer(asked)

    async def answer_all(self, request: Request, asked: Sequence[ChatRequest]) -> list[list[AIMessage]]:
        """Return the answers to several questions, some of them at once; the first error ends all.

        Raises:
            ServiceError: What went wrong.
        """
        slots = asyncio.Semaphore(self.settings.limits.batch_concurrency)

        async def one(question: ChatRequest) -> list[AIMessage]:
            async with slots:
                return await self.chats.answer(question)

        async with self.wanted(request):
            return await gather(one(question) for question in asked)

    async def stream_answer(self, request: Request, asked: ChatRequest, telling: Telling) -> Response:
        """Stream an answer in the protocol's events: pushed through where its chain is known, see docs/adr/0014.

        Raises:
            ServiceError: What went wrong before the first of them.
        """
        choice, hold = self.chats.check(asked), self.settings.stream_hold
        if self.chats.may_push(choice, asked):
            async with self.wanted(request):
                asked = await self.chats.see(choice, asked)
                if not await self.chats.is_ready_within(choice, asked.wait, hold):
                    hold = 0.0
                elif (relay := await self._relay(choice, asked, telling)) is not None:
                    await relay.hold(hold)
                    return self.push(relay)
        return await self.stream(request, self._events(asked, telling), hold=hold)

    async def _relay(self, choice: Choice, asked: ChatRequest, telling: Telling) -> Relay | None:
        """Return the answer on the short way; None where only LangChain knows one."""
        question = await self.chats.ask(choice, asked)
        if question is None:
            return None
        return await question.relay(partial(ChatFrames, telling=telling), ping=self._ping)

    def push(self, relay: Relay) -> Response:
        """Return the stream of a relay."""
        wire = self._wire
        return RelayedStream(
            relay, render_error=wire.render_error, shutdown=self.chats.shutdown, media_type=wire.media_type
        )

    @property
    def _ping(self) -> float | None:
        return self.settings.ping if self._wire.comments else None

    async def _events(self, asked: ChatRequest, telling: Telling) -> AsyncGenerator[Event, None]:
        """Yield the events of an answer, from its question on: one generator, that runs in one task."""
        async with contextlib.aclosing(self.chats.stream_choices(asked)) as pieces:
            async for index, chunk in pieces:
                for event in telling.render(chunk, index):
                    yield event
        for event in telling.end():
            yield event

    async def stream(
        self,
        request: Request,
        events: AsyncGenerator[Event, None],
        *,
        raw: bool = False,
        hold: float | None = None,
    ) -> Response:
        """Return a stream once its first event is there, or has been waited for long enough.

        Args:
            request: Whose caller is kept in view.
            events: In the protocol's form.
            raw: They are somebody else's bytes, which nothing may come between.
            hold: Seconds to wait for the first event; None: the setting's.

        Raises:
            ServiceError: What went wrong before the first event.
        """
        async with self.wanted(request):
            pump = Pump(events)
            held = await pump.hold(lambda _: True, self.settings.stream_hold if hold is None else hold)
        return EventStream(
            pump,
            held=held,
            render_error=self._wire.render_error,
            shutdown=self.chats.shutdown,
            ping=None if raw else self._ping,
            media_type=self._wire.media_type,
        )
