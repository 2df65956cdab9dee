"""LangServe's own Python client, unmodified, gets from this server what it gets from any LangServe, and more."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langserve import RemoteRunnable  # noqa: TID251 -- the client under test

from tests.processes import eventually

pytestmark = [  # the client's own
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
    pytest.mark.filterwarnings("ignore:.*model_fields.* attribute"),
]

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
STORY = {"messages": [{"role": "user", "content": "Tell me a long story about a lighthouse."}]}
EXACT: Any = {"configurable": {"temperature": 0, "max_tokens": 48}}
LONG: Any = {"configurable": {"temperature": 1, "max_tokens": 1500}}
SHORT: Any = {"configurable": {"temperature": 0, "max_tokens": 8}}


@pytest.fixture(scope="module")
def chain(product: Any) -> "RemoteRunnable[Any, AIMessage]":
    """The client of the default model."""
    return RemoteRunnable(f"{product.url}/smollm2", timeout=150)


async def pieces(stream: AsyncIterator[AIMessage]) -> list[tuple[float, str]]:
    """Return every piece of text with the time it came."""
    return [(time.monotonic(), str(chunk.content)) async for chunk in stream if chunk.content]


async def test_invoke_answers_with_an_ai_message(chain: Any) -> None:
    """The capital of France comes back as LangChain's own message class, with its usage."""
    answer = await chain.ainvoke(QUESTION, EXACT)
    assert isinstance(answer, AIMessage)
    assert "Paris" in answer.content
    assert answer.usage_metadata is not None
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_invoke_answers_without_an_event_loop_too(chain: Any) -> None:
    """The blocking half of the client."""
    assert chain.invoke(QUESTION, SHORT).content


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        [HumanMessage("What is the capital of France?")],
        {"messages": [HumanMessage("What is the capital of France?")]},
        {"messages": [{"type": "human", "content": "What is the capital of France?"}]},
        {"messages": [("user", "What is the capital of France?")]},
    ],
)
async def test_every_form_of_the_input_is_the_same_question(chain: Any, question: Any) -> None:
    """At temperature 0 the same question has the same answer."""
    assert (await chain.ainvoke(question, SHORT)).content == (await chain.ainvoke(QUESTION, SHORT)).content


async def test_a_conversation_keeps_its_roles(chain: Any) -> None:
    """System, human and AI messages are taken as LangChain's objects."""
    turns = [
        SystemMessage("You are a helpful assistant."),
        HumanMessage("Hi"),
        AIMessage("Hello!"),
        HumanMessage("Bye"),
    ]
    assert (await chain.ainvoke({"messages": turns}, SHORT)).content


async def test_tokens_arrive_one_after_the_other(chain: Any) -> None:
    """The answer comes in many pieces spread over time, not in one at the end."""
    arrived = await pieces(chain.astream(STORY, EXACT))
    assert len(arrived) >= 24
    moments = [moment for moment, _ in arrived]
    spread = moments[-1] - moments[0]
    assert spread > 0.2
    assert len({round(moment, 3) for moment in moments}) >= 12


async def test_the_stream_adds_up_to_the_invoke(chain: Any) -> None:
    """At temperature 0, to the letter; and the sum of the chunks keeps the usage and the reason of the end."""
    streamed: AIMessageChunk | None = None
    async for chunk in chain.astream(STORY, EXACT):
        streamed = chunk if streamed is None else streamed + chunk
    whole = await chain.ainvoke(STORY, EXACT)
    assert streamed is not None
    assert streamed.content == whole.content
    assert streamed.usage_metadata == whole.usage_metadata
    assert streamed.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]


async def test_a_batch_answers_in_its_order(chain: Any) -> None:
    """Told by the length of each prompt: texts may differ with what the engine computes beside them."""
    questions = ["Hi", "Hi there, how are you today?", "Hi there"]
    lengths = [(await chain.ainvoke(question, SHORT)).usage_metadata["input_tokens"] for question in questions]
    answers = await chain.abatch(questions, SHORT)
    assert [answer.usage_metadata["input_tokens"] for answer in answers] == lengths
    assert len(set(lengths)) == len(lengths)


