"""Hugging Face's InferenceClient, unmodified, against the real product."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

from tests.processes import eventually

PROMPT = "What is the capital of France?"
QUESTION = [{"role": "user", "content": PROMPT}]
STORY = "Tell me a long story about a lighthouse."
EXACT: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
SCHEMA: Any = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
Open = Callable[[str], Any]
"""Opens a client of a URL below the product's; untyped, as its overloads want every argument spelled out."""


@pytest.fixture
def at(product: Any) -> Iterator[Open]:
    """Opens clients of URLs below the product's."""
    opened: list[InferenceClient] = []

    def open_at(path: str) -> InferenceClient:
        opened.append(InferenceClient(model=f"{product.url}{path}", token="unused", timeout=120))  # noqa: S106 -- none
        return opened[-1]

    yield open_at
    for client in opened:
        client.close()


@pytest.mark.parametrize("path", ["/models/smollm2", "", "/generate", "/models/smollm2/generate"])
def test_a_text_is_generated(at: Open, path: str) -> None:
    """At a model's URL, at TGI's root, and at TGI's own route."""
    assert "Paris" in at(path).text_generation(PROMPT, **EXACT)


@pytest.mark.parametrize("path", ["/models/smollm2", "/generate_stream"])
def test_a_stream_adds_up_to_the_text(at: Open, path: str) -> None:
    """Token by token; the last has the whole text and the counts."""
    client = at(path)
    whole = at("/models/smollm2").text_generation(STORY, **EXACT)
    tokens = list(client.text_generation(STORY, **EXACT, stream=True, details=True))
    assert "".join(token.token.text for token in tokens) == whole
    assert tokens[-1].generated_text == whole
    assert tokens[-1].details is not None
    assert (tokens[-1].details.finish_reason, tokens[-1].details.generated_tokens) == ("length", 12)
    assert all(isinstance(token.token.id, int) and token.token.logprob <= 0 for token in tokens)


def test_a_raw_model_continues_the_text(at: Open) -> None:
    """With the tokens' ids and likelihoods."""
    told = at("/models/smollm2:raw").text_generation("The capital of France is", **EXACT, details=True)
    assert "Paris" in told.generated_text
    assert told.details is not None
    assert len(told.details.tokens) == told.details.generated_tokens == 12


def test_grammars_and_stops_hold(at: Open) -> None:
    """A JSON schema, a regular expression, and a text that ends the answer."""
    client = at("/models/smollm2")
    shaped = client.text_generation(PROMPT, max_new_tokens=16, grammar={"type": "json", "value": SCHEMA})
    chosen = client.text_generation(PROMPT, max_new_tokens=8, grammar={"type": "regex", "value": "(Paris|London)"})
    stopped = client.text_generation(PROMPT, **EXACT, stop=["France"], details=True)
    assert '"Paris"' in shaped
    assert chosen in ("Paris", "London")
    assert stopped.details is not None
    assert stopped.details.finish_reason == "stop_sequence"


def test_a_conversation_is_answered(at: Open, product: Any) -> None:
    """At a model's URL, or at the service's with the model named; whole and streamed."""
    client = at("/models/smollm2")
    whole = client.chat_completion(QUESTION, max_tokens=12, temperature=0).choices[0].message.content
    streamed = client.chat_completion(QUESTION, max_tokens=12, temperature=0, stream=True)
    assert "Paris" in str(whole)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole
    named: Any = InferenceClient(base_url=product.url, token="unused")  # noqa: S106 -- none
    answer = named.chat_completion(QUESTION, model="smollm2", max_tokens=12, temperature=0)
    assert answer.choices[0].message.content == whole
    named.close()


def test_a_conversation_follows_a_schema_and_calls_tools(at: Open) -> None:
    """The client rewrites a schema into TGI's form."""
    client = at("/models/smollm2")
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    shaped = client.chat_completion(QUESTION, max_tokens=16, response_format=form)
    tool: Any = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": SCHEMA}}
    forced: Any = {"type": "function", "function": {"name": "weather"}}
    called = client.chat_completion(QUESTION, max_tokens=64, temperature=0, tools=[tool], tool_choice=forced)
    assert '"Paris"' in str(shaped.choices[0].message.content)
    assert [call.function.name for call in called.choices[0].message.tool_calls or ()] == ["weather"]


def test_features_are_extracted(at: Open) -> None:
    """As an array; a text that is too long is an error, unless it may be cut."""
    client = at("/models/minilm")
    assert client.feature_extraction("a text").shape == (1, 384)
    assert client.feature_extraction("a word " * 500, truncate=True).shape == (1, 384)
    with pytest.raises(HfHubHTTPError, match="256 tokens"):
        client.feature_extraction("a word " * 500)


def test_a_picture_is_drawn(at: Open) -> None:
    """As pillow's image, of the size that was asked for."""
    drawn = at("/models/emoji-32").text_to_image("a red apple", num_inference_steps=2, width=32, height=32, seed=1)
    assert drawn.size == (32, 32)


def test_an_endpoint_tells_what_it_is(product: Any) -> None:
    """And whether it is ready."""
    url = f"{product.url}/models/smollm2"
    client = InferenceClient(provider="hf-inference", token="unused")  # noqa: S106 -- none
    assert client.get_endpoint_info(model=url)["model_id"] == "smollm2"
    assert client.health_check(model=url)


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("/models/nobody", {}, "There is no model"),
        ("/models/smollm2", {"temperature": 9.0}, r"parameters\.temperature"),
        ("/models/smollm2", {"watermark": True}, r"parameters\.watermark"),
        ("/models/smollm2", {"best_of": 2}, r"parameters\.best_of"),
        ("/models/smollm2", {"prompt": "hello " * 20_000}, "maximum context length"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_the_clients_own(
    at: Open,
    path: str,
    options: dict[str, Any],
    said: str,
    stream: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """TGI's validation error, whole or streamed."""
    asked: dict[str, Any] = {"prompt": PROMPT, "max_new_tokens": 4, **options}
    with pytest.raises(ValidationError, match=said):
        list(at(path).text_generation(**asked, stream=stream))


async def test_leaving_frees_the_engine(product: Any) -> None:
    """Whole or streamed, as the engine's own metrics say."""

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    async with AsyncInferenceClient(model=f"{product.url}/models/smollm2", token="unused") as opened:  # noqa: S106 -- none
        client = cast("Any", opened)

        async def stream() -> None:
            async for _ in await client.text_generation(STORY, max_new_tokens=1500, stream=True):
                pass

        for ask in (lambda: client.text_generation(STORY, max_new_tokens=1500), stream):
            await eventually(count, lambda running: running == 0, within=60)
            task = asyncio.create_task(ask())
            await eventually(count, lambda running: running > 0, within=60)
            task.cancel()
            await asyncio.wait([task])
            await eventually(count, lambda running: running == 0, within=2)
