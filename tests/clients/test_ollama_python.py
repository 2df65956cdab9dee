"""Ollama's own Python client, unmodified, against the real product."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.processes import eventually

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]
EXACT = {"temperature": 0, "num_predict": 12}
SCHEMA: Any = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}


@pytest.fixture(scope="module")
def client(product: Any) -> Iterator[ollama.Client]:
    """The client."""
    client = ollama.Client(host=product.url, timeout=120)
    yield client
    client.close()


def test_models_are_listed_shown_and_seen_running(client: Any) -> None:
    """By the names that Ollama's clients show."""
    assert {"smollm2:latest", "minilm:latest", "emoji-32:latest"} <= {model.model for model in client.list().models}
    assert "smollm2:latest" in [model.model for model in client.ps().models]
    assert client.show("smollm2").capabilities == ["completion"]
    assert client.show("minilm").capabilities == ["embedding"]


@pytest.mark.parametrize("model", ["smollm2", "smollm2:latest", "smollm2:raw"])
def test_a_chat_is_answered(client: Any, model: str) -> None:
    """By the chain, or by the engine raw; with the counts."""
    answer = client.chat(model, messages=QUESTION, options=EXACT)
    assert "Paris" in (answer.message.content or "")
    assert answer.done_reason == "stop"
    assert (answer.prompt_eval_count or 0) > 10
    assert (answer.total_duration or 0) > 0


def test_a_stream_adds_up_to_the_answer(client: Any) -> None:
    """Line by line; the last has the counts."""
    whole = client.chat("smollm2", messages=STORY, options=EXACT)
    *pieces, last = client.chat("smollm2", messages=STORY, options=EXACT, stream=True)
    assert len(pieces) > 4
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert (last.done, last.done_reason, last.eval_count) == (True, "length", 12)


def test_a_generation_is_an_answer_or_goes_on_raw(client: Any) -> None:
    """With a system prompt; without a template; whole or streamed."""
    answer = client.generate("smollm2", prompt="What is the capital of France?", system="You are brief.", options=EXACT)
    raw: Any = {"prompt": "The capital of France is", "raw": True, "options": EXACT}
    continued = client.generate("smollm2", **raw)
    streamed = client.generate("smollm2", **raw, stream=True)
    assert answer.response
    assert "Paris" in continued.response
    assert "".join(piece.response for piece in streamed) == continued.response


def test_an_answer_follows_its_schema(client: Any) -> None:
    """``format`` is a JSON schema."""
    answer = client.chat("smollm2", messages=QUESTION, format=SCHEMA, options={"num_predict": 16})
    assert '"Paris"' in (answer.message.content or "")


def test_tools_and_their_results_are_taken(client: Any) -> None:
    """Made from Python functions by the client; their calls have no ids."""

    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: Where.
        """
        return f"sunny in {city}"

    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    turns: list[Any] = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": weather("Paris")},
    ]
    answer = client.chat("smollm2", messages=turns, tools=[weather], options=EXACT)
    assert answer.done


def test_likelihoods_are_told(client: Any) -> None:
    """Of the tokens and of the likeliest others."""
    answer = client.chat("smollm2", messages=QUESTION, options=EXACT, logprobs=True, top_logprobs=2)
    assert answer.logprobs
    assert len(answer.logprobs[0].top_logprobs or ()) == 2


def test_texts_are_embedded(client: Any) -> None:
    """Several at once, cut to what the model takes, and in the old form."""
    told = client.embed("minilm", input=["a text", "a word " * 500])
    assert [len(vector) for vector in told.embeddings] == [384, 384]
    assert len(client.embeddings("minilm", prompt="a text").embedding) == 384


def test_a_picture_is_drawn(client: Any) -> None:
    """In the field that generate has for it."""
    drawn = client.generate("emoji-32", prompt="a red apple", width=32, height=32, steps=2)
    assert base64.b64decode(drawn.image or "").startswith(b"\x89PNG")


def test_a_model_is_loaded_by_asking_nothing(client: Any) -> None:
    """As Ollama's clients do before they ask."""
    assert client.generate("smollm2").done_reason == "load"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "nobody"}, 404, "There is no model"),
        ({"options": {"temperature": 9}}, 400, "options.temperature"),
        ({"options": {"mirostat": 1}}, 400, "options.mirostat"),
        ({"messages": [{"role": "user", "content": "hello " * 20_000}]}, 400, "context"),
    ],
)
def test_an_error_is_the_clients_own(client: Any, change: dict[str, Any], status: int, said: str) -> None:
    """Whole or streamed."""
    asked: dict[str, Any] = {"model": "smollm2", "messages": QUESTION, **change}
    with pytest.raises(ollama.ResponseError, match=said) as told:
        client.chat(**asked)
    assert told.value.status_code == status
    with pytest.raises(ollama.ResponseError, match=said):
        list(client.chat(**asked, stream=True))


def test_models_are_not_managed_by_clients(client: Any) -> None:
    """models.json lists them."""
    for manage in (client.pull, client.push, client.delete):
        with pytest.raises(ollama.ResponseError, match=r"models\.json"):
            manage("smollm2")


async def test_leaving_frees_the_engine(product: Any) -> None:
    """Whole or streamed, as the engine's own metrics say."""

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    options = {"num_predict": 1500}
    client: Any = ollama.AsyncClient(host=product.url)
    async with client:

        async def stream() -> None:
            async for _ in await client.chat("smollm2", messages=STORY, options=options, stream=True):
                pass

        for ask in (lambda: client.chat("smollm2", messages=STORY, options=options), stream):
            await eventually(count, lambda running: running == 0, within=60)
            task = asyncio.create_task(ask())
            await eventually(count, lambda running: running > 0, within=60)
            task.cancel()
            await asyncio.wait([task])
            await eventually(count, lambda running: running == 0, within=2)
