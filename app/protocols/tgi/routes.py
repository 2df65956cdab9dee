"""Hugging Face's protocols: TGI's own routes, and the inference tasks as ``InferenceClient`` calls them by URL.

``/models/{id}`` is the URL of a model: ``InferenceClient("http://host/models/smollm2")``. What it answers is the task
of the model. TGI serves one model, so its routes at the root answer for the first that holds conversations.
"""

import base64
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.catalogue import CHATS, Choice
from app.errors import InvalidInput, UnknownModel
from app.openapi import Answers, Bodies
from app.protocols.chat_service import ChatService
from app.protocols.delivery import Delivery, Wire, parse, wait_of
from app.protocols.drawing import draw
from app.protocols.openai import routes as openai
from app.protocols.openai.engine import read_embeddings, read_images
from app.protocols.shapes import TGI_ERROR, render_tgi
from app.protocols.tgi.answers import TAGS, Form, TokensTelling, render_info, render_text
from app.protocols.tgi.requests import (
    UNSUPPORTED_FEATURES,
    DrawingBody,
    FeatureBody,
    TextBody,
    read_drawing,
    read_features,
    read_parameters,
    read_text,
)
from app.streams.sse import data
from vllm_launcher import __version__

WIRE = Wire(data, render_tgi)
EXAMPLE = {"inputs": "What is the capital of France?", "parameters": {"max_new_tokens": 32}}
ANSWERS = Answers("TgiError", TGI_ERROR)
BODIES = {
    f"{prefix}/{route}": Bodies(TextBody, None, EXAMPLE, ANSWERS)
    for prefix in ("", "/models/{model}")
    for route in ("generate", "generate_stream")
}
PICTURES = {"image/jpeg": "jpeg", "image/webp": "webp"}


class TgiRoutes:
    """The routes at the root, and those of each model.

    Args:
        delivery: Takes and delivers.
        conversations: OpenAI's routes: TGI answers their chat completions too.
    """

    def __init__(self, delivery: Delivery, conversations: openai.OpenAIRoutes) -> None:
        self._delivery = delivery
        self._catalogue = delivery.catalogue
        self._conversations = conversations

    def _choice(self, request: Request) -> Choice:
        """Return the model of a path, or the first that chats."""
        named = request.path_params.get("model")
        if named is not None:
            return self._catalogue.choose(named)
        first = next((served for served in self._catalogue.all() if served.chain and served.spec.task in CHATS), None)
        if first is None:
            raise UnknownModel("There is no model that holds conversations.")
        return Choice(first, raw=False)

    async def task(self, request: Request) -> Response:
        """Do what the model is for; texts come as a list of one, as TGI's root gives them."""
        choice = self._choice(request)
        wanted = request.path_params.get("task")
        if wanted is not None and wanted != TAGS[choice.served.spec.task]:
            raise InvalidInput(f"'{choice.name}' is a model for {TAGS[choice.served.spec.task]}.", param="task")
        match choice.served.spec.task:
            case "embedding":
                return await self._embed(request, choice)
            case "image-generation":
                return await self._draw(request, choice)
            case _:
                return await self._generate(request, choice, listed=True)

    async def generate(self, request: Request) -> Response:
        """Answer a prompt."""
        return await self._generate(request, self._choice(request), stream=False)

    async def generate_stream(self, request: Request) -> Response:
        """Answer a prompt token by token."""
        return await self._generate(request, self._choice(request), stream=True)

    async def _generate(
        self, request: Request, choice: Choice, *, stream: bool | None = None, listed: bool = False
    ) -> Response:
        body = parse(TextBody, await self._delivery.read(request))
        told = read_parameters(body)
        asked = read_text(choice, body, told, request)
        before = body.inputs if told.return_full_text and isinstance(body.inputs, str) else ""
        form = Form(before, details=bool(told.details), seed=told.seed)
        if body.stream if stream is None else stream:
            return await self._delivery.stream_answer(request, asked, TokensTelling(form))
        (message,) = await self._delivery.answer(request, asked)
        rendered = render_text(message, form)
        return JSONResponse([rendered] if listed else rendered)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation in OpenAI's form; the model is the path's, whatever the body says."""
        body = await self._delivery.read(request)
        return await self._conversations.chat_with(request, {**body, "model": self._choice(request).name})

    async def _embed(self, request: Request, choice: Choice) -> Response:
        body = parse(FeatureBody, await self._delivery.read(request), UNSUPPORTED_FEATURES)
        checked = read_embeddings(choice, read_features(body), self._delivery.settings.limits)
        answer = await self._ask(request, choice, "/embeddings", checked)
        return JSONResponse([each["embedding"] for each in answer["data"]])

    async def _draw(self, request: Request, choice: Choice) -> Response:
        body = parse(DrawingBody, await self._delivery.read(request))
        wished = request.headers.get("accept", "")
        kind = next((name for name in PICTURES if name in wished), "image/png")
        asked = {**read_drawing(body), "output_format": PICTURES.get(kind, "png")}
        drawing = read_images(choice, asked, self._delivery.settings.limits)
        (drawn, *_) = await draw(self._delivery, request, choice, drawing)
        return Response(base64.b64decode(drawn.base64), media_type=drawn.mime_type)

    async def _ask(self, request: Request, choice: Choice, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._delivery.wanted(request):
            await self._delivery.chats.ensure_ready(choice, wait_of(request))
            return await choice.served.line.ask(path, body)

    async def info(self, request: Request) -> Response:
        """Tell which model this is."""
        return JSONResponse(render_info(self._choice(request), __version__))

    async def health(self, request: Request) -> Response:
        """200 where the model is ready, else 503."""
        ready = self._delivery.chats.table.endpoint(self._choice(request).id) is not None
        return Response(status_code=200 if ready else 503)


def create_router(chats: ChatService) -> APIRouter:
    """Return the routes at the root and under ``/models/{id}``."""
    routes = TgiRoutes(Delivery(chats, WIRE), openai.OpenAIRoutes(Delivery(chats, openai.WIRE)))
    router = APIRouter(tags=["Hugging Face"])
    posts = {
        "/generate": (routes.generate, "Answer a prompt"),
        "/generate_stream": (routes.generate_stream, "Answer a prompt token by token"),
        "/models/{model}": (routes.task, "Do what the model is for"),
        "/models/{model}/generate": (routes.generate, "Answer a prompt"),
        "/models/{model}/generate_stream": (routes.generate_stream, "Answer a prompt token by token"),
        "/models/{model}/pipeline/{task}": (routes.task, "Do what the model is for"),
        "/models/{model}/v1/chat/completions": (routes.chat, "Answer a conversation"),
    }
    for path, (route, summary) in posts.items():
        router.add_api_route(path, route, methods=["POST"], summary=summary, response_class=Response)
    router.add_api_route("/", routes.task, methods=["POST"], include_in_schema=False)
    for prefix in ("", "/models/{model}"):
        router.add_api_route(f"{prefix}/info", routes.info, summary="Tell which model this is")
    router.add_api_route("/models/{model}/health", routes.health, summary="Is the model ready?")
    return router
