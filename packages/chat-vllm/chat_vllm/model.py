"""``ChatVLLM``: a LangChain chat model that speaks to a vLLM server and keeps what vLLM says.

Requests go through ``post`` of the openai SDK (key, retries, SSE) but not through its pydantic models: they know only
OpenAI's fields, and building and dumping one a token costs more than all the rest of the way.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Protocol, Self

import httpx2
import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import BaseModel, Field, SecretStr, model_validator
from typing_extensions import override

from chat_vllm.clients import ClientOptions, Lazy
from chat_vllm.errors import EngineStreamCutError, NotAnAnswerError, completion, typed_errors
from chat_vllm.events import DONE, EventSplitter, read_event, read_plain, refusal
from chat_vllm.messages import ChatOutput
from chat_vllm.structured import Method, Schema, Structured, structured_output
from chat_vllm.tokens import EngineTokens
from chat_vllm.wire import answer_info, has_finished, keep_chunk, keep_reasoning, request_body, take_options

PROVIDER = "vllm"
_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
PATH = "/chat/completions"
ASKED = httpx2.Request("POST", "http://engine.invalid/v1/chat/completions")
"""What errors of the openai SDK name where the request itself is not at hand."""
DEFAULT_TIMEOUT = httpx2.Timeout(600.0, connect=5.0)
"""Silence, not length: a stream may last for hours, but no longer than this between two pieces."""

VLLM_FIELDS = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "bad_words",
    "structured_outputs",
    "chat_template_kwargs",
    "include_reasoning",
    "thinking_token_budget",
    "return_token_ids",
    "prompt_logprobs",
    "priority",
)
"""Fields of ``ChatVLLM`` that vLLM adds to OpenAI's, named as in its protocol."""


class Answer(Protocol):
    """An engine's answer under way: its status is there, its body comes in pieces."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces of the body as they come; what ends it early is raised."""
        ...

    async def aclose(self) -> None:
        """Let the engine know that nobody reads on, where it has not finished."""
        ...


