"""Answers of Text Generation Inference, rendered: whole texts with their tokens, and streams of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_usage
from typing_extensions import override

from app.catalogue import Choice
from app.protocols.telling import Reader, Shortcut, Telling
from app.protocols.usage import count_usage
from app.streams.sse import Event, data

TAGS = {
    "chat": "text-generation",
    "vision-chat": "image-text-to-text",
    "embedding": "feature-extraction",
    "image-generation": "text-to-image",
}
"""The pipeline tag of each task."""


@dataclass(frozen=True)
class Form:
    """How an answer is told."""

    before: str = ""
    """The prompt, where the whole text is asked for."""
    details: bool = False
    seed: int | None = None


def render_text(message: AIMessage, form: Form) -> dict[str, Any]:
    """Return a whole answer."""
    whole = {"generated_text": f"{form.before}{message.text}"}
    if not form.details:
        return whole
    tokens = render_tokens(message)
    details = {
        "finish_reason": finish_reason(message),
        "generated_tokens": count_usage([message.usage_metadata]).made or len(tokens),
        "seed": form.seed,
        "prefill": [],
        "tokens": tokens,
    }
    return {**whole, "details": details}


def finish_reason(message: AIMessage) -> str:
    """Return why an answer ended, in TGI's words."""
    metadata = message.response_metadata
    if metadata.get("finish_reason") == "length":
        return "length"
    return "stop_sequence" if isinstance(metadata.get("stop_reason"), str) else "eos_token"


def render_tokens(message: AIMessage) -> list[dict[str, Any]]:
    """Return the tokens of a message. A chain that does not tell them is one token without an id."""
    ids: Sequence[int | None] = message.response_metadata.get("token_ids") or ()
    logprobs: Any = message.response_metadata.get("logprobs")
    told: Sequence[Any] = (logprobs and logprobs.get("content")) or ()
    if not ids and not told:
        text = str(message.text)
        return [_token(None, text, 0.0)] if text else []
    count = max(len(ids), len(told))
    return [
        _token(
            ids[index] if index < len(ids) else None,
            told[index]["token"] if index < len(told) else "",
            told[index]["logprob"] if index < len(told) else 0.0,
        )
        for index in range(count)
    ]


def _token(number: int | None, text: str, logprob: float) -> dict[str, Any]:
    return {"id": number, "text": text, "logprob": logprob, "special": False}


def render_pieces(chunk: AIMessageChunk) -> list[dict[str, Any]]:
    """Return the tokens of a chunk, whose texts together are its text: half a character is no text yet."""
    tokens = render_tokens(chunk)
    text = str(chunk.text)
    if not tokens:
        return []
    *first, last = tokens
    if "".join(token["text"] for token in tokens) == text:
        return tokens
    return [*({**token, "text": ""} for token in first), {**last, "text": text, "special": not text}]


class TokensTelling(Telling):
    """A token each; the last one comes with the whole text. So each is held back until the next is there."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._held: dict[str, Any] | None = None
        self._text: list[str] = []
        self._usage: UsageMetadata | None = None
        self._last = AIMessage("")

    @override
    def render(self, chunk: AIMessageChunk, index: int = 0) -> Iterator[Event]:
        if chunk.usage_metadata:
            self._usage = add_usage(self._usage, chunk.usage_metadata)
        if chunk.response_metadata.get("finish_reason"):
            self._last = AIMessage("", response_metadata=chunk.response_metadata)
        for token in render_pieces(chunk):
            if (before := self._hold(token)) is not None:
                yield data(before)

    def _hold(self, token: dict[str, Any]) -> dict[str, Any] | None:
        """Hold a token back, and return the one that was."""
        before = self._held
        self._text.append(token["text"])
        self._held = {"index": len(self._text), "token": token, "generated_text": None, "details": None}
        return before

    @override
    def end(self) -> Iterator[Event]:
        ending = self._held or {"index": 1, "token": {**_token(None, "", 0.0), "special": True}}
        whole = f"{self._form.before}{''.join(self._text)}"
        details = _stream_details(self._last, self._usage, len(self._text), self._form)
        yield data({**ending, "generated_text": whole, "details": details})

    @override
    def shortcut(self) -> Shortcut:
        return lambda literal: self._pass(_token(None, orjson.loads(literal), 0.0))

    @override
    def reader(self) -> Reader:
        """One token with its number and its likelihood, which TGI's questions ask for."""

        def read(event: bytes) -> bytes | None:
            token = read_token(event)
            return None if token is None else self._pass(token)

        return read

    def _pass(self, token: dict[str, Any]) -> bytes:
        before = self._hold(token)
        return b"" if before is None else data(before).encode()


# --- an engine's event that is one token ---------------------------------------------------


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    role: Any = None


class _Likelihood(msgspec.Struct):
    token: str
    logprob: Any


class _Likelihoods(msgspec.Struct):
    content: list[_Likelihood]


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    delta: _Delta
    token_ids: list[int]
    logprobs: _Likelihoods
    index: Any = None
    finish_reason: None = None
    stop_reason: None = None


class _OneToken(msgspec.Struct, forbid_unknown_fields=True):
    choices: list[_Choice]
    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    system_fingerprint: Any = None
    usage: None = None
    prompt_token_ids: None = None
    prompt_text: None = None


_decode = msgspec.json.Decoder(_OneToken).decode
"""Refuses every field that it does not know: ``render_pieces`` reads the event then."""


def read_token(event: bytes) -> dict[str, Any] | None:
    """Return the token of an event that holds one, as ``render_pieces`` does; None where it holds anything else."""
    try:
        (choice,) = _decode(event).choices
        (number,), (likelihood,) = choice.token_ids, choice.logprobs.content
    except ValueError:  # msgspec's errors are such, too
        return None
    text = choice.delta.content
    token = _token(number, text, likelihood.logprob)
    return token if likelihood.token == text else {**token, "special": not text}


def _stream_details(last: AIMessage, usage: UsageMetadata | None, count: int, form: Form) -> dict[str, Any]:
    tokens = count_usage([usage])
    return {
        "finish_reason": finish_reason(last),
        "generated_tokens": tokens.made or count,
        "input_length": tokens.given,
        "seed": form.seed,
    }


def render_info(choice: Choice, version: str) -> dict[str, Any]:
    """Return what TGI tells of itself, as far as there is such a thing here."""
    spec = choice.served.spec
    context = spec.limits.max_model_len
    return {
        "model_id": choice.name,
        "model_pipeline_tag": TAGS[spec.task],
        "max_concurrent_requests": spec.limits.max_num_seqs,
        "max_best_of": 1,
        "max_input_tokens": context,
        "max_total_tokens": context,
        "router": "langserve-vllm",
        "version": version,
    }
