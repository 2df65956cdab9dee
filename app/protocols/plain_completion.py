"""The continuation of a text by a raw model, without a chat template, as the messages that protocols render."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx2
from langchain_core.messages import AIMessage, AIMessageChunk

from app.catalogue import Choice
from app.engines.line import EngineLine
from app.engines.upstream import translate_answer
from app.errors import EngineDied, EngineFailed
from app.protocols.chat_request import ChatRequest

PATH = "/completions"
FOREIGN = ("tools", "tool_choice", "parallel_tool_calls", "thinking", "top_logprobs", "session_id")
"""Options that a text without turns has no use for."""


def body_of(request: ChatRequest, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine's request: OpenAI's completions, with vLLM's fields."""
    body = {name: value for name, value in options.items() if name not in FOREIGN}
    if body.pop("logprobs", None):
        body["logprobs"] = options.get("top_logprobs") or 1
    return {**body, "prompt": request.prompt}


async def complete(choice: Choice, request: ChatRequest, options: Mapping[str, Any]) -> AIMessage:
    """Return the whole continuation.

    Raises:
        ServiceError: The engine refused or failed.
    """
    answer = await choice.served.line.ask(PATH, body_of(request, options))
    try:
        (said,) = answer["choices"]
        _refuse_aborted(said)
        return AIMessage(said["text"], usage_metadata=_usage(answer), response_metadata=_metadata(said))
    except (LookupError, TypeError, ValueError) as error:
        raise EngineFailed("The engine's answer is not of the kind that was asked for.") from error


async def complete_stream(
    choice: Choice, request: ChatRequest, options: Mapping[str, Any]
) -> AsyncGenerator[AIMessageChunk, None]:
    """Yield the continuation as it comes.

    Raises:
        ServiceError: The engine refused, failed, or ended too early.
    """
    line = choice.served.line
    body = {**body_of(request, options), "stream": True, "stream_options": {"include_usage": True}}
    finished = False
    async with line.open(PATH, body) as response:
        async for event in _events(line, response):
            if "error" in event:
                raise translate_answer(500, event)
            for said in event.get("choices") or ():
                _refuse_aborted(said)
                finished = finished or said.get("finish_reason") is not None
                yield AIMessageChunk(content=said["text"], response_metadata=_metadata(said))
            if event.get("usage"):
                yield AIMessageChunk(content="", usage_metadata=_usage(event))
    if not finished:
        raise _cut()


def _refuse_aborted(said: Mapping[str, Any]) -> None:
    """Raise if the engine gave the continuation up: so a vLLM that is shut down ends what it has begun."""
    if said.get("finish_reason") == "abort":
        raise _cut()


def _cut() -> EngineDied:
    return EngineDied("The engine's answer ended before it was whole.", hint="What arrived is not the whole answer.")


async def _events(line: EngineLine, response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON of an SSE answer's events."""
    rest = b""
    async for piece in line.pieces(response):
        *lines, rest = (rest + piece).split(b"\n")
        for each in lines:
            data = each.removeprefix(b"data:").strip()
            if each.startswith(b"data:") and data != b"[DONE]":
                yield json.loads(data)


def _metadata(said: Mapping[str, Any]) -> dict[str, Any]:
    names = ("finish_reason", "stop_reason", "token_ids")
    metadata = {name: said[name] for name in names if said.get(name) is not None}
    logprobs = said.get("logprobs")
    return {**metadata, "logprobs": _as_chat(logprobs)} if logprobs else metadata


def _as_chat(logprobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text's logprobs in the form that chats have."""
    pairs = zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    return {"content": [{"token": token, "logprob": logprob, "top_logprobs": []} for token, logprob in pairs]}


def _usage(answer: Mapping[str, Any]) -> Any:
    usage = answer.get("usage")
    if not usage:
        return None
    given, made = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    return {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