async def test_inputs_of_a_batch_may_fail_alone(product: Any) -> None:
    """The client refuses return_exceptions, and sends headers: the failed one has an error in its place."""
    url, headers = f"{product.url}/smollm2", {"Prefer": "return-exceptions"}
    tolerant: RemoteRunnable[Any, Any] = RemoteRunnable(url, timeout=150, headers=headers)
    good, bad = await tolerant.abatch(["Hi", "hello " * 20_000], SHORT)
    assert isinstance(good, AIMessage)
    assert bad["error"]["type"] == "context_too_long"


async def test_events_tell_every_step(chain: Any) -> None:
    """From the chain's start to its end, with the model's tokens between."""
    events = [event async for event in chain.astream_events(QUESTION, EXACT, version="v2")]
    names = [event["event"] for event in events]
    assert names[0] == "on_chain_start"
    assert names[-1] == "on_chain_end"
    tokens = [event["data"]["chunk"].content for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(tokens) == (await chain.ainvoke(QUESTION, EXACT)).content


async def test_the_log_adds_up_to_the_answer(chain: Any) -> None:
    """JSON patches, of which the last state holds the whole message."""
    state: Any = None
    async for patch in chain.astream_log(QUESTION, EXACT):
        state = patch if state is None else state + patch
    assert state.state["final_output"].content == (await chain.ainvoke(QUESTION, EXACT)).content


@pytest.mark.parametrize(
    ("question", "config", "status", "kind"),
    [
        ("hello " * 20_000, SHORT, 400, "context_too_long"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, SHORT, 422, "invalid_input"),
        ("Hi", {"configurable": {"temperature": 9}}, 422, "invalid_input"),
    ],
)
async def test_an_error_has_its_status(chain: Any, question: Any, config: Any, status: int, kind: str) -> None:
    """In every way of asking; the message names the error."""
    with pytest.raises(httpx.HTTPStatusError, match=kind) as told:
        await chain.ainvoke(question, config)
    assert told.value.response.status_code == status
    for stream in (chain.astream(question, config), chain.astream_events(question, config, version="v2")):
        with pytest.raises(httpx.HTTPStatusError) as told:
            await anext(stream)
        assert told.value.response.status_code == status


@pytest.mark.parametrize("way", ["invoke", "batch", "stream", "stream_events"])
async def test_leaving_frees_the_engine(chain: Any, product: Any, way: str) -> None:
    """The engine's own metrics say that nothing runs a moment after the client has gone."""

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    ways: dict[str, Any] = {
        "invoke": lambda: chain.ainvoke(STORY, LONG),
        "batch": lambda: chain.abatch([STORY] * 3, LONG),
        "stream": lambda: pieces(chain.astream(STORY, LONG)),
        "stream_events": lambda: drain(chain.astream_events(STORY, LONG, version="v2")),
    }
    await eventually(count, lambda running: running == 0, within=60)
    asking = asyncio.create_task(ways[way]())
    await eventually(count, lambda running: running > 0, within=60)
    asking.cancel()
    await asyncio.wait([asking])
    await eventually(count, lambda running: running == 0, within=2)


async def drain(events: AsyncIterator[Any]) -> None:
    """Read to the end."""
    async for _ in events:
        pass


async def test_an_answer_follows_a_schema_of_the_config(chain: Any) -> None:
    """The engine holds it to the schema while it samples, whatever a small model would rather say."""
    schema = {
        "title": "capital",
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "river": {"type": "boolean"}},
        "required": ["city", "river"],
        "additionalProperties": False,
    }
    config: Any = {"configurable": {"temperature": 0, "max_tokens": 60, "response_format": schema}}
    said = json.loads((await chain.ainvoke(QUESTION, config)).content)
    assert set(said) == {"city", "river"}
    assert isinstance(said["river"], bool)


async def test_a_session_is_remembered(chain: Any) -> None:
    """The second question is asked with the first and its answer: its prompt is longer by both."""
    config: Any = {"configurable": {**SHORT["configurable"], "session_id": f"client-{uuid.uuid4().hex}"}}
    first = await chain.ainvoke("Hi", config)
    second = await chain.ainvoke("Hi", config)
    used = first.usage_metadata
    assert second.usage_metadata["input_tokens"] > used["input_tokens"] + used["output_tokens"]
