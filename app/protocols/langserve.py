"""LangServe's protocol: the only module that imports langserve, and the place where its faults are mended.

langserve's ``APIHandler`` reads configs and inputs, runs the chain and writes its events. Around it, here:

- errors keep their meaning: a status while nothing was sent, one typed ``error`` event afterwards;
- whoever leaves cancels ``invoke`` and ``batch`` too;
- a batch has a bounded size and a bounded number of inputs at work, and an error for each input where asked for;
- only POSTs get a model ready; schemas and playgrounds never do.

``RemoteRunnable`` for Python and JavaScript works unchanged. See docs/adr for why langserve is kept.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter, Request
from langserve import APIHandler  # noqa: TID251 -- the one place
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from app.chains import Chain
from app.errors import InvalidInput, ShuttingDown, TooLarge, UnknownRoute, describe, meaning
from app.guard import CallerLeft, Preferences, parse_preferences, read_json, while_wanted
from app.protocols.sse import Event, EventStream, Pump
from app.responses import invalid, name_error, named_errors
from app.settings import Settings
from app.shutdown import Shutdown
from app.table import ServerTable
from vllm_launcher.registry import ModelSpec


@dataclass(frozen=True)
class Surroundings:
    """What the routes of every model share."""

    table: ServerTable
    settings: Settings
    shutdown: Shutdown


class ParsedRequest(Request):
    """A request whose body has been read, checked and parsed."""

    def __init__(self, request: Request, body: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._parsed = body

    async def json(self) -> Any:
        """Return the body."""
        return self._parsed


@dataclass(frozen=True)
class Item:
    """One input of a batch, as the body of an invoke, and its place in the batch's body."""

    body: Mapping[str, Any]
    place: tuple[str | int, ...]


Wants = Callable[[Event], bool]
StreamCall = Callable[..., Awaitable[Any]]


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
        self._around = around
        self._limits = around.settings.limits
        self._input = chain.get_input_schema()
        self.handler = APIHandler(chain, path=prefix, playground_type=cast("Any", playground))

    # --- answers in one piece ----------------------------------------------------------------

    async def invoke(self, request: Request) -> Response:
        """Answer one input."""
        body = await self._read(request, "input")
        self._check_input(body["input"], "input")
        return await self._answer(request, lambda: self._invoke(request, body))

    async def batch(self, request: Request) -> Response:
        """Answer several inputs, in their order."""
        body = await self._read(request, "inputs")
        items = _split(body, self._limits.batch_size)
        tolerant = _tolerates(body, _preferences(request))
        if not tolerant:
            for item in items:
                self._check_input(item.body["input"], *item.place)
        response = await self._answer(request, lambda: self._batch(request, items, tolerant=tolerant))
        if tolerant:
            response.headers["Preference-Applied"] = "return-exceptions"
        return response

    async def _answer(self, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        """Get the model ready, then do the work, both only for as long as somebody waits for it."""
        with named_errors():
            async with while_wanted(request.receive, self._around.shutdown):
                await self._get_ready(request)
                return await work()

    async def _invoke(self, request: Request, body: Mapping[str, Any]) -> Response:
        return await self.handler.invoke(ParsedRequest(request, body), config_hash=_config_hash(request))

    async def _batch(self, request: Request, items: Sequence[Item], *, tolerant: bool) -> Response:
        slots = asyncio.Semaphore(self._limits.batch_concurrency)

        async def answer(item: Item) -> Mapping[str, Any]:
            try:
                async with slots:
                    if tolerant:
                        self._check_input(item.body["input"], *item.place)
                    response = await self._invoke(request, item.body)
            except Exception as error:
                if tolerant:
                    return _item_error(error)
                raise
            return json.loads(bytes(response.body))

        return JSONResponse(_join(await _gather(answer(item) for item in items)))

    # --- streams -----------------------------------------------------------------------------

    async def stream(self, request: Request) -> Response:
        """Stream the output's pieces."""
        return await self._stream(request, self.handler.stream, _is_output)

    async def stream_log(self, request: Request) -> Response:
        """Stream the run's log as JSON patches."""
        return await self._stream(request, self.handler.stream_log, _logs_output)

    async def stream_events(self, request: Request) -> Response:
        """Stream the events of every step."""
        return await self._stream(request, self.handler.astream_events, _tells_output)

    async def _stream(self, request: Request, start: StreamCall, enough: Wants) -> Response:
        body = await self._read(request, "input")
        self._check_input(body["input"], "input")
        with named_errors():
            async with while_wanted(request.receive, self._around.shutdown):
                await self._get_ready(request)
                answer = await start(ParsedRequest(request, body), config_hash=_config_hash(request))
                pump = Pump(_mend(answer.body_iterator))
                held = await _hold(pump, enough, self._around.settings.stream_hold)
        return EventStream(
            pump,
            held=held,
            render_error=_render_error,
            shutdown=self._around.shutdown,
            ping=self._around.settings.ping,
        )

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

    async def _read(self, request: Request, key: str) -> dict[str, Any]:
        if self._around.shutdown.begun:
            raise ShuttingDown
        body = await read_json(request, self._limits)
        if not isinstance(body, dict):
            raise InvalidInput(f'The body is an object with the key "{key}".', param="body")
        if key not in body:
            raise InvalidInput(f'The body lacks the key "{key}".', param=key)
        return cast("dict[str, Any]", body)

    def _check_input(self, value: Any, *place: str | int) -> None:
        """Refuse an input that the chain will not take, before its model is started for it."""
        messages: Any = cast("dict[str, Any]", value).get("messages") if isinstance(value, dict) else value
        if isinstance(messages, list) and len(cast("list[Any]", messages)) > self._limits.messages:
            raise TooLarge(f"More than {self._limits.messages} messages.", param=".".join(map(str, place)))
        try:
            self._input.model_validate(value)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_input=False), within=place) from error

    async def _get_ready(self, request: Request) -> None:
        settings = self._around.settings
        wished = _preferences(request).wait
        wait = settings.wait_ready if wished is None else wished
        await self._around.table.ensure_ready(self._model, min(wait, settings.wait_ready_max))


