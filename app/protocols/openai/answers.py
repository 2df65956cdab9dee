"""OpenAI's answers, rendered: pure functions from LangChain's messages to the wire's JSON."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_usage
from typing_extensions import override

from app.catalogue import Choice
from app.protocols.drawing import Drawn, read_pictures
from app.protocols.telling import Telling
from app.protocols.usage import count_usage
from app.streams.sse import Data, Event, data

CREATED = 1_700_000_000
"""``created`` of every model: no entry of models.json has a date, and clients only ask that it be a number."""
DONE = Data("data", "[DONE]")


def render_model(choice: Choice) -> dict[str, Any]:
    """Return one entry of ``/v1/models``."""
    spec = choice.served.spec
    return {"id": choice.name, "object": "model", "created": CREATED, "owned_by": "langserve-vllm", "task": spec.task}


@dataclass(frozen=True)
class Heading:
    """What all parts of one answer have in common."""

    model: str
    prefix: str = "chatcmpl"
    object: str = "chat.completion"
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def render(self, *, chunk: bool = False) -> dict[str, Any]:
        """Return the fields before ``choices``."""
        kind = f"{self.object}.chunk" if chunk and self.prefix == "chatcmpl" else self.object
        return {"id": f"{self.prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}


# --- whole answers -------------------------------------------------------------------------


def render_chat(messages: Sequence[AIMessage], heading: Heading) -> dict[str, Any]:
    """Return a chat completion with one choice a message."""
    choices = [
        {
            "index": index,
            "message": render_message(message),
            "logprobs": message.response_metadata.get("logprobs"),
            "finish_reason": finish_reason(message),
        }
        for index, message in enumerate(messages)
    ]
    return {**heading.render(), "choices": choices, "usage": render_usage(messages)}


def render_message(message: AIMessage) -> dict[str, Any]:
    """Return an assistant's message. ``content`` is null where it consists of calls alone."""
    calls = [*map(_call, message.tool_calls), *map(_call, message.invalid_tool_calls)]
    text = str(message.text)
    rendered: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        rendered["tool_calls"] = calls
    return {**rendered, **_reasoning(message), **_pictures(message)}


