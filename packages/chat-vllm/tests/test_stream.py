"""What ``ChatVLLM`` makes of vLLM's streams, from bytes that vLLM sent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from chat_vllm import ChatVLLM, EngineStreamCutError, EngineStreamError
from langchain_core.exceptions import ContextOverflowError, ModelAPIError, ModelConnectionError


def delta(finish: str | None = None, **content: Any) -> dict[str, Any]:
    """One event of a stream in vLLM's form."""
    choice = {"index": 0, "delta": content, "logprobs": None, "finish_reason": finish, "stop_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


async def test_text_arrives_in_the_engines_pieces(recorded: Any) -> None:
    """Each event of the engine is one chunk, and their sum is the answer."""
    chunks = [chunk async for chunk in recorded("stream.sse").llm().astream("Say hi")]
    assert [chunk.content for chunk in chunks if chunk.content] == ["I", "'m", " glad", " to", " meet"]


def test_the_blocking_stream_says_the_same(recorded: Any, add_up: Any) -> None:
    """``stream`` and ``astream`` give equal sums."""
    engine = recorded("stream.sse")
    blocking = add_up(engine.llm().stream("Say hi"))
    assert blocking.content == "I'm glad to meet"
    assert blocking.usage_metadata["output_tokens"] == 5


async def test_a_chunk_does_not_wait_for_the_next() -> None:
    """The first token is given out while the engine still computes the second."""
    released = asyncio.Event()

    class Slow(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'data: {"choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}\n\n'
            await released.wait()
            yield b'data: {"choices":[{"index":0,"delta":{"content":"two"},"finish_reason":"stop"}]}\n\n'

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Slow())

    llm = ChatVLLM(model="m", http_async_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer)))
    stream = llm.astream("hi")
    assert (await anext(stream)).content == "one"
    released.set()
    assert [chunk.content async for chunk in stream if chunk.content] == ["two"]


async def test_leaving_a_stream_closes_the_connection() -> None:
    """A caller that goes away lets the engine know at once."""
    closed = asyncio.Event()

    class Endless(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b'data: {"choices":[{"index":0,"delta":{"content":"on"},"finish_reason":null}]}\n\n'
                await asyncio.sleep(0)

        async def aclose(self) -> None:
            closed.set()

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Endless())

    llm = ChatVLLM(model="m", http_async_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer)))

    async def listen() -> None:
        async for _ in llm.astream("hi"):
            heard.set()

    heard = asyncio.Event()
    task = asyncio.create_task(listen())
    await asyncio.wait_for(heard.wait(), 10)
    task.cancel()
    await asyncio.wait_for(closed.wait(), 10)


async def test_metadata_of_a_stream_is_whole(recorded: Any, add_up: Any) -> None:
    """Usage, finish reason, token ids, log probabilities and the engine's id survive the sum."""
    engine = recorded("stream.sse")
    whole = add_up([chunk async for chunk in engine.llm(return_token_ids=True, logprobs=True).astream("Say hi")])
    metadata = whole.response_metadata
    assert whole.usage_metadata == {
        "input_tokens": 32,
        "output_tokens": 5,
        "total_tokens": 37,
        "input_token_details": {},
        "output_token_details": {},
    }
    assert metadata["finish_reason"] == "length"
    assert metadata["model_provider"] == "vllm"
    assert metadata["model_name"] == "smollm2"
    assert metadata["id"].startswith("chatcmpl-")
    assert len(metadata["token_ids"]) == 5
    assert len(metadata["prompt_token_ids"]) == 32
    assert [entry["token"] for entry in metadata["logprobs"]["content"]] == ["I", "'m", " glad", " to", " meet"]


async def test_the_stop_text_that_ended_an_answer_is_named(recorded: Any, add_up: Any) -> None:
    """``stop_reason`` tells which of several stop texts it was."""
    whole = add_up([chunk async for chunk in recorded("stop.sse").llm(stop=[" to"]).astream("Say hi")])
    assert whole.content == "I'm glad"
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.response_metadata["stop_reason"] == " to"


async def test_a_streamed_tool_call_is_put_together(recorded: Any, add_up: Any) -> None:
    """Name and arguments arrive in pieces and end as one call."""
    whole = add_up([chunk async for chunk in recorded("tool.sse").llm().astream("Add 1 and 2.")])
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("add", {"a": 1, "b": 2})]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_stays_apart_from_the_answer(sending: Any, add_up: Any, name: str) -> None:
    """Reasoning becomes a reasoning block and no part of the text, whatever the engine calls it."""
    events = (
        delta(role="assistant", content=""),
        delta(**{name: "Two and "}),
        delta(**{name: "two."}),
        delta(content="Four."),
        delta("stop"),
    )
    whole = add_up([chunk async for chunk in sending(*events).llm().astream("2 + 2?")])
    assert whole.content == "Four."
    assert whole.content_blocks == [
        {"type": "reasoning", "reasoning": "Two and two."},
        {"type": "text", "text": "Four."},
    ]


async def test_an_error_inside_a_stream_is_raised(sending: Any) -> None:
    """A dead engine core is reported under HTTP 200 and followed by ``[DONE]``: no end of an answer."""
    gone = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}
    with pytest.raises(EngineStreamError, match="EngineCore encountered an issue") as caught:
        async for _ in sending(delta(content="Once upon"), gone).llm().astream("hi"):
            pass
    assert caught.value.status == 500
    assert isinstance(caught.value, ModelAPIError)


async def test_an_answer_that_the_engine_gave_up_is_not_called_whole(sending: Any) -> None:
    """A vLLM that shuts down ends its answers with the finish reason "abort": what came before it is kept."""
    stream = sending(delta(content="Once upon"), delta("abort", content="")).llm().astream("hi")
    assert (await anext(stream)).content == "Once upon"
    with pytest.raises(EngineStreamCutError, match="gave up"):
        await anext(stream)


async def test_a_context_that_overflows_inside_a_stream_keeps_its_name(sending: Any) -> None:
    """The same sentence means the same in a stream."""
    told = {"error": {"message": "This model's maximum context length is 2048 tokens.", "code": 400}}
    with pytest.raises(ContextOverflowError):
        async for _ in sending(told).llm().astream("hi"):
            pass


@pytest.mark.parametrize("done", [True, False])
async def test_a_stream_that_ends_too_early_is_an_error(sending: Callable[..., Any], done: bool) -> None:  # noqa: FBT001
    """Without a finish reason the answer is not whole, ``[DONE]`` or not."""
    with pytest.raises(EngineStreamCutError) as caught:
        async for _ in sending(delta(content="Once upon"), done=done).llm().astream("hi"):
            pass
    assert isinstance(caught.value, ModelConnectionError)


def test_the_blocking_stream_raises_too(sending: Any) -> None:
    """The two ways to stream agree on what is whole."""
    with pytest.raises(EngineStreamCutError):
        list(sending(delta(content="Once upon")).llm().stream("hi"))


async def test_several_answers_are_not_streamed(sending: Any) -> None:
    """Chunks of two answers would be added up to nonsense."""
    with pytest.raises(ValueError, match="n > 1"):
        await anext(sending().llm().astream("hi", n=2))


async def test_usage_can_be_left_out(recorded: Any) -> None:
    """It is asked for by default, and not where the caller says so."""
    engine = recorded("stream.sse")
    assert [chunk async for chunk in engine.llm().astream("hi")]
    assert engine.asked["stream_options"] == {"include_usage": True}
    assert [chunk async for chunk in engine.llm(stream_usage=False).astream("hi")]
    assert "stream_options" not in engine.asked
