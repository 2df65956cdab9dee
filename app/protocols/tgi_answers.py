"""Answers of Text Generation Inference, rendered: whole texts with their tokens, and streams of tokens."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_usage

from app.catalogue import Choice
from app.protocols.sse import Event, data
from app.protocols.usage import count_usage

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


async def stream_text(pieces: AsyncIterator[tuple[int, AIMessageChunk]], form: Form) -> AsyncGenerator[Event, None]:
    """Yield a token each; the last one comes with the whole text. So each is held back until the next is there."""
    held: dict[str, Any] | None = None
    text: list[str] = []
    index, usage, last = 0, None, AIMessage("")
    async for _, chunk in pieces:
        usage = add_usage(usage, chunk.usage_metadata) if chunk.usage_metadata else usage
        if chunk.response_metadata.get("finish_reason"):
            last = AIMessage("", response_metadata=chunk.response_metadata)
        for token in render_pieces(chunk):
            if held is not None:
                yield data(held)
            index += 1
            text.append(token["text"])
            held = {"index": index, "token": token, "generated_text": None, "details": None}
    ending = held or {"index": 1, "token": {**_token(None, "", 0.0), "special": True}}
    yield data(
        {
            **ending,
            "generated_text": f"{form.before}{''.join(text)}",
            "details": _stream_details(last, usage, index, form),
        }
    )


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
