"""What ``ChatVLLM`` makes of whole answers and of errors, from bytes that vLLM sent."""

from typing import Any

import httpx2
import openai
import orjson
import pytest
from chat_vllm import ChatVLLM, NotAnAnswerError
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_core.messages import HumanMessage


def refusing(error: type[Exception]) -> ChatVLLM:
    """A chat model whose connection fails this way."""

    def fail(_: httpx2.Request) -> httpx2.Response:
        raise error("the line is dead")

    return ChatVLLM(model="m", http_async_client=httpx2.AsyncClient(transport=httpx2.MockTransport(fail)))


async def test_metadata_of_an_answer_is_whole(recorded: Any) -> None:
    """Usage, finish reason, token ids and log probabilities are kept."""
    answer = await recorded("answer.json").llm().ainvoke("Say hi")
    assert answer.content == "I'm glad to meet"
    assert answer.usage_metadata["total_tokens"] == 37
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["model_provider"] == "vllm"
    assert len(answer.response_metadata["token_ids"]) == 5
    assert len(answer.response_metadata["prompt_token_ids"]) == 32
    assert len(answer.response_metadata["logprobs"]["content"]) == 5


def test_the_blocking_way_says_the_same(recorded: Any) -> None:
    """``invoke`` and ``ainvoke`` read the same answer."""
    assert recorded("answer.json").llm().invoke("Say hi").content == "I'm glad to meet"


async def test_a_tool_call_is_read(recorded: Any) -> None:
    """A forced call has its name and arguments."""
    answer = await recorded("tool.json").llm().ainvoke("Add 1 and 2.")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("add", {"a": 1, "b": 2})]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_becomes_a_block(recorded: Any, name: str) -> None:
    """The reasoning of a whole answer stands before its text."""
    engine = recorded("answer.json")
    body = orjson.loads(engine.body)
    body["choices"][0]["message"] |= {"reasoning": None, name: "They want a greeting."}
    engine.body = orjson.dumps(body)
    answer = await engine.llm().ainvoke("Say hi")
    assert [block["type"] for block in answer.content_blocks] == ["reasoning", "text"]
    assert answer.additional_kwargs["reasoning_content"] == "They want a greeting."


async def test_each_of_several_answers_keeps_its_own_end(recorded: Any) -> None:
    """With n=2 one answer may stop and the other run out of tokens."""
    engine = recorded("answer.json")
    body = orjson.loads(engine.body)
    body["choices"].append({**body["choices"][0], "index": 1, "finish_reason": "stop", "stop_reason": "."})
    engine.body = orjson.dumps(body)
    result = await engine.llm(n=2).agenerate([[HumanMessage("Say hi")]])
    assert [made.generation_info["finish_reason"] for made in result.generations[0]] == ["length", "stop"]


async def test_too_long_a_conversation_has_an_error_of_its_own(recorded: Any) -> None:
    """The engine's sentence is kept, with the numbers in it."""
    with pytest.raises(ContextOverflowError, match="maximum context length is 2048 tokens"):
        await recorded("overflow.json", 400).llm().ainvoke("hi")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ModelInvalidRequestError),
        (401, ModelAuthenticationError),
        (403, ModelPermissionDeniedError),
        (404, ModelNotFoundError),
        (422, ModelInvalidRequestError),
        (429, ModelRateLimitError),
        (500, ModelAPIError),
        (503, ModelAPIError),
    ],
)
async def test_a_status_has_a_type(sending: Any, status: int, kind: type[ModelError]) -> None:
    """Every error answer is one of LangChain's errors, and still the SDK's."""
    engine = sending()
    engine.body, engine.status = b'{"error": {"message": "no", "code": 1}}', status
    with pytest.raises(kind, match="no") as caught:
        await engine.llm().ainvoke("hi")
    assert isinstance(caught.value, openai.APIStatusError)


@pytest.mark.parametrize(
    ("error", "kind"), [(httpx2.ConnectError, ModelConnectionError), (httpx2.ReadTimeout, ModelTimeoutError)]
)
async def test_a_lost_connection_has_a_type(error: type[Exception], kind: type[ModelError]) -> None:
    """What the HTTP client raises becomes one of LangChain's errors, in a stream too."""
    with pytest.raises(kind):
        await refusing(error).ainvoke("hi")
    with pytest.raises(kind):
        await anext(refusing(error).astream("hi"))


async def test_the_transports_own_error_passes_untouched() -> None:
    """A transport may know more than that the connection failed, as that the model is still loading."""

    class StillLoading(Exception):  # noqa: N818
        pass

    with pytest.raises(StillLoading):
        await refusing(StillLoading).ainvoke("hi")


@pytest.mark.parametrize("body", [b"<html>It works!</html>", b"[]", b'{"choices": null}', b'{"detail": "Not Found"}'])
async def test_another_servers_answer_is_not_taken_for_one(sending: Any, body: bytes) -> None:
    """HTTP 200 from something that is no engine is an error, and shows how it began."""
    engine = sending()
    engine.body = body
    with pytest.raises(NotAnAnswerError) as caught:
        await engine.llm().ainvoke("hi")
    assert isinstance(caught.value, ModelAPIError)
