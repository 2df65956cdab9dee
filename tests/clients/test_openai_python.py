"""OpenAI's own Python client, unmodified, and LangChain's ChatOpenAI, against the real product."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import httpx2
import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.processes import eventually

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]
LONG = [{"role": "user", "content": "hello " * 20_000}]
EXACT: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
FORCED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def client(product: Any) -> Iterator[openai.OpenAI]:
    """The client."""
    with openai.OpenAI(base_url=f"{product.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def asking(product: Any) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The client's asynchronous half."""
    async with openai.AsyncOpenAI(base_url=f"{product.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_models_are_listed_by_chain_and_by_engine(client: Any) -> None:
    """And each may be described."""
    names = [model.id for model in client.models.list()]
    assert {"smollm2", "smollm2:raw", "minilm", "emoji-32"} <= set(names)
    assert client.models.retrieve("smollm2:raw").id == "smollm2:raw"


def test_a_chat_is_answered(client: Any) -> None:
    """With its usage, and why it ended."""
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, **EXACT)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_chain_answers_unless_the_engine_is_asked_raw(client: Any) -> None:
    """The chain's system prompt is other than the template's own, so their prompts differ in length."""
    counts = {
        model: client.chat.completions.create(model=model, messages=QUESTION, **EXACT).usage
        for model in ("smollm2", "smollm2:raw")
    }
    chain, raw = counts["smollm2"], counts["smollm2:raw"]
    assert chain is not None
    assert raw is not None
    assert chain.prompt_tokens != raw.prompt_tokens


