"""Ollama's answers, rendered: lines of JSON whose last is ``done`` and holds the counts."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from langchain_core.messages import AIMessage, AIMessageChunk
from typing_extensions import override

from app.catalogue import ServedModel
from app.protocols.drawing import read_pictures
from app.protocols.telling import MARK, MARKED, Shortcut, Telling
from app.protocols.usage import count_usage
from app.streams.sse import Event, line, one_line

Kind = Literal["chat", "generate"]
MOMENT = "the moment"
MODIFIED = "2023-11-14T22:13:20Z"
"""Of every model: no entry of models.json has a date."""
FOREVER = "9999-12-31T23:59:59Z"
"""When a loaded model goes: its entry in models.json decides, not a timer of each request."""


@dataclass(frozen=True)
class Heading:
    """What all lines of one answer have in common, and when the work began (monotonic ns)."""

    model: str
    kind: Kind
    began: int = field(default_factory=time.monotonic_ns)

    def line(self, message: Mapping[str, Any], *, done: bool = False, at: str | None = None) -> dict[str, Any]:
        """Return a line of the moment ``at`` (now), with ``message`` where this kind of answer has it."""
        content = {"message": {"role": "assistant", **message}} if self.kind == "chat" else _as_generated(message)
        return {"model": self.model, "created_at": at or now(), **content, "done": done}

    def end(self, message: AIMessage, first: int | None = None) -> dict[str, Any]:
        """Return the counts and times of the last line; ``first`` is when the first piece came."""
        total = time.monotonic_ns() - self.began
        tokens = count_usage([message.usage_metadata])
        waited = (first or self.began) - self.began
        return {
            "done_reason": "length" if message.response_metadata.get("finish_reason") == "length" else "stop",
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": tokens.given,
            "prompt_eval_duration": waited,
            "eval_count": tokens.made,
            "eval_duration": total - waited,
        }

    def counted(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the count and the times of embeddings."""
        total = time.monotonic_ns() - self.began
        return {"total_duration": total, "load_duration": 0, "prompt_eval_count": usage.get("prompt_tokens", 0)}


def now() -> str:
    """Return the moment as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _as_generated(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"response": message["content"], **{name: message[name] for name in ("thinking",) if name in message}}


def render_answer(message: AIMessage, heading: Heading) -> dict[str, Any]:
    """Return a whole answer."""
    told = {**_content(message), **_calls(message)}
    return {**heading.line(told, done=True), **_logprobs(message), **heading.end(message)}


def _content(message: AIMessage) -> dict[str, Any]:
    reasoning = message.additional_kwargs.get("reasoning_content")
    pictures = [drawn.base64 for drawn in read_pictures(message)]
    return {
        "content": str(message.text),
        **({"thinking": reasoning} if reasoning else {}),
        **({"images": pictures} if pictures else {}),
    }


def _calls(message: AIMessage) -> dict[str, Any]:
    calls = [
        {"id": call["id"], "function": {"index": index, "name": call["name"], "arguments": call["args"]}}
        for index, call in enumerate(message.tool_calls)
    ]
    return {"tool_calls": calls} if calls else {}


def _logprobs(message: AIMessage) -> dict[str, Any]:
    logprobs: Any = message.response_metadata.get("logprobs")
    told: Any = logprobs and logprobs.get("content")
    return {"logprobs": told} if told else {}


class LinesTelling(Telling):
    """The lines of an answer. Calls come whole, in one line before the last."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._first: int | None = None
        self._whole = AIMessageChunk(content="")

    @override
    def render(self, chunk: AIMessageChunk, index: int = 0) -> Iterator[Event]:
        self._first = self._first or time.monotonic_ns()
        if chunk.tool_call_chunks or chunk.usage_metadata or chunk.response_metadata.get("finish_reason"):
            self._whole += _remember(chunk)
        told = _content(chunk)
        if told["content"] or len(told) > 1:
            yield line({**self._heading.line(told), **_logprobs(chunk)})

    @override
    def end(self) -> Iterator[Event]:
        heading, whole = self._heading, self._whole
        if whole.tool_calls:
            yield line(heading.line({"content": "", **_calls(whole)}))
        yield line({**heading.line({"content": ""}, done=True), **heading.end(whole, self._first)})

    @override
    def shortcut(self) -> Shortcut:
        """As a line with the moment in it."""
        told = line(self._heading.line({"content": MARK}, at=MOMENT)).encode()
        before, rest = told.split(MOMENT.encode())
        middle, after = rest.split(MARKED)

        def text(literal: bytes) -> bytes:
            return b"%b%b%b%b%b" % (before, now().encode(), middle, one_line(literal), after)

        return text


def _remember(chunk: AIMessageChunk) -> AIMessageChunk:
    """Return of a chunk what the last lines need: not its text, which would grow with every sum."""
    reason = chunk.response_metadata.get("finish_reason")
    return AIMessageChunk(
        content="",
        tool_call_chunks=chunk.tool_call_chunks,
        usage_metadata=chunk.usage_metadata,
        response_metadata={"finish_reason": reason} if reason else {},
    )


# --- models --------------------------------------------------------------------------------

CAPABILITIES = {"tools": "tools", "vision": "vision", "reasoning": "thinking"}


def render_model(served: ServedModel) -> dict[str, Any]:
    """Return one model of a list. Sizes are the launcher's matter: 0 here."""
    spec = served.spec
    name = f"{spec.id}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": MODIFIED,
        "size": 0,
        "digest": sha256(spec.model_dump_json().encode()).hexdigest(),
        "details": _details(served),
    }


def render_running(served: ServedModel) -> dict[str, Any]:
    """Return one model of the list of those that are ready."""
    context = served.spec.limits.max_model_len or 0
    return {**render_model(served), "expires_at": FOREVER, "size_vram": 0, "context_length": context}


def _details(served: ServedModel) -> dict[str, Any]:
    kind = served.spec.task
    return {
        "parent_model": "",
        "format": served.spec.engine.type,
        "family": kind,
        "families": [kind],
        "parameter_size": "",
        "quantization_level": "",
    }


def render_shown(served: ServedModel) -> dict[str, Any]:
    """Return what ``show`` tells of a model."""
    spec = served.spec
    context = {"general.context_length": spec.limits.max_model_len} if spec.limits.max_model_len else {}
    sampling = spec.sampling.model_dump(exclude_none=True)
    return {
        "modelfile": "",
        "parameters": "\n".join(f"{name} {value}" for name, value in sampling.items()),
        "template": "",
        "license": spec.metadata.licence or "",
        "modified_at": MODIFIED,
        "details": _details(served),
        "model_info": {"general.name": spec.display_name, "general.description": spec.metadata.description, **context},
        "capabilities": capabilities(served),
    }


def capabilities(served: ServedModel) -> list[str]:
    """Return what a model can, by Ollama's names."""
    spec = served.spec
    if spec.task == "embedding":
        return ["embedding"]
    if spec.task == "image-generation":
        return ["image"]
    named = [CAPABILITIES[name] for name in spec.metadata.capabilities if name in CAPABILITIES]
    seeing = ["vision"] if spec.task == "vision-chat" and "vision" not in named else []
    return ["completion", *named, *seeing]
