"""LangServe's protocol: the only module that imports langserve, and the place where its faults are mended.

langserve's ``APIHandler`` reads configs and inputs, runs the chain and writes its events. Around it, here:

- errors keep their meaning: a status while nothing was sent, one typed ``error`` event afterwards;
- whoever leaves cancels ``invoke`` and ``batch`` too;
- a batch has a bounded size and a bounded number of inputs at work, and an error for each input where asked for;
- only POSTs get a model ready; schemas and playgrounds never do.

``RemoteRunnable`` for Python and JavaScript works unchanged. See docs/adr for why langserve is kept.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from chat_vllm import ChatInput
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from langchain_core.messages import BaseMessage
from langserve import APIHandler  # noqa: TID251 -- the one place
from langserve.serialization import WellKnownLCSerializer  # noqa: TID251
from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse, Response

from app.chains import Chain
from app.engines.table import ServerTable
from app.errors import InvalidInput, ModelNotReady, ServiceError, ShuttingDown, TooLarge, UnknownRoute
from app.guard.bodies import Preferences, parse_preferences, read_json, while_wanted
from app.images import ImageCheck
from app.memory.chain import SESSION, RememberingChain
from app.openapi import Bodies
from app.protocols.langserve.batch import Item, gather, item_error, join, split, tolerates
from app.protocols.langserve.events import is_output, logs_output, mend, render_error, tell_progress, tells_output
from app.protocols.langserve.frames import LangServeFrames
from app.responses import invalid, named_errors
from app.settings import Settings
from app.shutdown import Shutdown
from app.streams.asking import Question, find_fast_way
from app.streams.known_chain import new_id
from app.streams.relay import Relay, RelayedStream
from app.streams.sse import Event, EventStream, Pump
from vllm_launcher.registry import ModelSpec


@dataclass(frozen=True)
class Surroundings:
    """What the routes of every model share."""

    table: ServerTable
    settings: Settings
    shutdown: Shutdown
    images: ImageCheck


@dataclass(frozen=True)
class Accepted:
    """One input that the chain will take."""

    body: Mapping[str, Any]
    """As langserve reads it."""
    value: BaseModel
    """The input in it, as it was read and checked."""


class ParsedRequest(Request):
    """A request whose body has been read, checked and parsed."""

    def __init__(self, request: Request, body: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._parsed = body

    async def json(self) -> Any:
        """Return the body."""
        return self._parsed


SERIALIZER = WellKnownLCSerializer()
BETWEEN_COMMENTS = 0.5
"""Seconds between two comments on a model that is loading, at least."""
Wants = Callable[[Event], bool]
HandlerCall = Callable[..., Awaitable[Any]]


class LangServeRoutes:
    """The routes of one model below ``prefix``.

    Args:
        spec: The model.
        chain: What answers.
        around: What all models share.
        prefix: Path of the routes; langserve puts it into the playground's page.
        playground: Which of langserve's two pages.
    """

    def __init__(self, spec: ModelSpec, chain: Chain, around: Surroundings, *, prefix: str, playground: str) -> None:
        self._model = spec.id
        self._example = DRAWING if spec.task == "image-generation" else QUESTION
        self._around = around
        self._sees = spec.limits if spec.task == "vision-chat" else None
        self._limits = around.settings.limits
        self._body_limits = around.images.body_limits if self._sees is not None else self._limits
        self._input = cast("type[BaseModel]", chain.get_input_schema())
        self._fast = find_fast_way(chain) if around.settings.fast_path else None
        self._dumps = SERIALIZER.dumps
        self.handler: Any = APIHandler(chain, path=prefix, playground_type=cast("Any", playground))

    def bodies(self, prefix: str) -> Mapping[str, Bodies]:
        """Return what the POSTs take and give, by path, for /docs."""
        handler, one, many = self.handler, {"input": self._example}, {"inputs": [self._example]}
        return {
            f"{prefix}/invoke": Bodies(handler.InvokeRequest, handler.InvokeResponse, one),
            f"{prefix}/batch": Bodies(handler.BatchRequest, handler.BatchResponse, many),
            f"{prefix}/stream": Bodies(handler.StreamRequest, None, one),
            f"{prefix}/stream_log": Bodies(handler.StreamLogRequest, None, one),
            f"{prefix}/stream_events": Bodies(handler.StreamEventsRequest, None, one),
        }

    # --- answers in one piece ----------------------------------------------------------------

    async def invoke(self, request: Request) -> Response:
        """Answer one input."""
        accepted = await self._take(request)
        return await self._answer(request, lambda: self._invoke(request, accepted))

    async def batch(self, request: Request) -> Response:
        """Answer several inputs, in their order."""
        async with self._room():
            body = await self._read(request, "inputs")
            items: Sequence[Item | Accepted] = split(body, self._limits.batch_size)
            tolerant = tolerates(body, _preferences(request))
            if not tolerant:
                items = [await self._accept_item(item) for item in items]
        response = await self._answer(request, lambda: self._batch(request, items, tolerant=tolerant))
        if tolerant:
            response.headers["Preference-Applied"] = "return-exceptions"
        return response

    async def _answer(self, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        """Get the model ready, then do the work, both only for as long as somebody waits for it."""
        with named_errors():
            async with while_wanted(request.scope, request.receive, self._around.shutdown):
                await self._get_ready(request)
                return await work()

    async def _invoke(self, request: Request, accepted: Accepted) -> Response:
        question, run_id = await self._ask(request, accepted, "invoke")
        if question is not None:
            output = json.loads(self._dumps(await question.whole()))
            return JSONResponse({"output": output, "metadata": {"run_id": run_id, "feedback_tokens": []}})
        return await _call(self.handler.invoke, request, accepted.body)

    async def _batch(self, request: Request, items: Sequence[Item | Accepted], *, tolerant: bool) -> Response:
        slots = asyncio.Semaphore(self._limits.batch_concurrency)

        async def answer(item: Item | Accepted) -> Mapping[str, Any]:
            try:
                async with slots:
                    accepted = await self._accept_item(item)
                    response = await self._invoke(request, accepted)
            except Exception as error:
                if tolerant:
                    return item_error(error)
                raise
            return json.loads(bytes(response.body))

        return JSONResponse(join(await gather(answer(item) for item in items)))

    # --- streams -----------------------------------------------------------------------------

    async def stream(self, request: Request) -> Response:
        """Stream the output's pieces."""
        return await self._stream(request, self.handler.stream, is_output, relayed=True)

    async def stream_log(self, request: Request) -> Response:
        """Stream the run's log as JSON patches."""
        return await self._stream(request, self.handler.stream_log, logs_output)

    async def stream_events(self, request: Request) -> Response:
        """Stream the events of every step."""
        return await self._stream(request, self.handler.astream_events, tells_output)

    async def _stream(self, request: Request, start: HandlerCall, enough: Wants, *, relayed: bool = False) -> Response:
        accepted = await self._take(request)
        hold = self._around.settings.stream_hold
        with named_errors():
            async with while_wanted(request.scope, request.receive, self._around.shutdown):
                if await self._is_ready_within(request, hold):
                    if relayed and (relay := await self._relay(request, accepted)) is not None:
                        await relay.hold(hold)
                        return RelayedStream(relay, render_error=render_error, shutdown=self._around.shutdown)
                    answer = await _call(start, request, accepted.body)
                    pump = Pump(mend(answer.body_iterator))
                    held = await pump.hold(enough, hold)
                else:
                    pump, held = Pump(self._late(request, start, accepted.body)), ()
        return EventStream(
            pump,
            held=held,
            render_error=render_error,
            shutdown=self._around.shutdown,
            ping=self._around.settings.ping,
        )

    async def _relay(self, request: Request, accepted: Accepted) -> Relay | None:
        """Return the stream as the fast path makes it; None where it does not know the way."""
        question, run_id = await self._ask(request, accepted, "stream")
        if question is None:
            return None
        frames = partial(LangServeFrames, run_id=run_id, dumps=self._dumps)
        return await question.relay(frames, ping=self._around.settings.ping)

    async def _ask(self, request: Request, accepted: Accepted, endpoint: str) -> tuple[Question | None, str]:
        """Return what the chain asks its model, and the run's id; None where LangChain has to run the chain."""
        if self._fast is None:
            return None, ""
        config: Any
        if self._fast.known.takes_anything and accepted.body.get("config") in (None, {}) and not _config_hash(request):
            config, value = cast("Any", {"run_id": new_id()}), accepted.value
        else:
            read = partial(self.handler._get_config_and_input, endpoint=endpoint)  # noqa: SLF001 -- pinned by tests
            config, value = await _call(read, request, accepted.body)
        return await self._fast.ask(value, config), str(config["run_id"])

    async def _late(self, request: Request, start: HandlerCall, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Tell in comments how far the model is until it is ready, then answer."""
        table = self._around.table
        waiting = asyncio.ensure_future(table.ensure_ready(self._model, self._wait(request)))
        try:
            said = ""
            while not waiting.done():
                if (now := tell_progress(table.server(self._model))) != said:
                    yield Event("", now)
                    said = now
                await asyncio.wait({waiting}, timeout=BETWEEN_COMMENTS)
            await waiting
        finally:
            waiting.cancel()
        answer = await _call(start, request, body)
        async for event in mend(answer.body_iterator):
            yield event

    # --- pages -------------------------------------------------------------------------------

    async def input_schema(self, request: Request) -> Response:
        """Return the JSON Schema of the input."""
        return JSONResponse(await self.handler.input_schema(request, config_hash=_config_hash(request)))

    async def output_schema(self, request: Request) -> Response:
        """Return the JSON Schema of the output."""
        return JSONResponse(await self.handler.output_schema(request, config_hash=_config_hash(request)))

    async def config_schema(self, request: Request) -> Response:
        """Return the JSON Schema of the config."""
        return JSONResponse(await self.handler.config_schema(request, config_hash=_config_hash(request)))

    async def playground(self, request: Request) -> Response:
        """Serve a file of the playground."""
        path: str = request.path_params["file_path"]
        try:
            page = await self.handler.playground(path, request, config_hash=_config_hash(request))
        except (OSError, ValueError) as error:  # a folder, or a NUL in the name
            raise UnknownRoute("The playground has no such file.") from error
        page.headers["Content-Security-Policy"] = PLAYGROUND_POLICY
        return page

    # --- what every POST passes ----------------------------------------------------------------

    async def _take(self, request: Request) -> Accepted:
        """Read a body with one input, and check that."""
        async with self._room():
            return await self._accept(await self._read(request, "input"), "input")

    def _room(self) -> contextlib.AbstractAsyncContextManager[Any]:
        """Bodies with images are large: few are read and checked at once."""
        return self._around.images.bodies if self._sees is not None else contextlib.nullcontext()

    async def _accept(self, body: Mapping[str, Any], *place: str | int) -> Accepted:
        """Return a body whose input the chain will take, with its images as the model takes them.

        All that can be wrong is told before the model is started.
        """
        checked = self._check_input(body["input"], *place)
        if self._sees is None or not isinstance(checked, ChatInput):
            return Accepted(body, checked)
        try:
            messages = await self._around.images.check_images(checked.messages, self._sees)
        except ServiceError as error:
            error.param = ".".join(map(str, (*place, error.param)))
            raise
        written = {**checked.model_dump(mode="json"), "messages": write_messages(messages)}
        return Accepted({**body, "input": written}, checked.model_copy(update={"messages": messages}))

    async def _accept_item(self, item: Item | Accepted) -> Accepted:
        return item if isinstance(item, Accepted) else await self._accept(item.body, *item.place)

    async def _read(self, request: Request, key: str) -> dict[str, Any]:
        if self._around.shutdown.begun:
            raise ShuttingDown
        body = await read_json(request, self._body_limits)
        if not isinstance(body, dict):
            raise InvalidInput(f'The body is an object with the key "{key}".', param="body")
        if key not in body:
            raise InvalidInput(f'The body lacks the key "{key}".', param=key)
        read = cast("dict[str, Any]", body)
        session = request.path_params.get(SESSION)
        return read if session is None else {**read, "config": _in_session(read.get("config"), session)}

    def _check_input(self, value: Any, *place: str | int) -> BaseModel:
        """Return the input as the chain will take it, or refuse it."""
        messages: Any = cast("dict[str, Any]", value).get("messages") if isinstance(value, dict) else value
        if isinstance(messages, list) and len(cast("list[Any]", messages)) > self._limits.messages:
            raise TooLarge(f"More than {self._limits.messages} messages.", param=".".join(map(str, place)))
        try:
            return self._input.model_validate(value)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_input=False), within=place) from error

    async def _get_ready(self, request: Request) -> None:
        await self._around.table.ensure_ready(self._model, self._wait(request))

    async def _is_ready_within(self, request: Request, seconds: float) -> bool:
        """Wait so long; False if there is more time than that, and the model is not ready."""
        wait = self._wait(request)
        try:
            await self._around.table.ensure_ready(self._model, min(wait, seconds))
        except ModelNotReady:
            if wait <= seconds:
                raise
            return False
        return True

    def _wait(self, request: Request) -> float:
        """Seconds that the request waits for its model."""
        settings = self._around.settings
        wished = _preferences(request).wait
        return min(settings.wait_ready if wished is None else wished, settings.wait_ready_max)


def write_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as the JSON that they are read from."""
    return [message.model_dump(mode="json") for message in messages]


# --- requests ------------------------------------------------------------------------------


async def _call(handle: HandlerCall, request: Request, body: Mapping[str, Any]) -> Any:
    """Hand a request to langserve; the input was checked, so what is wrong now is in the config."""
    complete: dict[str, Any] = {**body, "config": {} if body.get("config") is None else body["config"]}
    try:
        return await handle(ParsedRequest(request, complete), config_hash=_config_hash(request))
    except RequestValidationError as error:
        raise invalid([_below_config(problem) for problem in error.errors()]) from error


def _below_config(problem: Any) -> Any:
    """Complete a place that langserve tells from the config on. It also raises plain texts."""
    if not isinstance(problem, Mapping):
        return problem
    said = cast("Mapping[str, Any]", problem)
    return {**said, "loc": ("config", *said["loc"])} if "configurable" in said["loc"][:1] else said


def _in_session(config: Any, session: str) -> Any:
    """Return a config, or a batch's list of them, that also names the session of the URL."""
    if isinstance(config, list):
        return [_in_session(each, session) for each in cast("list[Any]", config)]
    if config is not None and not isinstance(config, dict):
        return config  # langserve says what is wrong with it
    told = cast("dict[str, Any]", config or {})
    configurable: Any = told.get("configurable") or {}
    if not isinstance(configurable, dict):
        return told
    return {**told, "configurable": {**cast("dict[str, Any]", configurable), SESSION: session}}


def _config_hash(request: Request) -> str:
    return request.path_params.get("config_hash", "")


def _preferences(request: Request) -> Preferences:
    return parse_preferences(request.headers.getlist("prefer"))


# --- routes --------------------------------------------------------------------------------

PLAYGROUND_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""langserve's pages carry their schemas in an inline script, and compile them: without eval the page stays blank."""


def describe_routes(spec: ModelSpec) -> str:
    """Return what /docs says above one model's routes, as Markdown."""
    chat = f", [chat playground](/{spec.id}/chat/playground/)" if has_chat(spec) else ""
    return (
        f"**{spec.display_name}**. {spec.metadata.description} [Playground](/{spec.id}/playground/){chat}. "
        f"Every route stands at `/{spec.id}/c/{{config_hash}}/…` too, with the configuration of a share link."
    )


def has_chat(spec: ModelSpec) -> bool:
    """Whether the chat playground fits what the model takes and gives."""
    return spec.task != "image-generation"


@dataclass(frozen=True)
class ModelRoutes:
    """The routes of one model, and the bodies of those that /docs lists."""

    router: APIRouter
    bodies: Mapping[str, Bodies]


def create_routes(spec: ModelSpec, chain: Chain, around: Surroundings) -> ModelRoutes:
    """Return every route of one model.

    The set stands at ``/{id}``, once more at ``/{id}/chat`` for the chat playground (its page calls the routes beside
    it) where that fits, and below each at ``c/{config_hash}`` for links that carry a configuration, and at
    ``s/{session_id}`` for one conversation: its playgrounds go on with it.
    """
    router = APIRouter(tags=[spec.id])
    root = f"/{spec.id}"
    main = LangServeRoutes(spec, chain, around, prefix=root, playground="default")
    sets = [(main, root)]
    if has_chat(spec):
        chat = f"{root}/chat"
        sets.append((LangServeRoutes(spec, chain, around, prefix=chat, playground="chat"), chat))
    for routes, prefix in sets:
        _add(router, routes, prefix, shown=routes is main)
        _add(router, routes, f"{prefix}/c/{{config_hash}}", shown=False)
        if isinstance(chain, RememberingChain):
            session = f"{prefix}/s/{{{SESSION}}}"
            _add(router, routes, session, shown=False)
            _add(router, routes, f"{session}/c/{{config_hash}}", shown=False)
    return ModelRoutes(router, main.bodies(root))


def _add(router: APIRouter, routes: LangServeRoutes, prefix: str, *, shown: bool) -> None:
    for name, summary in POSTS.items():
        router.add_api_route(
            f"{prefix}/{name}",
            getattr(routes, name),
            methods=["POST"],
            summary=summary,
            include_in_schema=shown,
            response_class=Response,
        )
    for name, summary in SCHEMAS.items():
        router.add_api_route(
            f"{prefix}/{name}", getattr(routes, name), methods=["GET"], summary=summary, include_in_schema=shown
        )
    router.add_api_route(f"{prefix}/playground/{{file_path:path}}", routes.playground, include_in_schema=False)


QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
DRAWING = {"prompt": "a red apple"}
POSTS = {
    "invoke": "Answer one input",
    "batch": "Answer several inputs",
    "stream": "Stream the answer",
    "stream_log": "Stream the run's log",
    "stream_events": "Stream the events of every step",
}
SCHEMAS = {
    "input_schema": "JSON Schema of the input",
    "output_schema": "JSON Schema of the output",
    "config_schema": "JSON Schema of the config",
}
