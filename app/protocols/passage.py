"""Requests that go to an engine as they came, and answers that come back as they are, byte for byte.

What may not pass: a picture by its address, and fields that would make the engine reach out by itself.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from fastapi import Request
from langchain_core.messages import HumanMessage
from starlette.responses import Response

from app.catalogue import Choice
from app.errors import InvalidInput, TooLarge
from app.protocols.chat_service import ChatService
from app.protocols.delivery import Delivery, wait_of
from app.protocols.turns import check_content
from app.streams.relay import Relay
from app.streams.sse import Event, Piece

FORBIDDEN = ("kv_transfer_params", "ec_transfer_params", "chat_template", "mm_processor_kwargs", "media_io_kwargs")
"""Fields of vLLM that name other machines, or programs to run."""


async def check_passage(chats: ChatService, choice: Choice, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request that the engine may be given: with its pictures checked, and nothing to fetch.

    Raises:
        ServiceError: It holds what an engine should not be given.
    """
    for name in FORBIDDEN:
        if body.get(name) is not None:
            raise InvalidInput(f"{name}: not passed on to the engine.", param=name)
    choices = chats.settings.limits.choices
    for name in ("n", "best_of"):
        wished: Any = body.get(name)
        if isinstance(wished, int) and wished > choices:
            raise InvalidInput(f"{name}: from 1 to {choices}.", param=name)
    messages: Any = body.get("messages")
    if not isinstance(messages, list):
        return dict(body)
    return {**body, "messages": await _look_at(chats, choice, cast("list[Any]", messages))}


async def _look_at(chats: ChatService, choice: Choice, messages: Sequence[Any]) -> list[Any]:
    """Return messages as they are, but for their pictures."""
    limit = chats.settings.limits.messages
    if len(messages) > limit:
        raise TooLarge(f"More than {limit} messages.", param="messages")
    contents = [_content(message, f"messages.{index}") for index, message in enumerate(messages)]
    seen = await chats.look_at(choice, [HumanMessage(content) for content in contents])
    return [
        {**message, "content": turn.content} if content else message  # pyright: ignore[reportUnknownMemberType]
        for message, content, turn in zip(messages, contents, seen, strict=True)
    ]


def _content(message: Any, place: str) -> list[Any]:
    """Return the parts of a message; none where it is plain text."""
    content: Any = cast("dict[str, Any]", message).get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return []
    check_content(content, f"{place}.content")
    return cast("list[Any]", content)


async def pass_on(delivery: Delivery, request: Request, choice: Choice, path: str, body: Mapping[str, Any]) -> Response:
    """Send a body to the model's engine and return its answer: at once if it is a stream, else when it is whole.

    Raises:
        ServiceError: The engine refused or failed before its answer began.
    """
    line = choice.served.line
    if body.get("stream"):
        async with delivery.wanted(request):
            await delivery.chats.ensure_ready(choice, wait_of(request))
            if line.short is not None and delivery.settings.fast_path:
                relay = Relay(await line.begin(line.short, path, body), Bytes(), ping=None)
                await relay.hold(delivery.settings.stream_hold)
                return delivery.push(relay)
        return await delivery.stream(request, _pieces(choice, path, body), raw=True)
    async with delivery.wanted(request):
        await delivery.chats.ensure_ready(choice, wait_of(request))
        async with line.open(path, body) as answer:
            content = b"".join([piece async for piece in line.pieces(answer)])
    return Response(content, answer.status_code, media_type=answer.headers.get("content-type", "application/json"))


class Bytes:
    """Passes pieces on as they are: ``app/protocols/relay.Renderer``. Their end is the answer's."""

    def __init__(self) -> None:
        self.ended = self.begun = False
        self.error: Exception | None = None

    def feed(self, piece: bytes) -> bytes:
        """Return the piece."""
        self.begun = self.begun or bool(piece)
        return piece

    def close(self) -> bytes:
        """Add nothing."""
        self.ended = True
        return b""

    def end(self) -> bytes:
        """Add nothing."""
        return b""


async def _pieces(choice: Choice, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
    line = choice.served.line
    async with line.open(path, body) as answer, contextlib.aclosing(line.pieces(answer)) as pieces:
        async for piece in pieces:
            yield Piece("piece", content=piece)
