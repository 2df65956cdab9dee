"""The image model: a Runnable on ``POST /v1/images/generations`` of a vLLM-Omni server.

The API is vLLM-Omni's (``vllm_omni/entrypoints/openai/protocol/images.py``): OpenAI's with more fields, one answer in
one piece. Several pictures are asked for one by one, each with its own seed: so the first is there while the second is
drawn, a request that is given up frees the engine after the picture at hand, and each can be drawn again alone.
"""

import asyncio
import base64
import binascii
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import httpx2
from chat_vllm import ChatOutput, NotAnAnswerError
from chat_vllm.clients import ClientOptions, Lazy
from chat_vllm.errors import typed_errors
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import ensure_config
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError
from typing_extensions import override

from image_generation.picture import Picture, read_picture
from image_generation.request import LARGEST_SEED, Drawing, ImageInput, ImageLimits, limited_fields, limited_input

PATH = "/images/generations"
DEFAULT_TIMEOUT = httpx2.Timeout(600.0, connect=5.0)
RANDOM_SEEDS = 2**31
Keep = Callable[[Picture], str]
Wanted = Mapping[str, Any]
"""One picture's parameters: what its request says."""


class ImageModel(RunnableSerializable[Any, AIMessage]):
    """An image model on a vLLM-Omni server. Building one does no I/O; connections open at the first request.

    ``invoke`` gives an ``AIMessage`` with an image block for each picture, ``stream`` a chunk with one each as it is
    drawn. Every field of ``Drawing`` may come with the input, else in ``config["configurable"]``, else from
    ``drawing``. Errors: those of ``chat_vllm.errors``; what is beyond ``limits`` is a ``ModelInvalidRequestError``.

    Example:
        >>> model = ImageModel(model="emoji-32", base_url="http://127.0.0.1:8000/v1")
        >>> model.invoke({"prompt": "a red apple", "n": 2})  # doctest: +SKIP
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model_name: str = Field(alias="model", description="The name the server serves it by.")
    base_url: str = "http://127.0.0.1:8000/v1"
    api_key: SecretStr = SecretStr("EMPTY")
    drawing: Drawing = Drawing.model_validate({})
    """What holds where a request says nothing."""
    limits: ImageLimits = ImageLimits()
    keep: Keep | None = Field(default=None, exclude=True)
    """Called with every picture, in a thread; returns the URL it is kept at, which the block's ``extras`` then name."""
    timeout: Any = Field(default=DEFAULT_TIMEOUT, exclude=True)
    """Of silence, and a picture is silent until it is drawn."""
    http_async_client: Any = Field(default=None, exclude=True)

    _input: type[ImageInput] = PrivateAttr()
    _client: Any = PrivateAttr()
    _async_client: Any = PrivateAttr()

    @override
    def model_post_init(self, context: Any, /) -> None:
        """Prepare the clients, without opening them."""
        options = ClientOptions(
            base_url=self.base_url,
            api_key=self.api_key.get_secret_value(),
            timeout=self.timeout,
            max_retries=0,
            headers={},
            query={},
            http_async_client=self.http_async_client,
        )
        self._input = limited_input(self.limits)
        self._input.model_validate({"prompt": "a default beyond the limits is refused", **self.drawing.model_dump()})
        self._client, self._async_client = Lazy(options.sync_client), Lazy(options.async_client)

    # --- what it takes and gives ---------------------------------------------------------

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """A prompt, and how to draw it, within the model's limits."""
        return self._input

    @override
    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """A message with image blocks."""
        return ChatOutput

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """How to draw, for requests that say it in their config."""
        narrowed = limited_fields(self.limits)
        return [
            ConfigurableFieldSpec(
                id=name,
                annotation=narrowed.get(name, field.rebuild_annotation()),
                name=field.title,
                description=field.description,
                default=getattr(self.drawing, name),
            )
            for name, field in Drawing.model_fields.items()
        ]

    # --- drawing -------------------------------------------------------------------------

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Draw, and return when every picture is there."""
        return self._call_with_config(self._draw, input, config)

    @override
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Draw, and return when every picture is there; cancelled, the engine is let go after the one at hand."""
        return await self._acall_with_config(self._adraw, input, config)

    @override
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[AIMessage]:
        """Draw, one chunk a picture."""
        yield from self._transform_stream_with_config(iter([input]), self._drawn, config)

    @override
    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessage]:
        """Draw, one chunk a picture."""
        pieces = self._atransform_stream_with_config(_once(input), self._adrawn, config)
        async for piece in pieces:
            yield piece

    def _draw(self, value: Any, run_manager: Any, config: RunnableConfig) -> AIMessage:  # noqa: ARG002 -- as langchain-core calls it
        return self._message([self._block(self._ask(wanted), wanted) for wanted in self.wanted(value, config)])

    async def _adraw(self, value: Any, run_manager: Any, config: RunnableConfig) -> AIMessage:  # noqa: ARG002 -- likewise
        return self._message([await self._ablock(wanted) for wanted in self.wanted(value, config)])

    def _drawn(  # langchain-core passes a run manager
        self,
        values: Iterator[Any],
        run_manager: Any,  # noqa: ARG002 -- likewise
        config: RunnableConfig,
    ) -> Iterator[AIMessage]:
        for value in values:
            for wanted in self.wanted(value, config):
                yield AIMessageChunk(content=[self._block(self._ask(wanted), wanted)])
        yield self._last()

    async def _adrawn(
        self,
        values: AsyncIterator[Any],
        run_manager: Any,  # noqa: ARG002 -- likewise
        config: RunnableConfig,
    ) -> AsyncIterator[AIMessage]:
        async for value in values:
            for wanted in self.wanted(value, config):
                yield AIMessageChunk(content=[await self._ablock(wanted)])
        yield self._last()

    def wanted(self, value: Any, config: RunnableConfig | None = None) -> list[Wanted]:
        """The parameters of each picture that an input asks for.

        Raises:
            ModelInvalidRequestError: It is no ``ImageInput``, or beyond the limits.
        """
        told = ensure_config(config).get("configurable") or {}
        try:
            asked = self._input.model_validate(dict(value) if isinstance(value, Drawing) else value)
            configured = Drawing.model_validate({name: told[name] for name in Drawing.model_fields if name in told})
            said = {
                **self.drawing.model_dump(exclude_none=True),
                **configured.model_dump(exclude_none=True),
                **asked.model_dump(exclude_none=True),
            }
            self._input.model_validate(said)
        except ValidationError as error:
            raise ModelInvalidRequestError(_sentence(error)) from error
        count, seed = said.pop("n", 1), said.pop("seed", None)
        first = secrets.randbelow(RANDOM_SEEDS) if seed is None else seed
        return [
            {"model": self.model_name, **said, "seed": (first + number) % (LARGEST_SEED + 1)} for number in range(count)
        ]

    # --- the engine ----------------------------------------------------------------------

    def _ask(self, wanted: Wanted) -> Any:
        with typed_errors():
            return self._client.post(PATH, cast_to=object, body=_body(wanted))

    async def _aask(self, wanted: Wanted) -> Any:
        with typed_errors():
            return await self._async_client.post(PATH, cast_to=object, body=_body(wanted))

    async def _ablock(self, wanted: Wanted) -> dict[str, Any]:
        answer = await self._aask(wanted)
        return await asyncio.to_thread(self._block, answer, wanted)

    def _block(self, answer: Any, wanted: Wanted) -> dict[str, Any]:
        picture = _picture(answer, wanted)
        return picture.block(self.keep(picture) if self.keep else None)

    # --- the answer ----------------------------------------------------------------------

    def _message(self, blocks: list[Any]) -> AIMessage:
        return AIMessage(blocks, response_metadata=self._metadata())

    def _last(self) -> AIMessageChunk:
        return AIMessageChunk(content=[], response_metadata=self._metadata(), chunk_position="last")

    def _metadata(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "model_provider": "vllm", "finish_reason": "stop"}


def _body(wanted: Wanted) -> dict[str, Any]:
    """The request for one picture."""
    return {**wanted, "n": 1, "response_format": "b64_json"}


def _picture(answer: Any, wanted: Wanted) -> Picture:
    """The one picture of an answer."""
    try:
        data = base64.b64decode(answer["data"][0]["b64_json"], validate=True)
        return read_picture(data, wanted)
    except (LookupError, TypeError, ValueError, binascii.Error) as error:
        msg = "The engine's answer holds no picture."
        raise NotAnAnswerError(msg) from error


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong, with its place; never the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


async def _once(value: Any) -> AsyncIterator[Any]:
    yield value
