"""Anthropic's requests, parsed: a body of the Messages API, and the ``ChatRequest`` it means.

Follows https://docs.anthropic.com/en/api/messages. Contents become OpenAI's form, which ``turns.py`` checks.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidInput
from app.protocols.chat_request import ChatRequest
from app.protocols.delivery import session_of, wait_of
from app.protocols.turns import read_turns

UNSUPPORTED = {
    "container": "this service runs no code for you.",
    "mcp_servers": "tools of MCP servers belong to chains here.",
    "context_management": "the conversation is taken as it is sent.",
}
IGNORED = (
    "cache_control", "speed", "service_tier", "inference_geo", "diagnostics", "user_profile_id", "workspace_id",
    "output_config.effort", "thinking.budget_tokens",
)  # fmt: skip
"""What changes nothing here: how Anthropic's own service works."""
NAMES = {"stop": "stop_sequences", "response_format": "output_format", "thinking": "thinking"}


class CountBody(BaseModel):
    """``POST /v1/messages/count_tokens``."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    cache_control: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessagesBody(CountBody):
    """``POST /v1/messages``."""

    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Any = None
    inference_geo: Any = None
    diagnostics: Any = None


def read_messages(body: CountBody, request: Request) -> ChatRequest:
    """Return what a body asks.

    Raises:
        InvalidInput: Something does not fit; named with its place.
    """
    written = [turn for index, message in enumerate(body.messages) for turn in _turns(message, f"messages.{index}")]
    if written and written[-1]["role"] == "assistant":
        raise InvalidInput("messages: the last turn is the user's; an answer cannot be begun here.", param="messages")
    system = _system(body.system)
    whole = isinstance(body, MessagesBody)
    metadata = (body.metadata or {}) if whole else {}
    return ChatRequest(
        model=body.model,
        messages=read_turns([*([{"role": "system", "content": system}] if system else []), *written]),
        options={**_sampling(body), **_tools(body), **_format(body)} if whole else {**_tools(body), **_thinking(body)},
        names=NAMES,
        stream=bool(body.stream) if whole else False,
        session=session_of(request),
        user=metadata.get("user_id"),
        wait=wait_of(request),
    )


def _sampling(body: MessagesBody) -> dict[str, Any]:
    said = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "max_tokens": body.max_tokens,
        "stop": body.stop_sequences,
    }
    return {**{name: value for name, value in said.items() if value is not None}, **_thinking(body)}


def _thinking(body: CountBody) -> dict[str, Any]:
    if body.thinking is None:
        return {}
    kind = body.thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise InvalidInput("thinking.type: enabled, disabled or adaptive.", param="thinking.type")
    return {"thinking": kind != "disabled"}


def _format(body: CountBody) -> dict[str, Any]:
    """Structured output, under its present name and the one before."""
    told: Any = (body.output_config or {}).get("format") or body.output_format
    if told is None:
        return {}
    if not isinstance(told, dict) or cast("dict[str, Any]", told).get("type") != "json_schema":
        raise InvalidInput("output_config.format: a json_schema.", param="output_config.format")
    schema: Any = cast("dict[str, Any]", told).get("schema")
    if not isinstance(schema, dict):
        raise InvalidInput("output_config.format.schema: a JSON schema.", param="output_config.format.schema")
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


# --- tools ---------------------------------------------------------------------------------


def _tools(body: CountBody) -> dict[str, Any]:
    if not body.tools:
        return {}
    choice = body.tool_choice or {}
    forced = choice.get("type") in ("any", "tool")
    options: dict[str, Any] = {
        "tools": [_tool(tool, f"tools.{index}", strict=forced) for index, tool in enumerate(body.tools)]
    }
    match choice.get("type"):
        case None | "auto":
            pass
        case "any":
            options["tool_choice"] = "required"
        case "none":
            options["tool_choice"] = "none"
        case "tool" if isinstance(choice.get("name"), str):
            options["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
        case _:
            raise InvalidInput("tool_choice: auto, any, none, or tool with its name.", param="tool_choice")
    if choice.get("disable_parallel_tool_use"):
        options["parallel_tool_calls"] = False
    return options


def _tool(tool: Mapping[str, Any], place: str, *, strict: bool) -> dict[str, Any]:
    """Return a tool as a function. A forced call is strict: only then does vLLM hold the arguments to their schema."""
    if tool.get("type") not in (None, "custom"):
        raise InvalidInput(f"{place}.type: tools that Anthropic's servers run are not here.", param=f"{place}.type")
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not isinstance(schema, Mapping):
        raise InvalidInput(f"{place}: a tool has a name and an input_schema.", param=place)
    function: dict[str, Any] = {"name": name, "parameters": schema}
    if tool.get("description"):
        function["description"] = tool["description"]
    if strict or tool.get("strict"):
        function["strict"] = True
    return {"type": "function", "function": function}


# --- turns ---------------------------------------------------------------------------------


def _system(system: str | Sequence[Mapping[str, Any]] | None) -> str:
    if system is None or isinstance(system, str):
        return system or ""
    return "\n".join(_text(block, f"system.{index}") for index, block in enumerate(system))


def _text(block: Any, place: str) -> str:
    text: Any = cast("Mapping[str, Any]", block).get("text") if isinstance(block, Mapping) else None
    if not isinstance(text, str):
        raise InvalidInput(f"{place}: a block of text.", param=place)
    return text


def _turns(message: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """Return one message as OpenAI's, in which results of tools are turns of their own."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        raise InvalidInput(f"{place}.role: user or assistant.", param=f"{place}.role")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise InvalidInput(f"{place}.content: a text or a list of blocks.", param=f"{place}.content")
    blocks = [_block(block, f"{place}.content.{index}") for index, block in enumerate(cast("list[Any]", content))]
    return _assistant(blocks, place) if role == "assistant" else _user(blocks, place)