def _call(call: Any) -> dict[str, Any]:
    arguments = call["args"] if isinstance(call["args"], str) else json.dumps(call["args"] or {}, ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _reasoning(message: AIMessage) -> dict[str, Any]:
    """Both names that clients read."""
    reasoning = message.additional_kwargs.get("reasoning_content")
    return {"reasoning_content": reasoning, "reasoning": reasoning} if reasoning else {}


def _pictures(message: AIMessage) -> dict[str, Any]:
    """Return pictures where OpenRouter's clients look for them: OpenAI's protocol has no place in a message."""
    pictures = [{"type": "image_url", "image_url": {"url": drawn.url}} for drawn in read_pictures(message)]
    return {"images": pictures} if pictures else {}


def render_images(drawn: Sequence[Drawn], base: str | None) -> dict[str, Any]:
    """Return pictures as answers of the images API: themselves, or below ``base`` where they are kept for a while."""
    told = [{"url": f"{base}{each.path}"} if base and each.path else {"b64_json": each.base64} for each in drawn]
    return {"created": int(time.time()), "data": told, "output_format": drawn[0].mime_type.removeprefix("image/")}


def finish_reason(message: AIMessage) -> str:
    """Return why the answer ended; a chain that does not say has said all, or calls a tool."""
    reason = message.response_metadata.get("finish_reason")
    return reason or ("tool_calls" if message.tool_calls else "stop")


def render_usage(messages: Iterable[AIMessage]) -> dict[str, Any]:
    """Return the tokens of all answers to one question; the question's count once."""
    return usage_of([message.usage_metadata for message in messages])


def usage_of(usages: Iterable[UsageMetadata | None]) -> dict[str, Any]:
    """Return the sum of several answers' usage."""
    total = count_usage(usages)
    return {
        "prompt_tokens": total.given,
        "completion_tokens": total.made,
        "total_tokens": total.given + total.made,
        "prompt_tokens_details": {"cached_tokens": total.cached},
        "completion_tokens_details": {"reasoning_tokens": total.reasoning},
    }


def render_text(answers: Sequence[Sequence[AIMessage]], heading: Heading) -> dict[str, Any]:
    """Return a text completion: the answers to each prompt, one prompt after the other."""
    messages = [message for group in answers for message in group]
    choices = [
        {"index": index, "text": str(message.text), "logprobs": None, "finish_reason": finish_reason(message)}
        for index, message in enumerate(messages)
    ]
    totals = [render_usage(group) for group in answers]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {
        **heading.render(),
        "choices": choices,
        "usage": {name: sum(total[name] for total in totals) for name in names},
    }


# --- streams -------------------------------------------------------------------------------


@dataclass
class Delta:
    """Renders the chunks of one choice; knows what it has said so far."""

    index: int
    begun: bool = False
    finished: bool = False
    usage: UsageMetadata | None = None
    calls: dict[Any, int] = field(default_factory=dict[Any, int])

    def render(self, chunk: AIMessageChunk) -> dict[str, Any] | None:
        """Return the choice that this chunk adds, or None where it only counts tokens."""
        if chunk.usage_metadata:
            self.usage = add_usage(self.usage, chunk.usage_metadata)  # one for each step of an agent
        delta = self._delta(chunk)
        reason = chunk.response_metadata.get("finish_reason")
        logprobs = chunk.response_metadata.get("logprobs")
        if not delta and reason is None and logprobs is None:
            return None
        self.finished = self.finished or reason is not None
        return self._choice(delta, reason, logprobs)

    def end(self) -> dict[str, Any] | None:
        """Return the last choice of a chain that never said why it ended."""
        if self.finished:
            return None
        return self._choice({}, "tool_calls" if self.calls else "stop", None)

    def _choice(self, delta: dict[str, Any], reason: str | None, logprobs: Any) -> dict[str, Any]:
        if not self.begun:
            self.begun = True
            delta = {"role": "assistant", "content": "", **delta}
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _delta(self, chunk: AIMessageChunk) -> dict[str, Any]:
        delta: dict[str, Any] = {**_reasoning(chunk), **_pictures(chunk)}
        if text := str(chunk.text):
            delta["content"] = text
        if calls := [self._call(call) for call in chunk.tool_call_chunks]:
            delta["tool_calls"] = calls
        return delta

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return a piece of a call. Chains that give whole calls do not number them."""
        key = call["index"] if call.get("index") is not None else call.get("id")
        new = key not in self.calls
        index = self.calls.setdefault(key, len(self.calls))
        function = {"arguments": call.get("args") or ""}
        if not new:
            return {"index": index, "function": function}
        return {"index": index, "id": call["id"], "type": "function", "function": {"name": call["name"], **function}}


class ChatTelling(Telling):
    """Chat completion chunks, the usage where asked for, and ``[DONE]``."""

    def __init__(self, heading: Heading, *, include_usage: bool) -> None:
        self._head = heading.render(chunk=True)
        self._include_usage = include_usage
        self._nothing = {"usage": None} if include_usage else {}
        self._deltas: dict[int, Delta] = {}

    @override
    def render(self, chunk: AIMessageChunk, index: int = 0) -> Iterator[Event]:
        choice = self._deltas.setdefault(index, Delta(index)).render(chunk)
        if choice is not None:
            yield data({**self._head, "choices": [choice], **self._nothing})

    @override
    def end(self) -> Iterator[Event]:
        for delta in self._deltas.values():
            last = delta.end()
            if last is not None:
                yield data({**self._head, "choices": [last], **self._nothing})
        if self._include_usage:
            usages = [delta.usage for delta in self._deltas.values()]
            yield data({**self._head, "choices": [], "usage": usage_of(usages)})
        yield DONE


class TextTelling(Telling):
    """Text completion chunks, the usage where asked for, and ``[DONE]``."""

    def __init__(self, heading: Heading, *, include_usage: bool) -> None:
        self._head = heading.render()
        self._include_usage = include_usage
        self._usages: dict[int, UsageMetadata | None] = {}

    @override
    def render(self, chunk: AIMessageChunk, index: int = 0) -> Iterator[Event]:
        self._usages[index] = chunk.usage_metadata or self._usages.get(index)
        reason = chunk.response_metadata.get("finish_reason")
        if chunk.text or reason:
            choice = {"index": index, "text": str(chunk.text), "logprobs": None, "finish_reason": reason}
            yield data({**self._head, "choices": [choice]})

    @override
    def end(self) -> Iterator[Event]:
        if self._include_usage:
            yield data({**self._head, "choices": [], "usage": usage_of(self._usages.values())})
        yield DONE
