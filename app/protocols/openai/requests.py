"""OpenAI's requests, parsed: what a body may say, and the ``ChatRequest`` it means.

Fields follow https://platform.openai.com/docs/api-reference and vLLM's additions to it. A field nobody knows is an
error that names it; ``IGNORED`` are those that change nothing here, ``UNSUPPORTED_*`` those that would have to.
"""

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidInput
from app.protocols.chat_request import ChatRequest
from app.protocols.delivery import session_of, wait_of
from app.protocols.turns import read_turns

USE_RAW = "only the engine has it: ask for '<model>:raw'."
UNSUPPORTED_CHAT = {
    "audio": "this service speaks no audio.",
    "functions": "replaced by tools.",
    "function_call": "replaced by tool_choice.",
    "web_search_options": "this service does not search the web.",
    "store": "answers are not stored here; a session_id in metadata keeps the conversation.",
}
UNSUPPORTED_TEXT = {
    "suffix": "no model here fills gaps.",
    "best_of": "ask for n answers instead.",
    "echo": USE_RAW,
    "logprobs": USE_RAW,
}
IGNORED = ("service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction", "verbosity")


class Body(BaseModel):
    """Fields that every request for text has."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="`id` for the chain, `id:raw` for the engine.")
    n: int = 1
    stream: bool | None = None
    stream_options: "StreamOptions | None" = None
    metadata: dict[str, Any] | None = Field(None, description="`session_id`: the conversation that memory continues.")
    user: str | None = None

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    structured_outputs: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
    verbosity: Any = None


class StreamOptions(BaseModel):
    """How a stream is told."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(Body):
    """``POST /v1/chat/completions``."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None


class TextBody(Body):
    """``POST /v1/completions``."""

    prompt: str | list[str]


OPTIONS = frozenset({
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "max_tokens", "min_tokens", "seed", "stop_token_ids", "bad_words", "ignore_eos", "logit_bias",
    "structured_outputs", "tools", "tool_choice", "parallel_tool_calls", "logprobs", "top_logprobs",
    "chat_template_kwargs",
})  # fmt: skip


def read_chat(body: ChatBody, request: Request) -> ChatRequest:
    """Return what a chat completion asks.

    Raises:
        InvalidInput: A message or an option does not fit.
    """
    return ChatRequest(
        model=body.model,
        messages=read_turns(body.messages),
        options=read_options(body),
        names={"max_tokens": "max_completion_tokens"} if body.max_completion_tokens is not None else {},
        **_common(body, request),
    )


def read_text(body: TextBody, request: Request) -> list[ChatRequest]:
    """Return what a completion asks: one question for each prompt.

    Raises:
        InvalidInput: No prompt, or an option does not fit.
    """
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise InvalidInput("prompt: give at least one.", param="prompt")
    options, common = read_options(body), _common(body, request)
    return [ChatRequest(model=body.model, prompt=prompt, options=options, **common) for prompt in prompts]


def _common(body: Body, request: Request) -> dict[str, Any]:
    return {
        "n": body.n,
        "stream": bool(body.stream),
        "session": session_of(request, (body.metadata or {}).get("session_id")),
        "user": body.user,
        "wait": wait_of(request),
    }


def read_options(body: Body) -> dict[str, Any]:
    """Return the options that a body says, by our names."""
    options: dict[str, Any] = {name: value for name in OPTIONS if (value := getattr(body, name, None)) is not None}
    if body.stop is not None:
        options["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    if body.response_format is not None:
        options["response_format"] = read_format(body.response_format)
    if isinstance(body, ChatBody):
        if body.max_completion_tokens is not None:
            options["max_tokens"] = body.max_completion_tokens
        if body.reasoning_effort is not None:
            options["thinking"] = body.reasoning_effort != "none"
    return options


def read_format(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response format as vLLM takes it.

    ``huggingface_hub`` writes TGI's form: ``{"type": "json_object", "value": schema}``, or ``"json"``.

    Raises:
        InvalidInput: It is no format.
    """
    kind, value = told.get("type"), told.get("value")
    if kind in ("json", "json_object") and isinstance(value, Mapping):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(value)}}  # pyright: ignore[reportUnknownArgumentType]
    if kind not in ("text", "json_object", "json_schema", "structural_tag"):
        raise InvalidInput(
            "response_format.type: one of text, json_object, json_schema, structural_tag.", param="response_format"
        )
    if kind == "json_schema" and not isinstance(told.get("json_schema"), Mapping):
        raise InvalidInput("response_format.json_schema: name and schema.", param="response_format.json_schema")
    return dict(told)
