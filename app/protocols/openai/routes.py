"""OpenAI's protocol: https://platform.openai.com/docs/api-reference, with the fields that vLLM adds to it.

A model's id is its chain; ``id:raw`` is its engine, whose answers pass byte for byte. Embeddings and images have no
chain between: they pass too, once they are checked.
"""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.catalogue import CHATS, RAW, Catalogue, Choice
from app.errors import InvalidInput
from app.openapi import Answers, Bodies
from app.protocols.anthropic import models as anthropic_models
from app.protocols.chat_service import ChatService
from app.protocols.delivery import Delivery, Wire, parse
from app.protocols.drawing import draw
from app.protocols.openai.answers import (
    ChatTelling,
    Heading,
    TextTelling,
    render_chat,
    render_images,
    render_model,
    render_text,
)
from app.protocols.openai.engine import EmbeddingBody, ImageBody, read_embeddings, read_images
from app.protocols.openai.requests import (
    UNSUPPORTED_CHAT,
    UNSUPPORTED_TEXT,
    Body,
    ChatBody,
    TextBody,
    read_chat,
    read_text,
)
from app.protocols.passage import check_passage, pass_on
from app.protocols.shapes import OPENAI_ERROR, render_openai
from app.streams.sse import data

WIRE = Wire(data, render_openai)
ANSWERS = Answers("OpenAIError", OPENAI_ERROR)
WHOLE = Answers("OpenAIError", OPENAI_ERROR, stream=None)
HELLO = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
BODIES = {
    "/v1/chat/completions": Bodies(ChatBody, None, {"model": "smollm2", **HELLO}, ANSWERS),
    "/v1/completions": Bodies(TextBody, None, {"model": "smollm2", "prompt": "Name three rivers."}, ANSWERS),
    "/v1/embeddings": Bodies(EmbeddingBody, None, {"model": "minilm", "input": ["a text"]}, WHOLE),
    "/v1/images/generations": Bodies(ImageBody, None, {"model": "emoji-32", "prompt": "a red apple"}, WHOLE),
}


class OpenAIRoutes:
    """The routes under ``/v1``.

    Args:
        delivery: Takes and delivers.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._catalogue = delivery.catalogue
        self._limits = delivery.settings.limits

    async def models(self, request: Request) -> Response:
        """List every model: by its chain, and by its engine where that holds conversations."""
        if anthropic_models.asks(request):
            return JSONResponse(anthropic_models.render(self._catalogue))
        return JSONResponse({"object": "list", "data": [*map(render_model, list_choices(self._catalogue))]})

    async def model(self, request: Request) -> Response:
        """Describe one model; 404 where there is none."""
        choice = self._catalogue.choose(request.path_params["model"])
        if anthropic_models.asks(request):
            return JSONResponse(anthropic_models.render_model(choice))
        return JSONResponse(render_model(choice))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self.chat_with(request, await self._delivery.read(request))

    async def chat_with(self, request: Request, body: dict[str, Any]) -> Response:
        """Answer a conversation whose body has been read."""
        choice = self._choose(body)
        if choice.raw:
            return await self._pass_on(request, choice, "/chat/completions", body)
        told = parse(ChatBody, body, UNSUPPORTED_CHAT)
        asked = read_chat(told, request)
        heading = Heading(choice.name)
        if asked.stream:
            telling = ChatTelling(heading, include_usage=wants_usage(told))
            return await self._delivery.stream_answer(request, asked, telling)
        return JSONResponse(render_chat(await self._delivery.answer(request, asked), heading))

    async def completions(self, request: Request) -> Response:
        """Answer a prompt; a chain takes it as a user's turn, ``id:raw`` continues it."""
        body = await self._delivery.read(request)
        choice = self._choose(body)
        if choice.raw:
            return await self._pass_on(request, choice, "/completions", body)
        told = parse(TextBody, body, UNSUPPORTED_TEXT)
        asked = read_text(told, request)
        check_count(len(asked), self._limits.batch_size)
        heading = Heading(choice.name, prefix="cmpl", object="text_completion")
        if asked[0].stream:
            if len(asked) > 1:
                raise InvalidInput("prompt: a stream answers one prompt.", param="prompt")
            telling = TextTelling(heading, include_usage=wants_usage(told))
            return await self._delivery.stream_answer(request, asked[0], telling)
        return JSONResponse(render_text(await self._delivery.answer_all(request, asked), heading))

    async def embeddings(self, request: Request) -> Response:
        """Embed texts."""
        body = await self._delivery.read(request)
        choice = self._choose(body)
        checked = read_embeddings(choice, body, self._limits)
        return await pass_on(self._delivery, request, choice, "/embeddings", checked)

    async def images(self, request: Request) -> Response:
        """Draw."""
        body = await self._delivery.read(request)
        choice = self._choose(body)
        drawing, by_address = read_images(choice, body, self._limits), body.get("response_format") == "url"
        drawn = await draw(self._delivery, request, choice, drawing)
        base = str(request.base_url).rstrip("/") if by_address else None
        return JSONResponse(render_images(drawn, base))

    def _choose(self, body: dict[str, Any]) -> Choice:
        return choose(self._catalogue, body)

    async def _pass_on(self, request: Request, choice: Choice, path: str, body: dict[str, Any]) -> Response:
        choice.require(*CHATS)
        async with self._delivery.wanted(request):
            checked = await check_passage(self._delivery.chats, choice, body)
        return await pass_on(self._delivery, request, choice, path, checked)


def choose(catalogue: Catalogue, body: dict[str, Any]) -> Choice:
    """Return the model that a body names.

    Raises:
        InvalidInput: It names none.
        UnknownModel: There is no such model.
    """
    name = body.get("model")
    if not isinstance(name, str):
        raise InvalidInput("model: which one? GET /v1/models lists them.", param="model")
    return catalogue.choose(name)


def check_count(count: int, limit: int) -> None:
    """Refuse more prompts than are answered at once."""
    if count > limit:
        raise InvalidInput(f"prompt: {count} prompts are more than {limit}.", param="prompt")


def wants_usage(body: Body) -> bool:
    """Whether a stream ends with its usage."""
    return bool(body.stream_options and body.stream_options.include_usage)


def list_choices(catalogue: Catalogue) -> list[Choice]:
    """Return every name that a request may use, those of one model one after the other."""
    names = [
        name
        for served in catalogue.all()
        for name in (served.spec.id, *([f"{served.spec.id}:{RAW}"] if served.bare else []))
    ]
    return [catalogue.choose(name) for name in names]


def create_router(chats: ChatService) -> APIRouter:
    """Return the routes under ``/v1``."""
    routes = OpenAIRoutes(Delivery(chats, WIRE))
    router = APIRouter(tags=["OpenAI"], prefix="/v1")
    router.add_api_route("/models", routes.models, summary="List the models")
    router.add_api_route("/models/{model}", routes.model, summary="Describe one model")
    posts = {
        "/chat/completions": (routes.chat, "Answer a conversation"),
        "/completions": (routes.completions, "Answer a prompt"),
        "/embeddings": (routes.embeddings, "Embed texts"),
        "/images/generations": (routes.images, "Draw"),
    }
    for path, (route, summary) in posts.items():
        router.add_api_route(path, route, methods=["POST"], summary=summary, response_class=Response)
    return router
