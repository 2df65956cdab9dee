"""KServe v2 over HTTP: ``/v2``, with Triton's binary tensors, ``generate`` and ``generate_stream``.

Sources: the Open Inference Protocol (``inference_rest.md``), and Triton's ``extension_binary_data.md``,
``extension_generate.md`` and ``extension_model_repository.md``. Names of tensors: ``app/protocols/kserve/parse.py``.
"""

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from fastapi import APIRouter, Request
from langchain_core.messages import AIMessageChunk
from starlette.responses import JSONResponse, Response
from typing_extensions import override

from app.errors import InvalidInput, ShuttingDown
from app.guard.bodies import parse_json, read_bytes
from app.protocols.chat_service import ChatService
from app.protocols.delivery import SESSION_HEADER, Delivery, Wire, session_of, wait_of
from app.protocols.kserve.bodies import BODIES, flat, from_generate, inflate
from app.protocols.kserve.parse import STREAM, VERSION
from app.protocols.kserve.render import EXTENSIONS, PLATFORM, Rendering, Signature
from app.protocols.kserve.service import KServe
from app.protocols.kserve.tensors import InferRequest, InferResponse, from_json, to_json
from app.protocols.shapes import render_kserve
from app.protocols.telling import Telling
from app.streams.sse import Event, data
from vllm_launcher import __version__

__all__ = ["BODIES", "create_router"]

HEADER = "inference-header-content-length"
"""How many bytes of a body are JSON; binary tensors follow."""
WIRE = Wire(data, render_kserve)


class KServeRoutes:
    """The routes under ``/v2``.

    Args:
        delivery: Takes and delivers.
        kserve: The operations.
    """

    def __init__(self, delivery: Delivery, kserve: KServe) -> None:
        self._delivery = delivery
        self._kserve = kserve
        self._limits = delivery.settings.limits

    async def server(self) -> Response:
        """Name, version and extensions of the server."""
        return JSONResponse({"name": PLATFORM, "version": __version__, "extensions": [*EXTENSIONS]})

    async def live(self) -> Response:
        """200 while the process answers."""
        return JSONResponse({"live": True})

    async def ready(self) -> Response:
        """200 when every model that loads at startup is ready, else 503."""
        ready = self._kserve.ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        """Inputs and outputs of a model."""
        choice, inputs, outputs = self._kserve.metadata(*_named(request))
        tensors = {"inputs": [*map(_tensor, inputs)], "outputs": [*map(_tensor, outputs)]}
        return JSONResponse({"name": choice.name, "versions": [VERSION], "platform": PLATFORM, **tensors})

    async def model_ready(self, request: Request) -> Response:
        """200 when the model's server has just generated a token, else 503."""
        model, version = _named(request)
        ready = self._kserve.model_ready(model, version)
        return JSONResponse({"name": model, "ready": ready}, 200 if ready else 503)

    async def index(self, request: Request) -> Response:
        """The models and their states; with `{"ready": true}` those that are ready."""
        body = await self._read(request)
        told: Any = parse_json(body, self._limits.json_depth) if body.strip() else {}
        only = isinstance(told, dict) and cast("dict[str, Any]", told).get("ready") is True
        return JSONResponse(self._kserve.index(ready=only))

    async def infer(self, request: Request) -> Response:
        """Answer an inference: tensors in JSON or binary, in and out."""
        model, version = _named(request)
        told, blocks = self._split(request, await self._read(request))
        infer = _with_session(request, from_json(model, version, told, blocks))
        async with self._delivery.wanted(request):
            response = await self._kserve.infer(infer, wait=wait_of(request))
        return write(response, binary=infer.wants_binary)

    async def generate(self, request: Request) -> Response:
        """Answer a prompt; inputs and parameters by name, without shapes."""
        infer = await self._read_generate(request)
        async with self._delivery.wanted(request):
            return JSONResponse(flat(await self._kserve.infer(infer, wait=wait_of(request))))

    async def generate_stream(self, request: Request) -> Response:
        """Answer a prompt as server-sent events, each as `generate` answers; the last says that it is."""
        infer = await self._read_generate(request)
        said = STREAM in infer.inputs or STREAM in infer.parameters
        stream = None if said else True
        asked = (
            None if self._kserve.embeds(infer) else self._kserve.question(infer, stream=stream, wait=wait_of(request))
        )
        if asked is not None and asked.request.stream:
            telling = ResponsesTelling(Rendering(infer, asked))
            return await self._delivery.stream_answer(request, asked.request, telling)
        answers = self._kserve.answers(infer, stream=stream, wait=wait_of(request))
        return await self._delivery.stream(request, _events(answers))

    # --- bodies --------------------------------------------------------------------------------

    async def _read_generate(self, request: Request) -> InferRequest:
        model, version = _named(request)
        told = parse_json(await self._read(request), self._limits.json_depth)
        return _with_session(request, from_generate(model, version, told))

    async def _read(self, request: Request) -> bytes:
        if self._delivery.chats.shutdown.begun:
            raise ShuttingDown
        body = await read_bytes(request, self._limits.body_bytes, self._limits.body_seconds)
        return inflate(body, request.headers.get("content-encoding", ""), self._limits.body_bytes)

    def _split(self, request: Request, body: bytes) -> tuple[Any, bytes]:
        """Return the JSON of a body and the binary tensors behind it."""
        length = request.headers.get(HEADER)
        if length is None:
            return parse_json(body, self._limits.json_depth), b""
        if not (length.isascii() and length.isdigit() and len(length) < len(body) + 2 and int(length) <= len(body)):
            raise InvalidInput(f"{HEADER} is no length within the body.", param=HEADER)
        return parse_json(body[: int(length)], self._limits.json_depth), body[int(length) :]


