"""Requests that go to an engine as they came, and answers that come back as they are, byte for byte.

What may not pass: a picture by its address, and fields that would make the engine reach out by itself.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from fastapi import Request
from starlette.responses import Response

from app.catalogue import Choice
from app.errors import InvalidInput
from app.protocols.delivery import Delivery, wait_of
from app.protocols.sse import Event, Piece
from app.protocols.turns import check_content

FORBIDDEN = ("kv_transfer_params", "ec_transfer_params", "chat_template", "mm_processor_kwargs", "media_io_kwargs")
"""Fields of vLLM that name other machines, or programs to run."""


def check_passage(body: Mapping[str, Any], choices: int) -> None:
    """Refuse what an engine should not be given.

    Args:
        body: The request.
        choices: Answers it may ask for at most.

    Raises:
        InvalidInput: It holds such a thing.
    """
    for name in FORBIDDEN:
        if body.get(name) is not None:
            raise InvalidInput(f"{name}: not passed on to the engine.", param=name)
    for name in ("n", "best_of"):
        wished: Any = body.get(name)
        if isinstance(wished, int) and wished > choices:
            raise InvalidInput(f"{name}: from 1 to {choices}.", param=name)
    messages: Any = body.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(cast("list[Any]", messages)):
            if isinstance(message, dict):
                check_content(cast("dict[str, Any]", message).get("content"), f"messages.{index}.content")


async def pass_on(delivery: Delivery, request: Request, choice: Choice, path: str, body: Mapping[str, Any]) -> Response:
    """Send a body to the model's engine and return its answer: at once if it is a stream, else when it is whole.

    Raises:
        ServiceError: The engine refused or failed before its answer began.
    """
    if body.get("stream"):
        async with delivery.wanted(request):
            await delivery.chats.ensure_ready(choice, wait_of(request))
        return await delivery.stream(request, _pieces(choice, path, body), raw=True)
    line = choice.served.line
    async with delivery.wanted(request):
        await delivery.chats.ensure_ready(choice, wait_of(request))
        async with line.open(path, body) as answer:
            content = b"".join([piece async for piece in line.pieces(answer)])
    return Response(content, answer.status_code, media_type=answer.headers.get("content-type", "application/json"))


async def _pieces(choice: Choice, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
    line = choice.served.line
    async with line.open(path, body) as answer, contextlib.aclosing(line.pieces(answer)) as pieces:
        async for piece in pieces:
            yield Piece("piece", content=piece)


def only(body: Mapping[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    """Return a body that has nothing but these fields.

    Raises:
        InvalidInput: It has another; named.
    """
    for name in body:
        if name not in allowed:
            raise InvalidInput(f"{name}: there is no such field here.", param=name)
    return dict(body)
