"""Anthropic's own Python client, unmodified, against the real product."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any, cast

import anthropic
import pytest

from tests.processes import eventually

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]
EXACT: dict[str, Any] = {"model": "smollm2", "max_tokens": 12, "extra_body": {"temperature": 0}}
TOOL: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
FORCED: Any = {"type": "tool", "name": "weather"}


@pytest.fixture(scope="module")
def client(product: Any) -> Iterator[anthropic.Anthropic]:
    """The client."""
    with anthropic.Anthropic(base_url=product.url, api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def asking(product: Any) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    """The client's asynchronous half."""
    async with anthropic.AsyncAnthropic(base_url=product.url, api_key="unused", max_retries=0) as client:
        yield client


def test_models_are_listed(client: Any) -> None:
    """Those that hold conversations."""
    assert "smollm2" in [model.id for model in client.models.list()]
    assert client.models.retrieve("smollm2").display_name == "SmolLM2 135M Instruct"


def test_a_message_is_answered(client: Any) -> None:
    """With its usage, and why it ended."""
    message = client.messages.create(messages=QUESTION, **EXACT)
    (block,) = message.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 10
    assert message.usage.output_tokens > 3


def test_a_stream_adds_up_to_the_message(client: Any) -> None:
    """By the client's own bookkeeping of its events."""
    whole = client.messages.create(messages=STORY, **EXACT)
    with client.messages.stream(messages=STORY, **EXACT) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 4
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 12)
    assert final.usage.input_tokens == whole.usage.input_tokens


def test_a_system_prompt_and_a_stop_sequence_hold(client: Any) -> None:
    """The sequence that ended the answer is told."""
    message = client.messages.create(messages=QUESTION, system="You are brief.", stop_sequences=["France"], **EXACT)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "France")


def test_a_forced_tool_is_called_and_its_result_answered(client: Any) -> None:
    """Arguments follow the schema; whole and streamed."""
    asked: dict[str, Any] = {**EXACT, "max_tokens": 64, "tools": [TOOL]}
    message = client.messages.create(messages=QUESTION, tool_choice=FORCED, **asked)
    with client.messages.stream(messages=QUESTION, tool_choice=FORCED, **asked) as stream:
        streamed = stream.get_final_message()
    for each in (message, streamed):
        (call,) = each.content
        assert call.type == "tool_use"
        assert (call.name, call.input, each.stop_reason) == ("weather", {"city": "Paris"}, "tool_use")
    call = message.content[0]
    assert call.type == "tool_use"
    turns: list[Any] = [
        *QUESTION,
        {"role": "assistant", "content": [block.to_dict() for block in message.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    answer = client.messages.create(messages=turns, **{**asked, "max_tokens": 8, "tool_choice": {"type": "none"}})
    assert answer.content


def test_an_answer_follows_its_schema(client: Any) -> None:
    """Structured output, enforced."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
    format_: Any = {"format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(messages=QUESTION, output_config=format_, **{**EXACT, "max_tokens": 16})
    assert message.content[0].type == "text"
    assert '"Paris"' in message.content[0].text


def test_tokens_are_counted_before_they_cost(client: Any) -> None:
    """Exactly as many as the answer's usage says, the chain's prompt included."""
    counted = client.messages.count_tokens(model="smollm2", messages=QUESTION)
    message = client.messages.create(messages=QUESTION, **EXACT)
    assert counted.input_tokens == message.usage.input_tokens


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError),
        ({"model": "emoji-32"}, anthropic.BadRequestError),
        ({"extra_body": {"temperature": 2}}, anthropic.BadRequestError),
        ({"extra_body": {"surprise": 1}}, anthropic.BadRequestError),
        ({"messages": [{"role": "user", "content": "hello " * 20_000}]}, anthropic.BadRequestError),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "The"}]}, anthropic.BadRequestError),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.BadRequestError),
    ],
)
def test_an_error_is_the_clients_own(client: Any, change: dict[str, Any], kind: type[anthropic.APIStatusError]) -> None:
    """Whole or streamed, with Anthropic's body."""
    asked = {**EXACT, "messages": QUESTION, **change}
    with pytest.raises(kind) as told:
        client.messages.create(**asked)
    assert cast("Any", told.value.body)["type"] == "error"
    with pytest.raises(kind), client.messages.stream(**asked) as stream:
        stream.until_done()


async def test_leaving_frees_the_engine(asking: Any, product: Any) -> None:
    """Whole or streamed, as the engine's own metrics say."""

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    async def stream() -> None:
        async with asking.messages.stream(model="smollm2", max_tokens=1500, messages=STORY) as events:
            await events.until_done()

    for ask in (lambda: asking.messages.create(model="smollm2", max_tokens=1500, messages=STORY), stream):
        await eventually(count, lambda running: running == 0, within=60)
        task = asyncio.create_task(ask())
        await eventually(count, lambda running: running > 0, within=60)
        task.cancel()
        await asyncio.wait([task])
        await eventually(count, lambda running: running == 0, within=2)