# --- batches -------------------------------------------------------------------------------


def _split(body: Mapping[str, Any], limit: int) -> list[Item]:
    """Return the batch as invokes: LangChain's own batch would start them all at once, or fail them all."""
    inputs: Any = body["inputs"]
    if not isinstance(inputs, list):
        raise InvalidInput("inputs: a list, one input for each answer.", param="inputs")
    count = len(cast("list[Any]", inputs))
    if count > limit:
        raise TooLarge(f"{count} inputs are more than {limit}.", hint="Send several batches.", param="inputs")
    configs = _configs(body.get("config"), count)
    return [
        Item({"input": value, "config": config}, ("inputs", index))
        for index, (value, config) in enumerate(zip(cast("list[Any]", inputs), configs, strict=True))
    ]


def _configs(config: Any, count: int) -> list[Any]:
    if not isinstance(config, list):
        return [config or {}] * count
    configs = cast("list[Any]", config)
    if len(configs) != count:
        raise InvalidInput(f"config: {len(configs)} configs for {count} inputs.", param="config")
    return configs


def _tolerates(body: Mapping[str, Any], preferences: Preferences) -> bool:
    """Tell whether each input answers for itself: ``"kwargs": {"return_exceptions": true}``, or the header.

    The header is for ``RemoteRunnable``, which refuses the argument but sends headers.
    """
    kwargs: Any = body.get("kwargs")
    asked = isinstance(kwargs, dict) and cast("dict[str, Any]", kwargs).get("return_exceptions") is True
    return asked or preferences.return_exceptions


