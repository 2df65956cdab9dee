"""The streams of every protocol over HTTP, as the load asks for them and reads them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Speaks = Literal["openai", "langserve", "anthropic", "ollama", "tgi", "kserve"]


@dataclass(frozen=True)
class Protocol:
    """One of them.

    Args:
        path: Where it streams; ``{model}`` stands for the model.
        body: Makes the question of model, prompt and tokens.
        read: Tells an event's text, and whether it is the stream's end.
        between: What ends an event, with line feeds alone.
    """

    path: str
    body: Callable[[str, str, int], Mapping[str, Any]]
    read: Callable[[bytes], tuple[str, bool]]
    between: bytes = b"\n\n"


def _turns(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _chat(model: str, prompt: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "messages": _turns(prompt), "stream": True, "max_tokens": tokens}


def _data(event: bytes) -> dict[str, Any]:
    """Return the JSON behind ``data: ``; nothing where there is none."""
    _, found, data = event.partition(b"data: ")
    return json.loads(data) if found else {}


def read_openai(event: bytes) -> tuple[str, bool]:
    """Text of the first choice's delta."""
    if event == b"data: [DONE]":
        return "", True
    told = _data(event)
    choices = told.get("choices")
    return (choices[0]["delta"].get("content") or "") if choices else "", False


def read_langserve(event: bytes) -> tuple[str, bool]:
    """Text of a message, or a text."""
    name = event.partition(b"\n")[0]
    if name == b"event: error":
        raise ValueError(event.decode())
    return content(_data(event)) if name == b"event: data" else "", name == b"event: end"


def content(output: Any) -> str:
    """Return the text of LangServe's output."""
    return output if isinstance(output, str) else output["content"]


def read_anthropic(event: bytes) -> tuple[str, bool]:
    """Text of a block's delta."""
    told = _data(event)
    return told.get("delta", {}).get("text", ""), told.get("type") == "message_stop"


def read_ollama(event: bytes) -> tuple[str, bool]:
    """Text of a line's message."""
    told = json.loads(event)
    return told["message"]["content"], told["done"]


def read_tgi(event: bytes) -> tuple[str, bool]:
    """Text of a token; the last comes with the end."""
    told = _data(event)
    return told["token"]["text"] if "token" in told else "", told.get("generated_text") is not None


def read_kserve(event: bytes) -> tuple[str, bool]:
    """Text of the tensor."""
    told = _data(event)
    return told.get("text_output", ""), bool(told.get("triton_final_response"))


PROTOCOLS: Mapping[Speaks, Protocol] = {
    "openai": Protocol("/v1/chat/completions", _chat, read_openai),
    "langserve": Protocol(
        "/{model}/stream",
        lambda _model, prompt, _tokens: {"input": {"messages": [{"type": "human", "content": prompt}]}},
        read_langserve,
    ),
    "anthropic": Protocol("/v1/messages", _chat, read_anthropic),
    "ollama": Protocol(
        "/api/chat",
        lambda model, prompt, tokens: {
            "model": model,
            "messages": _turns(prompt),
            "options": {"num_predict": tokens},
        },
        read_ollama,
        b"\n",
    ),
    "tgi": Protocol(
        "/models/{model}/generate_stream",
        lambda _model, prompt, tokens: {"inputs": prompt, "parameters": {"max_new_tokens": tokens}},
        read_tgi,
    ),
    "kserve": Protocol(
        "/v2/models/{model}/generate_stream",
        lambda _model, prompt, tokens: {"text_input": prompt, "parameters": {"max_tokens": tokens}},
        read_kserve,
    ),
}