def _block(block: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(block, Mapping):
        raise InvalidInput(f"{place}: a block is an object.", param=place)
    return cast("Mapping[str, Any]", block)


def _assistant(blocks: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, Any]]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for index, block in enumerate(blocks):
        here = f"{place}.content.{index}"
        match block.get("type"):
            case "text":
                texts.append(_text(block, here))
            case "tool_use":
                calls.append(_call(block, here))
            case "thinking":
                thoughts.append(str(block.get("thinking", "")))
            case "redacted_thinking":
                pass  # nobody here can read it
            case kind:
                raise _unsupported(kind, here)
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if calls:
        turn["tool_calls"] = calls
    if thoughts:
        turn["reasoning_content"] = "".join(thoughts)
    return [turn]


def _call(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(block.get("id"), str) or not isinstance(block.get("name"), str):
        raise InvalidInput(f"{place}: a call has an id and a name.", param=place)
    function = {"name": block["name"], "arguments": json.dumps(block.get("input") or {}, ensure_ascii=False)}
    return {"id": block["id"], "type": "function", "function": function}


def _user(blocks: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, Any]]:
    """Results first: they answer the turn before."""
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        here = f"{place}.content.{index}"
        match block.get("type"):
            case "text":
                parts.append({"type": "text", "text": _text(block, here)})
            case "image":
                parts.append(_image(_source(block), here))
            case "tool_result":
                results.append(_result(block, here))
            case "document" if _source(block).get("type") == "text":
                parts.append({"type": "text", "text": str(_source(block).get("data", ""))})
            case kind:
                raise _unsupported(kind, here)
    if all(part["type"] == "text" for part in parts):
        texts = "\n".join(part["text"] for part in parts)
        return [*results, *([{"role": "user", "content": texts}] if parts else [])]
    return [*results, {"role": "user", "content": parts}]


def _source(block: Mapping[str, Any]) -> Mapping[str, Any]:
    source: Any = block.get("source")
    return cast("Mapping[str, Any]", source) if isinstance(source, Mapping) else {}


def _image(source: Mapping[str, Any], place: str) -> dict[str, Any]:
    if source.get("type") not in ("base64", "url"):
        raise InvalidInput(f"{place}.source: base64 or url; no files are kept here.", param=f"{place}.source")
    inline = f"data:{source.get('media_type')};base64,{source.get('data')}"
    url = source.get("url") if source["type"] == "url" else inline
    return {"type": "image_url", "image_url": {"url": url}}


def _result(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    content: Any = block.get("content", "")
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        content = "\n".join(_text(part, f"{place}.content.{index}") for index, part in enumerate(parts))
    if not isinstance(content, str) or not isinstance(block.get("tool_use_id"), str):
        raise InvalidInput(f"{place}: a result has a tool_use_id, and texts as content.", param=place)
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}


def _unsupported(kind: Any, place: str) -> InvalidInput:
    return InvalidInput(f"{place}.type: blocks of type {str(kind)[:40]!r} are not taken here.", param=f"{place}.type")
