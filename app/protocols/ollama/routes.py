"""Ollama's protocol: https://github.com/ollama/ollama/blob/main/docs/api.md. Streams are lines of JSON.

Fetching, making and deleting models is not for clients here: models.json lists them.
"""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.catalogue import Choice
from app.errors import Refused
from app.openapi import Answers, Bodies
from app.protocols.chat_request import ChatRequest
from app.protocols.chat_service import ChatService
from app.protocols.delivery import Delivery, Wire, parse, wait_of
from app.protocols.drawing import draw
from app.protocols.ollama.answers import (
    Heading,
    LinesTelling,
    render_answer,
    render_model,
    render_running,
    render_shown,
)
from app.protocols.ollama.requests import (
    UNSUPPORTED_GENERATE,
    ChatBody,
    EmbedBody,
    EmbeddingsBody,
    GenerateBody,
    ShowBody,
    read_chat,
    read_generate,
)
from app.protocols.openai.engine import read_embeddings, read_images
from app.protocols.shapes import OLLAMA_ERROR, render_ollama
from app.streams.sse import line

API_VERSION = "0.13.0"
"""The version of Ollama whose API this follows: clients ask before they use what is new in it."""
WIRE = Wire(line, render_ollama, media_type="application/x-ndjson", comments=False)
MANAGED = ("pull", "push", "create", "copy", "delete")
DRAWING = "image-generation"
ANSWERS = Answers("OllamaError", OLLAMA_ERROR, stream="application/x-ndjson")
WHOLE = Answers("OllamaError", OLLAMA_ERROR, stream=None)
HELLO = [{"role": "user", "content": "What is the capital of France?"}]
BODIES = {
    "/api/chat": Bodies(ChatBody, None, {"model": "smollm2", "messages": HELLO}, ANSWERS),
    "/api/generate": Bodies(GenerateBody, None, {"model": "smollm2", "prompt": HELLO[0]["content"]}, ANSWERS),
    "/api/embed": Bodies(EmbedBody, None, {"model": "minilm", "input": ["a text"]}, WHOLE),
    "/api/embeddings": Bodies(EmbeddingsBody, None, {"model": "minilm", "prompt": "a text"}, WHOLE),
    "/api/show": Bodies(ShowBody, None, {"model": "smollm2"}, WHOLE),
}


