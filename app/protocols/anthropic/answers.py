"""Anthropic's answers, rendered: messages, and the events of a stream.

Follows https://docs.anthropic.com/en/docs/build-with-claude/streaming.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_usage
from typing_extensions import override

from app.protocols.telling import Telling
from app.protocols.usage import count_usage
from app.streams.sse import Event, dump


def frame(value: Any) -> Event:
    """Return an event; its name is its type."""
    return Event(value["type"], dump(value))


def render_message(message: AIMessage, model: str) -> dict[str, Any]:
    """Return a whole answer: thinking, text and calls, in this order."""
    reason, matched = stop_reason(message, calls=bool(message.tool_calls))
    return {
        **_heading(model),
        "content": [*_blocks(message)],
        "stop_reason": reason,
        "stop_sequence": matched,
        "usage": render_usage(message.usage_metadata),
    }


def _heading(model: str) -> dict[str, Any]:
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": model}


def _blocks(message: AIMessage) -> Iterator[dict[str, Any]]:
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        yield {"type": "thinking", "thinking": reasoning, "signature": ""}
    if text := str(message.text):
        yield {"type": "text", "text": text, "citations": None}
    for call in message.tool_calls:
        yield {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["args"]}


def stop_reason(message: AIMessage, *, calls: bool) -> tuple[str, str | None]:
    """Return why an answer ended, and the sequence that ended it."""
    metadata = message.response_metadata
    matched = metadata.get("stop_reason")
    if calls:
        return "tool_use", None
    if metadata.get("finish_reason") == "length":
        return "max_tokens", None
    if isinstance(matched, str):
        return "stop_sequence", matched
    return "end_turn", None


def render_usage(usage: UsageMetadata | None) -> dict[str, Any]:
    """Return the tokens; those read from the prefix cache stand apart, as Anthropic counts."""
    total = count_usage([usage])
    return {
        "input_tokens": total.given - total.cached,
        "output_tokens": total.made,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": total.cached,
    }


@dataclass
class Blocks:
    """Renders chunks as blocks one after the other; knows which is open."""

    open: tuple[str, Any] | None = None
    count: int = 0
    calls: bool = False
    usage: UsageMetadata | None = None
    last: AIMessage = field(default_factory=lambda: AIMessage(""))

    def render(self, chunk: AIMessageChunk) -> Iterator[Event]:
        """Yield the events of a chunk."""
        if chunk.usage_metadata:
            self.usage = add_usage(self.usage, chunk.usage_metadata)
        if chunk.response_metadata.get("finish_reason"):
            self.last = AIMessage("", response_metadata=chunk.response_metadata)
        if reasoning := chunk.additional_kwargs.get("reasoning_content"):
            yield from self._start("thinking", None, {"thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": reasoning})
        if text := str(chunk.text):
            yield from self._start("text", None, {"text": "", "citations": None})
            yield self._delta({"type": "text_delta", "text": text})
        for call in chunk.tool_call_chunks:
            self.calls = True
            key = call.get("index") if call.get("index") is not None else call.get("id")
            yield from self._start("tool_use", key, {"id": call["id"], "name": call["name"], "input": {}})
            if call.get("args"):
                yield self._delta({"type": "input_json_delta", "partial_json": call["args"]})

    def end(self) -> Iterator[Event]:
        """Yield what ends a stream."""
        yield from self._stop()
        reason, matched = stop_reason(self.last, calls=self.calls)
        delta = {"stop_reason": reason, "stop_sequence": matched}
        yield frame({"type": "message_delta", "delta": delta, "usage": render_usage(self.usage)})
        yield frame({"type": "message_stop"})

    def _start(self, kind: str, key: Any, empty: dict[str, Any]) -> Iterator[Event]:
        """Open a block, unless it is the open one."""
        if self.open == (kind, key):
            return
        yield from self._stop()
        self.open = (kind, key)
        block = {"type": kind, **empty}
        yield frame({"type": "content_block_start", "index": self.count, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> Event:
        return frame({"type": "content_block_delta", "index": self.count, "delta": delta})

    def _stop(self) -> Iterator[Event]:
        if self.open is not None:
            yield frame({"type": "content_block_stop", "index": self.count})
            self.open = None
            self.count += 1


class MessageTelling(Telling):
    """The events of an answer. What was given is counted at the end: the engine tells it then."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._blocks = Blocks()
        self._begun = False

    @override
    def render(self, chunk: AIMessageChunk, index: int = 0) -> Iterator[Event]:
        yield from self._begin()
        yield from self._blocks.render(chunk)

    @override
    def end(self) -> Iterator[Event]:
        yield from self._begin()
        yield from self._blocks.end()

    def _begin(self) -> Iterator[Event]:
        if not self._begun:
            self._begun = True
            yield frame({"type": "message_start", "message": _empty(self._model)})


def _empty(model: str) -> dict[str, Any]:
    usage = render_usage(None)
    return {**_heading(model), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