async def _gather(answers: Iterable[Awaitable[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """Await all; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_await(answer)) for answer in answers]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def _await(answer: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
    return await answer


def _join(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return langserve's body for a batch."""
    responses = [answer["metadata"] for answer in answers]
    return {
        "output": [answer["output"] for answer in answers],
        "metadata": {"responses": responses, "run_ids": [response["run_id"] for response in responses]},
    }


def _item_error(error: Exception) -> Mapping[str, Any]:
    """Return an error in the place of an output, in the shape and with the status it would have alone."""
    named = name_error(error)
    body = {"error": {**describe(named), "status_code": meaning(named).status}}
    return {"output": body, "metadata": {"run_id": None, "feedback_tokens": []}}


# --- streams -------------------------------------------------------------------------------


async def _mend(events: AsyncGenerator[Mapping[str, Any], None]) -> AsyncGenerator[Event, None]:
    """Yield langserve's events; raise the error itself in place of its nameless ``error`` event.

    langserve yields that event for any exception, a cancellation included, and raises the exception when it is asked
    for one more.
    """
    finished = False
    try:
        async for event in events:
            if event["event"] == "error":
                finished = True
                await anext(events)
            yield Event(event["event"], event.get("data"))
        finished = True
    finally:
        if not finished:
            await _abandon(events)


async def _abandon(events: AsyncGenerator[Mapping[str, Any], None]) -> None:
    """End a generator that answers every exception, GeneratorExit too, with one more event."""
    with suppress(CallerLeft, StopAsyncIteration):
        await events.athrow(CallerLeft())
        await anext(events)


async def _hold(pump: Pump, enough: Wants, seconds: float) -> tuple[Event, ...]:
    try:
        return await pump.hold(enough, seconds)
    except BaseException:
        await pump.stop()
        raise


def _is_output(event: Event) -> bool:
    return event.name == "data"


def _logs_output(event: Event) -> bool:
    """Tell whether a patch of the run's log adds output of the chain or of a model."""
    if event.data is None:
        return True
    return any("/streamed_output" in operation["path"] for operation in json.loads(event.data)["ops"])


def _tells_output(event: Event) -> bool:
    """Tell whether an event carries output of the chain or of a model, rather than a step's start."""
    if event.data is None:
        return True
    told = json.loads(event.data)
    kind: str = told["event"]
    is_root = not told.get("parent_ids")
    return kind in _MODEL_OUTPUT or (is_root and not kind.endswith("_start"))


_MODEL_OUTPUT = frozenset({"on_chat_model_stream", "on_llm_stream", "on_chat_model_end", "on_llm_end"})


def _render_error(error: BaseException) -> Event:
    """Return the ``error`` event as RemoteRunnable reads it (status_code, message), with what else is known."""
    named = name_error(error)
    return Event("error", json.dumps({"status_code": meaning(named).status, **describe(named)}))


# --- requests ------------------------------------------------------------------------------


def _config_hash(request: Request) -> str:
    return request.path_params.get("config_hash", "")


def _preferences(request: Request) -> Preferences:
    return parse_preferences(request.headers.getlist("prefer"))


# --- routes --------------------------------------------------------------------------------

PLAYGROUND_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""langserve's pages carry their schemas in an inline script."""


def describe_routes(spec: ModelSpec) -> str:
    """Return what /docs says above one model's routes, as Markdown."""
    return (
        f"**{spec.display_name}**. {spec.metadata.description} "
        f"[Playground](/{spec.id}/playground/), [chat playground](/{spec.id}/chat/playground/). "
        f"Every route stands at `/{spec.id}/c/{{config_hash}}/…` too, with the configuration of a playground's share link."
    )


def create_router(spec: ModelSpec, chain: Chain, around: Surroundings) -> APIRouter:
    """Return every route of one model.

    The set stands at ``/{id}``, once more at ``/{id}/chat`` for the chat playground (its page calls the routes beside
    it), and below each at ``c/{config_hash}`` for links that carry a configuration.
    """
    router = APIRouter(tags=[spec.id])
    for prefix, playground in ((f"/{spec.id}", "default"), (f"/{spec.id}/chat", "chat")):
        routes = LangServeRoutes(spec, chain, around, prefix=prefix, playground=playground)
        shown = playground == "default"
        _add(router, routes, prefix, shown=shown)
        _add(router, routes, f"{prefix}/c/{{config_hash}}", shown=False)
    return router


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
