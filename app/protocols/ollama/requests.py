"""Ollama's requests, parsed: chat, generate and embed, and the ``ChatRequest`` they mean.

Follows https://github.com/ollama/ollama/blob/main/docs/api.md.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidInput
from app.protocols.chat_request import ChatRequest
from app.protocols.delivery import session_of, wait_of
from app.protocols.turns import read_turns

UNSUPPORTED_GENERATE = {
    "suffix": "no model here fills gaps.",
    "template": "a model's chat template is its own; 'raw' goes without.",
    "context": "send the turns to /api/chat instead.",
}
OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
    "num_predict": "max_tokens",
}
"""Ollama's options by our names."""
IGNORED_OPTIONS = frozenset({
    "num_ctx", "num_batch", "num_gpu", "num_thread", "num_keep", "main_gpu", "low_vram", "f16_kv", "numa", "use_mmap",
    "use_mlock", "vocab_only", "logits_all", "embedding_only", "penalize_newline", "repeat_last_n", "draft_num_predict",
})  # fmt: skip
"""How Ollama loads and places a model: the plan's matter here."""
NAMES = {ours: f"options.{theirs}" for theirs, ours in OPTIONS.items()} | {"response_format": "format"}
PICTURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


class Asking(BaseModel):
    """What every request has."""

    model_config = ConfigDict(extra="forbid")

    model: str
    options: dict[str, Any] | None = None
    keep_alive: Any = Field(None, description="Ignored: models.json says how long a model stays.")


class Generating(Asking):
    """What chat and generate have."""

    stream: bool = True
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ChatBody(Generating):
    """``POST /api/chat``."""

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateBody(Generating):
    """``POST /api/generate``."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None


class EmbedBody(Asking):
    """``POST /api/embed``."""

    input: str | list[str]
    truncate: bool | None = None
    dimensions: int | None = None


class EmbeddingsBody(Asking):
    """``POST /api/embeddings``, the old form of embed."""

    prompt: str


class ShowBody(BaseModel):
    """``POST /api/show``."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    name: str = Field("", description="The field's old name.")
    verbose: bool | None = None


def read_chat(body: ChatBody, request: Request) -> ChatRequest:
    """Return what a chat asks.

    Raises:
        InvalidInput: A message or an option does not fit.
    """
    options = read_options(body)
    if body.tools:
        options["tools"] = body.tools
    return ChatRequest(
        model=body.model, messages=read_turns(_turns(body.messages or [])), options=options, **_common(body, request)
    )


def read_generate(body: GenerateBody, request: Request) -> ChatRequest:
    """Return what a generation asks: a user's turn, or with ``raw`` the beginning of a text.

    Raises:
        InvalidInput: An image or an option does not fit.
    """
    options, common = read_options(body), _common(body, request)
    if body.raw:
        model = body.model.partition(":")[0]
        return ChatRequest(model=f"{model}:raw", prompt=body.prompt or "", options=options, **common)
    system = [{"role": "system", "content": body.system}] if body.system else []
    turn = {"role": "user", "content": body.prompt or "", "images": body.images}
    return ChatRequest(model=body.model, messages=read_turns(_turns([*system, turn])), options=options, **common)


def _common(body: Generating, request: Request) -> dict[str, Any]:
    return {"names": NAMES, "stream": body.stream, "session": session_of(request), "wait": wait_of(request)}


def read_options(body: Generating) -> dict[str, Any]:
    """Return the options that a body says, by our names.

    Raises:
        InvalidInput: An option that nothing here does; named.
    """
    options: dict[str, Any] = {}
    for name, value in (body.options or {}).items():
        if name in OPTIONS and value is not None:
            options[OPTIONS[name]] = value
        elif name not in IGNORED_OPTIONS and value is not None:
            raise InvalidInput(f"options.{name}: vLLM has no such option.", param=f"options.{name}")
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    if isinstance(options.get("max_tokens"), int) and options["max_tokens"] < 0:
        del options["max_tokens"]  # -1: as long as it likes
    if body.format:
        options["response_format"] = read_format(body.format)
    if body.think is not None:
        options["thinking"] = body.think is not False
    if body.logprobs:
        options |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    return options


def read_format(told: str | dict[str, Any]) -> dict[str, Any]:
    """Return ``"json"`` or a schema as a response format."""
    if isinstance(told, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": told}}


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages in OpenAI's form. Ollama's calls have no ids: results answer them by name, then in order."""
    turns: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        turn: dict[str, Any] = {"role": message.get("role"), "content": message.get("content") or ""}
        if message.get("images"):
            turn["content"] = _with_pictures(turn["content"], message["images"], place)
        if message.get("tool_calls"):
            turn["tool_calls"] = _calls(message["tool_calls"], place)
            waiting = [(call["id"], call["function"]["name"]) for call in turn["tool_calls"]]
        if message.get("thinking"):
            turn["reasoning_content"] = message["thinking"]
        if turn["role"] == "tool":
            answered = _answered(message, waiting, place)
            waiting.remove(answered)
            turn["tool_call_id"] = answered[0]
        turns.append(turn)
    return turns


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidInput(f"{place}.tool_calls: a list.", param=f"{place}.tool_calls")
    return [
        _call(call, f"{place}.tool_calls.{index}", f"call_{place.removeprefix('messages.')}_{index}")
        for index, call in enumerate(cast("list[Any]", calls))
    ]


def _call(call: Any, place: str, usual: str) -> dict[str, Any]:
    told = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    given: Any = told.get("function")
    function = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    name = function.get("name")
    if not isinstance(name, str):
        raise InvalidInput(f"{place}.function.name: the function's name.", param=f"{place}.function")
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {
        "id": str(told.get("id") or usual),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _answered(message: Mapping[str, Any], waiting: Sequence[tuple[str, str]], place: str) -> tuple[str, str]:
    """Return the call that a result answers."""
    wanted = message.get("tool_call_id")
    name = message.get("tool_name") or message.get("name")
    fitting = [call for call in waiting if call[0] == wanted] or [call for call in waiting if call[1] == name]
    if not (fitting or waiting):
        raise InvalidInput(f"{place}: a tool's result without a call before it.", param=place)
    return (fitting or [*waiting])[0]


def _with_pictures(text: str, images: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(images, list):
        raise InvalidInput(f"{place}.images: a list.", param=f"{place}.images")
    urls = [picture_url(image, f"{place}.images.{index}") for index, image in enumerate(cast("list[Any]", images))]
    return [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]


def picture_url(image: Any, place: str) -> str:
    """Return a picture in base64 as a ``data:`` URL; its first bytes tell its kind.

    Raises:
        InvalidInput: It is no picture that models take.
    """
    if isinstance(image, str) and image.startswith("data:image/"):
        return image
    try:
        beginning = base64.b64decode(image[:16], validate=True) if isinstance(image, str) else b""
    except (binascii.Error, ValueError):
        beginning = b""
    kind = next((kind for sign, kind in PICTURES.items() if beginning.startswith(sign)), None)
    if kind is None:
        raise InvalidInput(f"{place}: a PNG, JPEG, WebP or GIF in base64.", param=place)
    return f"data:image/{kind};base64,{image}"
