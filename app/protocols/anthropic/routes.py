"""Anthropic's protocol: https://docs.anthropic.com/en/api/messages. Its list of models is at OpenAI's path."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.catalogue import CHATS
from app.openapi import Answers, Bodies
from app.protocols.anthropic.answers import MessageTelling, frame, render_message
from app.protocols.anthropic.requests import UNSUPPORTED, CountBody, MessagesBody, read_messages
from app.protocols.chat_service import ChatService
from app.protocols.delivery import Delivery, Wire, parse
from app.protocols.shapes import ANTHROPIC_ERROR, render_anthropic

WIRE = Wire(frame, render_anthropic)
EXAMPLE = {
    "model": "smollm2",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}
BODIES = {
    "/v1/messages": Bodies(MessagesBody, None, EXAMPLE, Answers("AnthropicError", ANTHROPIC_ERROR)),
    "/v1/messages/count_tokens": Bodies(
        CountBody,
        None,
        {key: EXAMPLE[key] for key in ("model", "messages")},
        Answers("AnthropicError", ANTHROPIC_ERROR, stream=None),
    ),
}


def create_router(chats: ChatService) -> APIRouter:
    """Return the routes under ``/v1/messages``."""
    delivery = Delivery(chats, WIRE)
    router = APIRouter(tags=["Anthropic"], prefix="/v1/messages")

    @router.post("", summary="Answer a conversation", response_class=Response)
    async def messages(request: Request) -> Response:
        """A message, or its events where `stream` is true."""
        asked = read_messages(parse(MessagesBody, await delivery.read(request), UNSUPPORTED), request)
        choice = delivery.catalogue.choose(asked.model)
        choice.require(*CHATS)  # its messages have no place for pictures
        name = choice.name
        if asked.stream:
            return await delivery.stream_answer(request, asked, MessageTelling(name))
        (message,) = await delivery.answer(request, asked)
        return JSONResponse(render_message(message, name))

    @router.post("/count_tokens", summary="Count a conversation's tokens", response_class=Response)
    async def count_tokens(request: Request) -> Response:
        """As the model's engine would be given it: with the chain's prompt, the tools and the chat template."""
        asked = read_messages(parse(CountBody, await delivery.read(request), UNSUPPORTED), request)
        async with delivery.wanted(request):
            return JSONResponse({"input_tokens": await chats.count(asked)})

    _ = messages, count_tokens
    return router