class OllamaRoutes:
    """The routes under ``/api``.

    Args:
        delivery: Takes and delivers.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._catalogue = delivery.catalogue
        self._chats = delivery.chats

    async def chat(self, request: Request) -> Response:
        """Answer a conversation; without messages, get the model ready."""
        body = parse(ChatBody, await self._delivery.read(request))
        if not body.messages:
            return await self._load(request, Heading(body.model, "chat"))
        return await self._answer(request, read_chat(body, request), Heading(body.model, "chat"))

    async def generate(self, request: Request) -> Response:
        """Answer a prompt, or draw it; without one, get the model ready."""
        body = parse(GenerateBody, await self._delivery.read(request), UNSUPPORTED_GENERATE)
        choice = self._catalogue.choose(body.model)
        heading = Heading(body.model, "generate")
        if not body.prompt:
            return await self._load(request, heading)
        if choice.served.spec.task == DRAWING:
            return await self._draw(request, choice, body, heading)
        return await self._answer(request, read_generate(body, request), heading)

    async def _answer(self, request: Request, asked: ChatRequest, heading: Heading) -> Response:
        if asked.stream:
            return await self._delivery.stream_answer(request, asked, LinesTelling(heading))
        (message,) = await self._delivery.answer(request, asked)
        return JSONResponse(render_answer(message, heading))

    async def _load(self, request: Request, heading: Heading) -> Response:
        async with self._delivery.wanted(request):
            await self._chats.ensure_ready(self._catalogue.choose(heading.model), wait_of(request))
        return JSONResponse({**heading.line({"content": ""}, done=True), "done_reason": "load"})

    async def _draw(self, request: Request, choice: Choice, body: GenerateBody, heading: Heading) -> Response:
        size = {"size": f"{body.width}x{body.height}"} if body.width and body.height else {}
        steps = {"num_inference_steps": body.steps} if body.steps else {}
        seed = {"seed": (body.options or {})["seed"]} if (body.options or {}).get("seed") is not None else {}
        asked = {"prompt": body.prompt, **size, **steps, **seed}
        drawing = read_images(choice, asked, self._delivery.settings.limits)
        (drawn, *_) = await draw(self._delivery, request, choice, drawing)
        told = {**heading.line({"content": ""}, done=True), "image": drawn.base64}
        return JSONResponse({**told, "done_reason": "stop"})

    async def embed(self, request: Request) -> Response:
        """Embed texts."""
        body = parse(EmbedBody, await self._delivery.read(request))
        heading = Heading(body.model, "generate")
        answer = await self._embed(
            request, body.model, body.input, body.dimensions, truncate=body.truncate is not False
        )
        vectors = [each["embedding"] for each in answer["data"]]
        ended = heading.counted(answer.get("usage") or {})
        return JSONResponse({"model": body.model, "embeddings": vectors, **ended})

    async def embeddings(self, request: Request) -> Response:
        """Embed one text: the old form of embed."""
        body = parse(EmbeddingsBody, await self._delivery.read(request))
        answer = await self._embed(request, body.model, body.prompt, None, truncate=True)
        return JSONResponse({"embedding": answer["data"][0]["embedding"]})

    async def _embed(
        self, request: Request, model: str, given: str | list[str], dimensions: int | None, *, truncate: bool
    ) -> dict[str, Any]:
        choice = self._catalogue.choose(model)
        asked: dict[str, Any] = {"input": given, "encoding_format": "float"}
        if truncate:
            asked["truncate_prompt_tokens"] = -1
        if dimensions is not None:
            asked["dimensions"] = dimensions
        checked = read_embeddings(choice, asked, self._delivery.settings.limits)
        return await self._ask(request, choice, "/embeddings", checked)

    async def _ask(self, request: Request, choice: Choice, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._delivery.wanted(request):
            await self._chats.ensure_ready(choice, wait_of(request))
            return await choice.served.line.ask(path, body)

    async def tags(self) -> Response:
        """List the models."""
        return JSONResponse({"models": [*map(render_model, self._catalogue.all())]})

    async def running(self) -> Response:
        """List the models that are ready."""
        ready = [served for served in self._catalogue.all() if self._chats.table.endpoint(served.spec.id)]
        return JSONResponse({"models": [*map(render_running, ready)]})

    async def show(self, request: Request) -> Response:
        """Describe a model."""
        body = parse(ShowBody, await self._delivery.read(request))
        return JSONResponse(render_shown(self._catalogue.choose(body.model or body.name).served))

    async def version(self) -> Response:
        """Tell the version of Ollama's API that this follows."""
        return JSONResponse({"version": API_VERSION})

    async def managed(self, request: Request) -> Response:
        """Refuse to change the models."""
        verb = request.url.path.rsplit("/", 1)[-1]
        raise Refused(f"'{verb}' is not for clients: models.json lists the models.")


def create_router(chats: ChatService) -> APIRouter:
    """Return the routes under ``/api``."""
    routes = OllamaRoutes(Delivery(chats, WIRE))
    router = APIRouter(tags=["Ollama"], prefix="/api")
    posts = {
        "/chat": (routes.chat, "Answer a conversation"),
        "/generate": (routes.generate, "Answer a prompt"),
        "/embed": (routes.embed, "Embed texts"),
        "/embeddings": (routes.embeddings, "Embed one text"),
        "/show": (routes.show, "Describe a model"),
    }
    for path, (route, summary) in posts.items():
        router.add_api_route(path, route, methods=["POST"], summary=summary, response_class=Response)
    gets = {
        "/tags": (routes.tags, "List the models"),
        "/ps": (routes.running, "List the models that are ready"),
        "/version": (routes.version, "Tell the version"),
    }
    for path, (route, summary) in gets.items():
        router.add_api_route(path, route, summary=summary)
    for verb in MANAGED:
        router.add_api_route(f"/{verb}", routes.managed, methods=["POST", "DELETE"], include_in_schema=False)
    return router
