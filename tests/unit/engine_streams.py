"""What an engine may send in a stream: every kind of event, good ends and bad ones; for tests that compare two ways."""

from collections.abc import Sequence
from typing import Any

import httpx2

from tests.unit.scripted import MODEL, refusal

HEAD: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}


def said(finish: str | None = None, *, logprobs: Any = None, more: dict[str, Any] | None = None, **delta: Any) -> Any:
    """Return an event of vLLM's."""
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return {
        **HEAD,
        "choices": [{**choice, **({"stop_reason": None} if finish else {}), "token_ids": None}],
        **(more or {}),
    }


def call(index: int, **function: Any) -> dict[str, Any]:
    """Return a piece of a tool call."""
    named = {"id": "chatcmpl-tool-1", "type": "function"} if "name" in function else {}
    return {"index": index, **named, "function": function}


def logprobs(token: str) -> dict[str, Any]:
    """Return the log probabilities of one token."""
    one = {"token": token, "logprob": -0.16622434556484222, "bytes": [*token.encode()]}
    return {"content": [{**one, "top_logprobs": [one]}]}


ROLE = said(role="assistant", content="", more={"prompt_token_ids": None, "prompt_text": None})
STOP = said("stop", content="")
USAGE: dict[str, Any] = {
    **HEAD,
    "choices": [],
    "usage": {
        "prompt_tokens": 3,
        "total_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 1},
    },
    "system_fingerprint": "vllm-0.32.0-x",
}
DEAD = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}
CORPUS: dict[str, Sequence[Any]] = {
    "text": [ROLE, said(content="In"), said(content=" France."), STOP, USAGE, "[DONE]"],
    "no usage": [ROLE, said(content="In"), STOP, "[DONE]"],
    "the last token ends it": [ROLE, said(content="In"), said("length", content=" France"), USAGE, "[DONE]"],
    "a named end": [
        ROLE,
        said(content="In"),
        {**STOP, "choices": [{**STOP["choices"][0], "stop_reason": " to"}]},
        "[DONE]",
    ],
    "unicode and escapes": [
        ROLE,
        *(said(content=t) for t in ("é", "東京", "😀", '"\\', "\n\r\t", "\u2028", "\x07", "</b>")),
        STOP,
        "[DONE]",
    ],
    "much alike, and not quite": [
        ROLE,
        *(said(content=t) for t in ("In", " the", " end", "東京", " of", 'a "', " word", "\u2028", "\x7f", "")),
        said(content=" so", more={"usage": None}),
        said(content="In", logprobs=logprobs("In")),
        said(content=" it"),
        said(reasoning="Two"),
        said(content=" is"),
        said("stop", content=" it"),
        USAGE,
        "[DONE]",
    ],
    "an empty answer": [ROLE, STOP, USAGE, "[DONE]"],
    "empty pieces": [ROLE, said(content=""), said(content=None), said(), STOP, "[DONE]"],
    "reasoning": [ROLE, said(reasoning="Two"), said(reasoning=" and"), said(content="4"), STOP, USAGE, "[DONE]"],
    "reasoning by its old name": [ROLE, said(reasoning_content="Two"), said(content="4"), STOP, "[DONE]"],
    "reasoning beside text": [ROLE, said(reasoning="Two", content="4"), STOP, "[DONE]"],
    "a tool call": [
        ROLE,
        said(content=None, tool_calls=[call(0, name="add")]),
        said(content=None, tool_calls=[call(0, arguments='{"a": ')]),
        said(content=None, tool_calls=[call(0, arguments="1}"), call(1, name="sub", arguments="{}")]),
        said("tool_calls", content=""),
        USAGE,
        "[DONE]",
    ],
    "log probabilities": [
        ROLE,
        said(content="In", logprobs=logprobs("In")),
        said("stop", content="", logprobs=None),
        "[DONE]",
    ],
    "token ids": [
        said(role="assistant", content="", more={"prompt_token_ids": [1, 2]}),
        {**HEAD, "choices": [{**said(content="In")["choices"][0], "token_ids": [57]}]},
        STOP,
        "[DONE]",
    ],
    "metrics": [ROLE, said(content="In", more={"metrics": {"x": 1.5}}), STOP, "[DONE]"],
    "no delta": [
        ROLE,
        {**HEAD, "choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        said(content="In"),
        STOP,
        "[DONE]",
    ],
    "an event of another kind": [ROLE, {"type": "content.delta", "choices": []}, said(content="In"), STOP, "[DONE]"],
    "an error in place of chunks": [DEAD, "[DONE]"],
    "an error between chunks": [ROLE, said(content="In"), DEAD, "[DONE]"],
    "an overflow between chunks": [
        ROLE,
        refusal("This model's maximum context length is 2048 tokens.", code=400),
        "[DONE]",
    ],
    "an error that says nothing": [ROLE, said(content="In"), {"error": "boom"}, "[DONE]"],
    "cut before the end": [ROLE, said(content="In"), "[DONE]"],
    "cut before its first word": ["[DONE]"],
    "ended without a word": [ROLE, said(content="In"), STOP, USAGE],
    "no JSON": [ROLE, said(content="In"), "{not json", "[DONE]"],
    "no chat event": [ROLE, said(content="In"), {"choices": [{"index": 0}]}, "[DONE]"],
    "nothing": [],
    "the connection breaks": [ROLE, said(content="In"), httpx2.ReadError("gone")],
}
REFUSALS = {
    "too long": (400, refusal("This model's maximum context length is 2048 tokens.", code=400)),
    "refused": (400, refusal("top_k must be -1 or at least 1.", code=400, param="top_k")),
    "busy": (429, {"error": "queue"}),
    "unknown": (404, refusal("no such model", code=404)),
    "broken": (500, refusal("Traceback", code=500)),
    "no JSON": (503, "text"),
}


WHOLE: dict[str, dict[str, Any]] = {
    "text": {"content": "In France, 東京 😀"},
    "reasoning": {"content": "4", "reasoning": "Two and two."},
    "nothing": {"content": None},
    "a tool call": {"content": None, "tool_calls": [call(0, name="add", arguments='{"a": 1}')]},
    "a tool call that is none": {"content": None, "tool_calls": [call(0, name="add", arguments="{")]},
}
"""Messages of answers in one piece."""


def whole(message: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in one piece, with log probabilities and usage."""
    told = {"role": "assistant", **message}
    choice = {"index": 0, "message": told, "logprobs": logprobs("In"), "finish_reason": "stop"}
    return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE["usage"]}
