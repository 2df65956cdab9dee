"""LangChain's JavaScript RemoteRunnable, unmodified, gets from this server what it gets from any LangServe."""

import asyncio
import json
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from tests.processes import eventually
from tests.surroundings import missing, node

FOLDER = Path(__file__).parent / "js"
STORY = [{"role": "user", "content": "Tell me a story about a lighthouse."}]


class Client(Protocol):
    """Runs one operation of client.mjs, and returns the JSON lines it prints."""

    async def __call__(self, operation: str) -> list[dict[str, Any]]:
        """Run it."""
        ...


TRIES = 6
MOMENTS = 10
"""Five milliseconds each, that the chunks of an answer of 48 tokens come in at least."""


@pytest.fixture(scope="session")
def javascript(product: Any) -> Client:
    """The client, calling smollm2."""
    if not (FOLDER / "node_modules" / "@langchain" / "core").exists():
        missing("@langchain/core (make dev installs it)")
    program = node()

    async def run(operation: str) -> list[dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            program,
            "client.mjs",
            f"{product.url}/smollm2",
            operation,
            cwd=FOLDER,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(150):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return [json.loads(line) for line in output.splitlines()]

    return run


async def test_invoke_answers_with_an_ai_message(javascript: Client) -> None:
    """The capital of France comes back as LangChain's own message class."""
    (answer,) = await javascript("invoke")
    assert answer["kind"] == "AIMessage"
    assert "Paris" in answer["content"]


async def test_a_conversation_of_all_roles_arrives_whole(javascript: Client, product: Any) -> None:
    """Message objects of every role get the answer that the same conversation gets as plain JSON."""
    (answer,) = await javascript("conversation")
    conversation = [
        {"role": "system", "content": "Answer in one short sentence."},
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": "What is my name?"},
    ]
    assert answer["content"] == await invoked(product.url, conversation)


async def test_stream_yields_chunks_over_time_that_sum_to_the_invoke(javascript: Client, product: Any) -> None:
    """Chunks come one after the other, and together are what an invoke at temperature 0 says.

    The engine may leave Node no core until its answer is done: then all chunks are read at once. What a service holds
    back comes in bursts every time.
    """
    answer, moments = await invoked(product.url), set[int]()
    for _ in range(TRIES):
        chunks = await javascript("stream")
        assert {chunk["kind"] for chunk in chunks} == {"AIMessageChunk"}
        assert "".join(chunk["content"] for chunk in chunks) == answer
        moments = {round(chunk["at"] / 5) for chunk in chunks}
        if len(moments) > MOMENTS:
            return
    pytest.fail(f"the chunks came in bursts: in {len(moments)} moments")


async def test_batch_answers_in_the_order_of_its_inputs(javascript: Client) -> None:
    """Two questions, two answers, each to its own."""
    capital, story = await javascript("batch")
    assert "Paris" in capital["content"]
    assert "lighthouse" in story["content"].lower()


async def test_stream_events_tell_the_steps_and_every_token(javascript: Client, product: Any) -> None:
    """The chat model's stream events sum to the answer, between its start and its end."""
    events = await javascript("events")
    kinds = [event["event"] for event in events]
    assert kinds.index("on_chat_model_start") < kinds.index("on_chat_model_stream") < kinds.index("on_chat_model_end")
    streamed = "".join(event["content"] or "" for event in events if event["event"] == "on_chat_model_stream")
    assert streamed == await invoked(product.url)


async def test_stream_log_patches_sum_to_the_answer(javascript: Client, product: Any) -> None:
    """Applying the JSON patches gives the whole output."""
    (log,) = await javascript("log")
    assert log["patches"] > 10
    assert log["content"] == await invoked(product.url)


async def test_an_aborted_stream_frees_its_request_in_the_engine(javascript: Client, product: Any) -> None:
    """AbortController ends the loop in JavaScript, and the computation in the engine."""
    (end,) = await javascript("abort")
    assert end["chunks"] == 3
    assert end["error"] == "AbortError"

    async def running() -> float:
        return product.metrics()["vllm:num_requests_running"]

    await eventually(running, lambda count: count == 0, within=5)


async def test_a_wrong_input_is_an_error_with_its_status(javascript: Client) -> None:
    """Invoke and stream throw, and the message tells the status."""
    invoke, stream = await javascript("wrong")
    assert "422" in invoke["error"]
    assert "422" in stream["error"]
    assert "undefined" not in stream["error"], "the client looks for a 'message' at the top of the body"


async def invoked(url: str, messages: list[dict[str, str]] = STORY) -> str:
    """What an invoke of these messages says, with the client's sampling."""
    body = {"input": {"messages": messages}, "config": {"configurable": {"temperature": 0, "max_tokens": 48}}}
    async with httpx.AsyncClient(timeout=120) as client:
        response = await client.post(f"{url}/smollm2/invoke", json=body)
    return response.raise_for_status().json()["output"]["content"]