class Engine(Protocol):
    """A way to an engine that costs less than the openai SDK's: ``app/engines/engine.py`` has one."""

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a JSON body to ``path`` and return the answer once its status is there.

        Paths are below ``/v1``, but for vLLM's own ``/tokenize`` and ``/detokenize``, which stand beside it.
        """
        ...


class ChatVLLM(EngineTokens):
    """A chat model on a vLLM server.

    Building one does no I/O and reads no ``OPENAI_*`` variable; connections open at the first request and are shared
    with every copy. Errors: see ``chat_vllm.errors``.

    What it keeps beyond ``ChatOpenAI``, in ``invoke`` and in ``stream``:

    - reasoning, in ``additional_kwargs["reasoning_content"]`` and so as a reasoning block of ``content_blocks``;
    - ``response_metadata``: ``finish_reason``, ``stop_reason``, ``token_ids``, ``prompt_token_ids``, ``logprobs``;
    - ``usage_metadata`` of streams too.

    Example:
        >>> llm = ChatVLLM(model="smollm2", base_url="http://127.0.0.1:8000/v1", temperature=0, top_k=20)
        >>> llm.model_provider
        'vllm'
    """

    path: ClassVar[str] = PATH

    model_name: str = Field(alias="model", description="The name the server serves it by.")
    openai_api_key: SecretStr | Callable[[], str] | Callable[[], Awaitable[str]] | None = Field(
        default=SecretStr("EMPTY"), alias="api_key", description="Only a server started with --api-key reads it."
    )
    openai_api_base: str | None = Field(default="http://127.0.0.1:8000/v1", alias="base_url")
    openai_proxy: str | None = None
    request_timeout: float | tuple[float, float] | Any | None = Field(default=DEFAULT_TIMEOUT, alias="timeout")
    max_retries: int | None = 0
    stream_usage: bool | None = True
    stream_chunk_timeout: float | None = Field(
        default=None, exclude=True, description="Unused: the read time-out bounds silence, and costs no task a chunk."
    )
    use_responses_api: bool | None = False
    engine: Any = Field(
        default=None, exclude=True, repr=False, description="An Engine: asyncio requests go this way, not the SDK's."
    )

    top_k: int | None = Field(default=None, ge=-1, description="Sample among the k likeliest tokens; 0 or -1: all.")
    min_p: float | None = Field(default=None, ge=0, le=1, description="Least likelihood, relative to the likeliest.")
    repetition_penalty: float | None = Field(default=None, gt=0, description="Above 1 discourages repetition.")
    min_tokens: int | None = Field(default=None, ge=0, description="No end before so many tokens.")
    stop_token_ids: list[int] | None = Field(default=None, description="Token ids that end the answer.")
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = Field(default=None, description="Go on after the end token: for measurements.")
    bad_words: list[str] | None = Field(default=None, description="Words that are never generated.")
    structured_outputs: dict[str, Any] | None = Field(
        default=None, description="Constrain the answer: one of json, regex, choice, grammar, structural_tag."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Arguments of the chat template, as {'enable_thinking': False} for Qwen3."
    )
    include_reasoning: bool | None = None
    thinking_token_budget: int | None = None
    return_token_ids: bool | None = Field(default=None, description="Put token_ids into response_metadata.")
    prompt_logprobs: int | None = None
    priority: int | None = None

    # --- construction ------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    @override
    def validate_temperature(cls, values: dict[str, Any]) -> Any:
        """No rule of OpenAI's models by name: a served model may be called anything."""
        return values

    @model_validator(mode="after")
    @override
    def validate_environment(self) -> Self:
        """Prepare the clients; unlike the base class, neither open them nor look at the environment."""
        if self.client is None:
            root = Lazy(self._client_options().sync_client)
            self.root_client, self.client = root, Lazy(lambda: root.chat.completions)
        if self.async_client is None:
            root_async = Lazy(self._client_options().async_client)
            self.root_async_client, self.async_client = root_async, Lazy(lambda: root_async.chat.completions)
        return self

    def _client_options(self) -> ClientOptions:
        key = self.openai_api_key
        return ClientOptions(
            base_url=self.openai_api_base or "",
            api_key=key.get_secret_value() if isinstance(key, SecretStr) else "EMPTY",
            timeout=self.request_timeout,
            max_retries=self.max_retries or 0,
            headers=self.default_headers or {},
            query=self.default_query or {},
            http_client=self.http_client,
            http_async_client=self.http_async_client,
        )

    # --- requests ----------------------------------------------------------------------

    @property
    @override
    def _default_params(self) -> dict[str, Any]:
        """The instance's own settings, vLLM's fields among them."""
        ours = {name: getattr(self, name) for name in VLLM_FIELDS}
        return {**super()._default_params, **{name: value for name, value in ours.items() if value is not None}}

    @override
    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The JSON body of a request."""
        messages = self._convert_input(input_).to_messages()
        written: Any = super()._get_request_payload(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            messages, stop=stop, **kwargs
        )
        return request_body(messages, written)

    def _stream_payload(
        self, messages: list[BaseMessage], stop: list[str] | None, *, stream_usage: bool | None, **kwargs: Any
    ) -> dict[str, Any]:
        """The body of a streaming request, with the usage in its last chunk."""
        if self._should_stream_usage(stream_usage, **kwargs):
            kwargs["stream_options"] = {**(kwargs.get("stream_options") or {}), "include_usage": True}
        payload = self._get_request_payload(messages, stop=stop, **{**kwargs, "stream": True})
        if (payload.get("n") or 1) > 1:
            msg = "n > 1 can't be streamed: the answers would be mixed up. Use invoke, or batch."
            raise ValueError(msg)
        return payload

    # --- the four ways to ask ------------------------------------------------------------

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        payload = self._get_request_payload(messages, stop=stop, **{**kwargs, "stream": False})
        options = take_options(payload)
        with typed_errors():
            response = self.root_client.post(self.path, cast_to=object, body=payload, options=options)
        return self._create_chat_result(completion(response))

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        payload = self._get_request_payload(messages, stop=stop, **{**kwargs, "stream": False})
        options = take_options(payload)
        if self.engine is not None and not options:
            return self.read_answer(await self._read_whole(payload))
        with typed_errors():
            response = await self.root_async_client.post(self.path, cast_to=object, body=payload, options=options)
        return self._create_chat_result(completion(response))

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        stream_usage: bool | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        payload = self._stream_payload(messages, stop, stream_usage=stream_usage, **kwargs)
        options = take_options(payload)
        with (
            typed_errors(),
            self.root_client.post(
                self.path, cast_to=object, body=payload, options=options, stream=True, stream_cls=openai.Stream[object]
            ) as events,
        ):
            finished = False
            for event in events:
                chunk = self._convert_chunk_to_generation_chunk(event, AIMessageChunk, None)
                if chunk is None:
                    continue
                finished = finished or has_finished(chunk)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            require_finish(events.response.request, finished=finished)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        stream_usage: bool | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        payload = self._stream_payload(messages, stop, stream_usage=stream_usage, **kwargs)
        options = take_options(payload)
        if self.engine is not None and not options:
            async with aclosing(self._read_stream(payload)) as chunks:
                async for chunk in chunks:
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
            return
        with typed_errors():
            async with await self.root_async_client.post(
                self.path,
                cast_to=object,
                body=payload,
                options=options,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            ) as events:
                finished = False
                async for event in events:
                    chunk = self._convert_chunk_to_generation_chunk(event, AIMessageChunk, None)
                    if chunk is None:
                        continue
                    finished = finished or has_finished(chunk)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                require_finish(events.response.request, finished=finished)

    # --- the short way ---------------------------------------------------------------------

    async def _read_stream(self, payload: dict[str, Any]) -> AsyncGenerator[ChatGenerationChunk, None]:
        finished, splitter = False, EventSplitter()
        async with aclosing(await self.ask(payload)) as answer:
            async for piece in answer:
                for event in splitter.feed(piece):
                    if event.startswith(DONE):
                        require_finish(None, finished=finished)
                        return
                    chunk = self.read_chunk(event)
                    if chunk is not None:
                        finished = finished or has_finished(chunk)
                        yield chunk
        require_finish(None, finished=finished)

    async def _read_whole(self, payload: dict[str, Any]) -> bytes:
        async with aclosing(await self.ask(payload)) as answer:
            return b"".join([piece async for piece in answer])

    async def ask(self, payload: dict[str, Any], path: str | None = None) -> Answer:
        """Send a body the short way, to ``path`` or where this model's answers are, and return the answer.

        Raises:
            ModelError: The engine refuses; see ``chat_vllm.errors``.
        """
        key = self.openai_api_key
        secret = key.get_secret_value() if isinstance(key, SecretStr) else "EMPTY"
        headers = {"Authorization": f"Bearer {secret}", **(self.default_headers or {})}
        body = _write(payload).encode()
        engine: Engine = self.engine
        answer = await engine.post(path or self.path, body, headers)
        if answer.status_code < 400:  # noqa: PLR2004
            return answer
        async with aclosing(answer):
            raise refusal(answer.status_code, b"".join([piece async for piece in answer]))

    @override
    async def _aask_beside(self, path: str, body: dict[str, Any]) -> Any:
        if self.engine is None:
            return await super()._aask_beside(path, body)
        async with aclosing(await self.ask(body, path)) as answer:
            content = b"".join([piece async for piece in answer])
        try:
            return json.loads(content)
        except ValueError:
            return None

    @property
    def answers_short(self) -> bool:
        """Whether asyncio requests may go the short way, with nothing around them that a request has to pass."""
        plain = self.disable_streaming is False and self.rate_limiter is None and self.output_version is None
        return self.engine is not None and plain and self.cache is None and not self.model_fields_set & {"streaming"}

    def stream_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The body of a streaming request, as ``astream`` sends it."""
        return self._stream_payload(self._convert_input(input_).to_messages(), stop, stream_usage=None, **kwargs)

    def whole_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The body of a request, as ``ainvoke`` sends it."""
        written: dict[str, Any] = self._get_request_payload(input_, stop=stop, **{**kwargs, "stream": False})
        return written

    def read_chunk(self, event: bytes) -> ChatGenerationChunk | None:
        """One event's data as a LangChain chunk; None where it says nothing.

        Raises:
            EngineStreamError: It reports an error.
        """
        plain = read_plain(event)
        if plain is None:
            return self._convert_chunk_to_generation_chunk(read_event(event), AIMessageChunk, None)
        text, reasoning = plain
        more = {"reasoning_content": reasoning} if reasoning else {}
        message = AIMessageChunk(content=text, additional_kwargs=more, response_metadata={"model_provider": PROVIDER})
        return ChatGenerationChunk(message=message)

    def read_answer(self, body: bytes) -> ChatResult:
        """The body of a whole answer as LangChain's result.

        Raises:
            NotAnAnswerError: It is none.
        """
        try:
            answer: Any = json.loads(body)
        except ValueError:
            raise NotAnAnswerError(f"Not a chat completion: {body[:200].decode(errors='replace')}") from None
        return self._create_chat_result(completion(answer))

    # --- answers -------------------------------------------------------------------------

    @override
    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        """One SSE event as a LangChain chunk, with what the base class leaves out."""
        refuse_aborted(chunk)
        made = super()._convert_chunk_to_generation_chunk(  # pyright: ignore[reportUnknownMemberType]
            chunk, default_chunk_class, base_generation_info
        )
        if made is not None:
            keep_chunk(made, chunk, PROVIDER)
        return made

    @override
    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        """A whole answer, with what the base class leaves out."""
        result = super()._create_chat_result(  # pyright: ignore[reportUnknownMemberType]
            response, generation_info
        )
        body = response if isinstance(response, dict) else response.model_dump()
        refuse_aborted(body)
        for generation, choice in zip(result.generations, body["choices"], strict=True):
            keep_reasoning(generation.message, choice["message"])
            generation.generation_info = answer_info(body, choice)
        result.llm_output = {**(result.llm_output or {}), "model_provider": PROVIDER}
        return result

    # --- what a chat model offers ----------------------------------------------------------

    @override
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model.

        A forced call (``tool_choice`` a name, "any", "required" or True) is ``strict`` unless told otherwise: only then
        does vLLM hold the arguments to their schema, and small models need it.
        """
        forced = bool(tool_choice) and tool_choice not in ("auto", "none")
        return super().bind_tools(  # pyright: ignore[reportUnknownMemberType]
            tools, tool_choice=tool_choice, strict=True if strict is None and forced else strict, **kwargs
        )

    @override
    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Structured]:
        """A runnable whose answers follow a schema; see ``chat_vllm.structured.structured_output``."""
        return structured_output(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    @override
    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The output is a message of the model."""
        return ChatOutput

    @property
    def model_provider(self) -> str:
        """The provider's name in ``response_metadata``."""
        return PROVIDER

    @property
    @override
    def _llm_type(self) -> str:
        return "chat-vllm"

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    @override
    def _resolve_model_profile(self) -> ModelProfile | None:
        return None  # the base class would look the name up among OpenAI's models


def require_finish(request: httpx2.Request | None, *, finished: bool) -> None:
    """Raise if a stream ended before the answer did: half an answer never passes for a whole one."""
    if not finished:
        raise EngineStreamCutError(message="The stream ended before the answer was complete.", request=request or ASKED)


def refuse_aborted(said: Mapping[str, Any]) -> None:
    """Raise if the engine gave the answer up: so a vLLM that is shut down or put to sleep ends what it has begun."""
    if any(choice.get("finish_reason") == "abort" for choice in said.get("choices") or ()):
        raise EngineStreamCutError(message="The engine gave up before the answer was complete.", request=ASKED)
