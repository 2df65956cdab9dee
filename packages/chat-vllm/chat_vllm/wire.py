"""Between LangChain's values and the JSON of ``/v1/chat/completions``: pure functions, no model and no network.

The format is vLLM's ``vllm/entrypoints/openai/chat_completion/protocol.py``: OpenAI's, with more fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from chat_vllm.structured import json_schema_format

CHOICE_FIELDS = ("stop_reason", "token_ids")
RESPONSE_FIELDS = ("prompt_token_ids", "prompt_logprobs", "metrics")
REQUEST_OPTIONS = {"extra_headers": "headers", "extra_query": "params", "timeout": "timeout"}
NOTHING: Mapping[str, Any] = {}


def request_body(messages: Sequence[BaseMessage], payload: dict[str, Any]) -> dict[str, Any]:
    """The body that langchain-openai built, as vLLM takes it.

    ``extra_body`` is folded in, schemas are written out, and the reasoning of earlier turns goes back to the model,
    whose chat template decides what of it is shown.

    Raises:
        ValueError: A field that vLLM would silently ignore.
    """
    body: dict[str, Any] = {**payload, **(payload.get("extra_body") or NOTHING)}
    body.pop("extra_body", None)
    if ignored := [name for name in body if name.startswith("guided_")]:
        msg = f"vLLM ignores {', '.join(ignored)}; structured_outputs takes json, choice, regex and grammar."
        raise ValueError(msg)
    if "response_format" in body:
        body["response_format"] = json_schema_format(body["response_format"])
    body["messages"] = list(map(with_reasoning, body["messages"], messages))
    return body


def with_reasoning(written: dict[str, Any], message: BaseMessage) -> dict[str, Any]:
    """An assistant's turn with the reasoning that led to it."""
    reasoning = message.additional_kwargs.get("reasoning_content") if isinstance(message, AIMessage) else None
    return {**written, "reasoning": reasoning} if reasoning else written


def take_options(body: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the HTTP request out of its body, where LangChain's keyword arguments put them."""
    return {ours: body.pop(theirs) for theirs, ours in REQUEST_OPTIONS.items() if theirs in body}


def keep_chunk(chunk: ChatGenerationChunk, event: Mapping[str, Any], provider: str) -> None:
    """Add to one streamed chunk what its event says beyond OpenAI's fields."""
    info = present(event, RESPONSE_FIELDS)
    for choice in event.get("choices") or ():
        keep_reasoning(chunk.message, choice["delta"])
        chunk.message.response_metadata["model_provider"] = provider
        info.update(present(choice, CHOICE_FIELDS))
        if choice.get("finish_reason"):
            info["id"] = event.get("id")  # once a stream: merged chunks would repeat it
    if info:
        chunk.generation_info = {**(chunk.generation_info or {}), **info}


def answer_info(response: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """What a whole answer says about how it was made."""
    return {**present(response, RESPONSE_FIELDS), **present(choice, ("finish_reason", "logprobs", *CHOICE_FIELDS))}


def keep_reasoning(message: BaseMessage, source: Mapping[str, Any]) -> None:
    """Put reasoning where ``content_blocks`` looks for it; vLLM has had two names for it."""
    if reasoning := source.get("reasoning") or source.get("reasoning_content"):
        message.additional_kwargs["reasoning_content"] = reasoning


def has_finished(chunk: ChatGenerationChunk) -> bool:
    """Whether the engine called the answer complete."""
    return bool(chunk.generation_info) and "finish_reason" in chunk.generation_info


def present(source: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named fields that have a value."""
    return {name: source[name] for name in names if source.get(name) is not None}
