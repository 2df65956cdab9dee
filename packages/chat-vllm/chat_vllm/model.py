"""``ChatVLLM``: a LangChain chat model that speaks to a vLLM server and keeps what vLLM says.

Wire format: vLLM's ``/v1/chat/completions`` (``vllm/entrypoints/openai/chat_completion/protocol.py``), which is
OpenAI's with more fields. Requests go through ``post`` of the openai SDK (key, retries, SSE) without its pydantic
models, which would drop those fields and cost more than everything else per token.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import httpx2
import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, LangSmithParams, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel, Field, SecretStr, model_validator
from typing_extensions import override

from chat_vllm.clients import ClientOptions, Lazy
from chat_vllm.errors import EngineStreamCutError, typed_errors
from chat_vllm.messages import ChatOutput
from chat_vllm.structured import Method, Schema, Structured, json_schema_format, structured_output

PROVIDER = "vllm"
PATH = "/chat/completions"
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

CHOICE_FIELDS = ("stop_reason", "token_ids")
RESPONSE_FIELDS = ("prompt_token_ids", "prompt_logprobs", "metrics")
REQUEST_OPTIONS = {"extra_headers": "headers", "extra_query": "params", "timeout": "timeout"}


class ChatVLLM(BaseChatOpenAI):
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
        """The JSON body of a request; ``extra_body`` is folded in, schemas are written out."""
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        payload.update(payload.pop("extra_body", None) or {})
        if ignored := [name for name in payload if name.startswith("guided_")]:
            msg = f"vLLM ignores {', '.join(ignored)}; structured_outputs takes json, choice, regex and grammar."
            raise ValueError(msg)
        if "response_format" in payload:
            payload["response_format"] = json_schema_format(payload["response_format"])
        return payload

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
            response = self.root_client.post(PATH, cast_to=object, body=payload, options=options)
        return self._create_chat_result(response)

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
        with typed_errors():
            response = await self.root_async_client.post(PATH, cast_to=object, body=payload, options=options)
        return self._create_chat_result(response)

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
                PATH, cast_to=object, body=payload, options=options, stream=True, stream_cls=openai.Stream[object]
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
        with typed_errors():
            async with await self.root_async_client.post(
                PATH, cast_to=object, body=payload, options=options, stream=True, stream_cls=openai.AsyncStream[object]
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

    # --- answers -------------------------------------------------------------------------

    @override
    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        """One SSE event as a LangChain chunk, with what the base class leaves out."""
        made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if made is None:
            return None
        info = present(chunk, RESPONSE_FIELDS)
        if choices := chunk.get("choices"):
            keep_reasoning(made.message, choices[0]["delta"])
            made.message.response_metadata["model_provider"] = PROVIDER
            info.update(present(choices[0], CHOICE_FIELDS))
            if choices[0].get("finish_reason"):
                info["id"] = chunk.get("id")
        if info:
            made.generation_info = {**(made.generation_info or {}), **info}
        return made

    @override
    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        """A whole answer, with what the base class leaves out."""
        result = super()._create_chat_result(response, generation_info)
        body = response if isinstance(response, dict) else response.model_dump()
        for generation, choice in zip(result.generations, body["choices"], strict=True):
            keep_reasoning(generation.message, choice["message"])
            generation.generation_info = {
                **present(body, RESPONSE_FIELDS),
                **present(choice, ("finish_reason", "logprobs", *CHOICE_FIELDS)),
            }
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
        return super().bind_tools(
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

    # --- tokens, counted by the engine -----------------------------------------------------

    @override
    def get_token_ids(self, text: str) -> list[int]:
        """The engine's token ids of a text; one request to ``/tokenize``."""
        return self._tokenize({"prompt": text, "add_special_tokens": False})["tokens"]

    @override
    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        **kwargs: Any,
    ) -> int:
        """Tokens of a conversation as the model will see it; one request to ``/tokenize``."""
        return self._tokenize(self._conversation(messages, tools))["count"]

    async def aget_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """As ``get_num_tokens_from_messages``, without blocking."""
        body = self._conversation(messages, tools)
        with typed_errors():
            answer = await self.root_async_client.post(self._tokenize_url(), cast_to=object, body=body)
        return answer["count"]

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        with typed_errors():
            return self.root_client.post(self._tokenize_url(), cast_to=object, body={"model": self.model_name, **body})

    def _tokenize_url(self) -> str:
        """``/tokenize`` stands beside ``/v1``, not below it."""
        return (self.openai_api_base or "").rstrip("/").removesuffix("/v1") + "/tokenize"

    def _conversation(self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None) -> dict[str, Any]:
        bound = {"tools": [convert_to_openai_tool(tool) for tool in tools]} if tools else {}
        payload = self._get_request_payload(list(messages), **bound)
        wanted = ("model", "messages", "tools", "chat_template_kwargs")
        return {name: payload[name] for name in wanted if name in payload}


def take_options(payload: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the HTTP request out of its body, where LangChain's keyword arguments put them."""
    return {ours: payload.pop(theirs) for theirs, ours in REQUEST_OPTIONS.items() if theirs in payload}


def present(source: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named fields that have a value."""
    return {name: source[name] for name in names if source.get(name) is not None}


def keep_reasoning(message: BaseMessage, source: Mapping[str, Any]) -> None:
    """Put reasoning where ``content_blocks`` looks for it; vLLM names it ``reasoning``, older ones otherwise."""
    if reasoning := source.get("reasoning") or source.get("reasoning_content"):
        message.additional_kwargs["reasoning_content"] = reasoning


def has_finished(chunk: ChatGenerationChunk) -> bool:
    """Whether the engine called the answer complete."""
    return bool(chunk.generation_info) and "finish_reason" in chunk.generation_info


def require_finish(request: Any, *, finished: bool) -> None:
    """Raise if a stream ended before the answer did: half an answer never passes for a whole one."""
    if not finished:
        raise EngineStreamCutError(message="The stream ended before the answer was complete.", request=request)