def _named(request: Request) -> tuple[str, str]:
    """Return the model and the version of a path."""
    return request.path_params["model"], request.path_params.get("version", "")


def _with_session(request: Request, infer: InferRequest) -> InferRequest:
    """Return an inference that continues the conversation of the request's header, unless it names one itself."""
    session = session_of(request) if SESSION_HEADER in request.headers else None
    known = {} if session is None else {"session_id": session}
    return replace(infer, parameters={**known, **infer.parameters})


class ResponsesTelling(Telling):
    """An answer each piece; the last says that it is."""

    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering

    @override
    def render(self, chunk: AIMessageChunk, index: int = 0) -> Iterator[Event]:
        if (response := self._rendering.piece(chunk)) is not None:
            yield data(flat(response))

    @override
    def end(self) -> Iterator[Event]:
        yield data(flat(self._rendering.end()))


async def _events(answers: AsyncGenerator[InferResponse, None]) -> AsyncGenerator[Event, None]:
    async with aclosing(answers):
        async for response in answers:
            yield data(flat(response))


def write(response: InferResponse, *, binary: Callable[[str], bool]) -> Response:
    """Return an answer as its client wants it."""
    frame, blocks = to_json(response, VERSION, binary=binary)
    if not blocks:
        return JSONResponse(frame)
    head = json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Response(head + blocks, headers=headers, media_type="application/octet-stream")


def _tensor(signature: Signature) -> dict[str, Any]:
    name, datatype, shape = signature
    return {"name": name, "datatype": datatype, "shape": [*shape]}


# --- routes --------------------------------------------------------------------------------


def create_router(chats: ChatService) -> APIRouter:
    """Return the routes under ``/v2``."""
    routes = KServeRoutes(Delivery(chats, WIRE), KServe(chats))
    router = APIRouter(tags=["KServe"], prefix="/v2")
    table: Mapping[str, tuple[Any, str]] = {
        "GET ": (routes.server, "Describe the server"),
        "GET /health/live": (routes.live, "Is the service alive?"),
        "GET /health/ready": (routes.ready, "Are the models ready?"),
        "GET /models/{model}": (routes.model, "Describe a model's tensors"),
        "GET /models/{model}/ready": (routes.model_ready, "Is a model ready?"),
        "POST /repository/index": (routes.index, "List the models and their states"),
        "POST /models/{model}/infer": (routes.infer, "Answer tensors"),
        "POST /models/{model}/generate": (routes.generate, "Answer a prompt"),
        "POST /models/{model}/generate_stream": (routes.generate_stream, "Stream an answer"),
    }
    for name, (route, summary) in table.items():
        method, _, path = name.partition(" ")
        for each in _versions(path):
            router.add_api_route(
                each,
                route,
                methods=[method],
                summary=summary,
                response_class=Response,
                include_in_schema=each == path,
            )
    return router


def _versions(path: str) -> Sequence[str]:
    """Return a path, and the same with a version where it names a model."""
    return (path, path.replace("{model}", "{model}/versions/{version}")) if "{model}" in path else (path,)