def test_a_stream_adds_up_to_the_answer_and_ends_with_its_usage(client: Any) -> None:
    """Token by token, over time."""
    options: Any = {"model": "smollm2", "messages": STORY, "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**options)
    moments: list[float] = []
    text = ""
    usage: Any = None
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            moments.append(time.monotonic())
    assert text == whole.choices[0].message.content
    assert usage.completion_tokens == 16
    assert len({round(moment, 3) for moment in moments}) > 4


async def test_a_streams_first_tokens_come_while_the_engine_computes(asking: Any, product: Any) -> None:
    """By order, not by time, for this process may have to wait: the engine has most of its work before it."""

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    await eventually(count, lambda running: running == 0, within=60)
    options: Any = {"model": "smollm2", "messages": STORY, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
    async with await asking.chat.completions.create(**options, stream=True) as stream:
        for _ in range(5):
            await anext(stream)
        assert await count() > 0


def test_a_raw_stream_is_the_engines_byte_for_byte(product: Any) -> None:
    """But for its id and time: the same lines that the engine itself writes."""
    asked = {"messages": QUESTION, "temperature": 0, "max_tokens": 4, "stream": True}

    def lines(url: str, model: str) -> list[str]:
        text = httpx.post(f"{url}/v1/chat/completions", json={**asked, "model": model}, timeout=60).text
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        told: list[Any] = [json.loads(event) for event in events if event != "[DONE]"]
        return [json.dumps({**event, "id": "", "created": 0}) for event in told] + events[-1:]

    assert lines(product.url, "smollm2:raw") == lines(product.engine_url, "smollm2")


def test_several_answers_are_several_choices(client: Any) -> None:
    """Each sampled on its own; whole and streamed."""
    asked: Any = {"model": "smollm2", "messages": STORY, "max_tokens": 8, "temperature": 1.5, "seed": 1, "n": 3}
    answer = client.chat.completions.create(**asked)
    assert len({choice.message.content for choice in answer.choices}) > 1
    indexes = {
        choice.index for chunk in client.chat.completions.create(**asked, stream=True) for choice in chunk.choices
    }
    assert indexes == {0, 1, 2}


def test_a_forced_tool_is_called_with_arguments_of_its_schema(client: Any) -> None:
    """Its result goes back, and is answered."""
    asked: Any = {"model": "smollm2", "temperature": 0, "tools": [TOOL], "max_tokens": 64}
    message = client.chat.completions.create(messages=QUESTION, tool_choice=FORCED, **asked).choices[0].message
    (call,) = message.tool_calls
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns: list[Any] = [*QUESTION, message.model_dump(exclude_none=True), result]
    told = client.chat.completions.create(messages=turns, **{**asked, "max_tokens": 8, "tool_choice": "none"})
    assert told.choices[0].message.content


def test_a_call_is_streamed_in_pieces(client: Any) -> None:
    """Id and name once, the arguments as they come."""
    asked = {"temperature": 0, "max_tokens": 64, "tools": [TOOL], "tool_choice": FORCED}
    pieces = [
        piece
        for chunk in client.chat.completions.create(model="smollm2", messages=QUESTION, **asked, stream=True)
        for choice in chunk.choices
        for piece in choice.delta.tool_calls or ()
    ]
    assert [piece.id for piece in pieces if piece.id] == [pieces[0].id]
    assert pieces[0].function is not None
    assert pieces[0].function.name == "weather"
    arguments = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert json.loads(arguments) == {"city": "Paris"}


class City(BaseModel):
    """An answer."""

    yes: bool


def test_an_answer_follows_its_schema(client: Any) -> None:
    """Through the client's own parsing of pydantic classes."""
    parsed = client.chat.completions.parse(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=40, response_format=City
    )
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_likelihoods_are_told(client: Any) -> None:
    """Of the tokens and of the likeliest others."""
    answer = client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=2, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [len(token.top_logprobs) for token in logprobs.content or ()] == [2, 2]


def test_a_stop_ends_the_answer(client: Any) -> None:
    """As the same seed gives the same one."""
    asked: Any = {"model": "smollm2", "messages": QUESTION, "max_tokens": 12}
    stopped = client.chat.completions.create(**asked, temperature=0, stop="France")
    assert "France" not in (stopped.choices[0].message.content or "")
    first, second = (client.chat.completions.create(**asked, temperature=1, seed=5) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content


def test_prompts_are_completed(client: Any) -> None:
    """A chain answers a prompt, an engine goes on with it."""
    answered = client.completions.create(model="smollm2", prompt="What is the capital of France?", **EXACT)
    continued = client.completions.create(model="smollm2:raw", prompt="The capital of France is", **EXACT, logprobs=1)
    streamed = client.completions.create(model="smollm2", prompt="What is the capital of France?", **EXACT, stream=True)
    assert "Paris" in answered.choices[0].text
    assert "Paris" in continued.choices[0].text
    assert continued.choices[0].logprobs is not None
    assert "".join(chunk.choices[0].text for chunk in streamed) == answered.choices[0].text


def test_texts_are_embedded(client: Any) -> None:
    """The client asks for base64 unless told otherwise; both are the same numbers."""
    packed = client.embeddings.create(model="minilm", input=["a text", "another"])
    plain = client.embeddings.create(model="minilm", input="a text", encoding_format="float")
    assert [len(each.embedding) for each in packed.data] == [384, 384]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-4)


def test_pictures_are_drawn(client: Any) -> None:
    """As base64, or kept for a while at an address."""
    asked: Any = {"model": "emoji-32", "prompt": "a red apple", "extra_body": {"num_inference_steps": 2, "seed": 1}}
    drawn = client.images.generate(**asked, size="32x32")
    kept = client.images.generate(**asked, response_format="url")
    assert drawn.data is not None
    assert kept.data is not None
    assert base64.b64decode(drawn.data[0].b64_json or "").startswith(b"\x89PNG")
    assert httpx.get(kept.data[0].url or "", timeout=10).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 9}, openai.BadRequestError, "invalid_input"),
        ({"extra_body": {"surprise": 1}}, openai.BadRequestError, "invalid_input"),
        ({"messages": LONG}, openai.BadRequestError, "context_length_exceeded"),
        ({"model": "minilm"}, openai.BadRequestError, "refused"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
            openai.BadRequestError,
            "refused",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_the_clients_own(
    client: Any,
    change: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Whole or streamed, with a code that does not change."""
    asked: dict[str, Any] = {"model": "smollm2", "messages": QUESTION, **change}
    with pytest.raises(kind) as told:
        client.chat.completions.create(**asked, stream=stream)
    assert told.value.code == code


def test_what_is_not_there_is_told(client: Any) -> None:
    """The Responses API, for one."""
    with pytest.raises(openai.NotFoundError, match="no such route"):
        client.responses.create(model="smollm2", input="Hi")


@pytest.mark.parametrize("model", ["smollm2", "smollm2:raw"])
@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_frees_the_engine(
    asking: Any,
    product: Any,
    model: str,
    stream: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Within a second, as the engine's own metrics say; whole answers too."""

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    async def ask() -> None:
        options: Any = {"model": model, "messages": STORY, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
        if not stream:
            await asking.chat.completions.create(**options)
            return
        async for _ in await asking.chat.completions.create(**options, stream=True):
            pass

    await eventually(count, lambda running: running == 0, within=60)
    task = asyncio.create_task(ask())
    await eventually(count, lambda running: running > 0, within=60)
    task.cancel()
    await asyncio.wait([task])
    await eventually(count, lambda running: running == 0, within=2)


async def test_chat_openai_asks_streams_and_calls(langchain: dict[str, Any]) -> None:
    """LangChain's own chat model for OpenAI: answers, chunks with their usage, a forced tool, a schema."""
    common = {**langchain, "model": "smollm2", "temperature": 0, "max_retries": 0, "stream_usage": True}
    short: Any = {**common, "max_tokens": 12}
    long: Any = {**common, "max_tokens": 64}
    llm = ChatOpenAI(**short)
    answer = await llm.ainvoke("What is the capital of France?")
    streamed: AIMessageChunk | None = None
    async for chunk in llm.astream("What is the capital of France?"):
        assert isinstance(chunk, AIMessageChunk)
        streamed = chunk if streamed is None else streamed + chunk
    assert "Paris" in answer.text
    assert streamed is not None
    assert streamed.text == answer.text
    assert streamed.usage_metadata == answer.usage_metadata
    roomy: Any = ChatOpenAI(**long)
    called = await roomy.bind_tools([TOOL], tool_choice="weather").ainvoke("How is the weather in Paris?")
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "Paris"})]
    assert isinstance(await roomy.with_structured_output(City).ainvoke("Is Paris in France?"), City)


async def test_openai_embeddings_of_langchain_embed(langchain: dict[str, Any]) -> None:
    """Told not to send OpenAI's token ids."""
    embeddings = OpenAIEmbeddings(**langchain, model="minilm", check_embedding_ctx_length=False)
    assert len(await embeddings.aembed_query("a text")) == 384


@pytest.fixture
async def langchain(product: Any) -> AsyncGenerator[dict[str, Any]]:
    """What LangChain's classes for OpenAI are given; their connections are closed afterwards."""
    async with httpx2.AsyncClient(timeout=120) as connections:
        yield {"base_url": f"{product.url}/v1", "api_key": "unused", "http_async_client": connections}
