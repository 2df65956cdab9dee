"""Ollama's own client for JavaScript, unmodified, against the real product."""

from typing import Any

from tests.clients.javascript import run_client
from tests.processes import eventually


async def ask(product: Any, operation: str) -> list[Any]:
    """Run one operation of ollama.mjs."""
    return await run_client("ollama", product.url, operation)


async def test_models_are_listed_shown_and_seen_running(product: Any) -> None:
    """By Ollama's names."""
    *names, capabilities = await ask(product, "models")
    assert names.count("smollm2:latest") == 2
    assert "completion" in capabilities


async def test_a_stream_adds_up_to_the_chat(product: Any) -> None:
    """Its last part has the counts."""
    whole, streamed = await ask(product, "chat")
    assert "Paris" in whole
    assert (streamed["content"], streamed["done"]) == (whole, True)
    assert streamed["count"] > 3


async def test_a_raw_generation_and_embeddings(product: Any) -> None:
    """A text goes on; texts become vectors."""
    (continued,) = await ask(product, "generate")
    assert "Paris" in continued
    assert await ask(product, "embed") == [[384, 384]]


async def test_an_aborted_stream_frees_the_engine(product: Any) -> None:
    """As the engine's own metrics say."""
    (end,) = await ask(product, "abort")
    assert end == {"parts": 3, "error": "AbortError"}

    async def running() -> float:
        return product.metrics()["vllm:num_requests_running"]

    await eventually(running, lambda count: count == 0, within=5)


async def test_errors_are_the_clients_own(product: Any) -> None:
    """With status and sentence, whole or streamed."""
    missing, option, streamed = await ask(product, "wrong")
    assert (missing["name"], missing["status"]) == (streamed["name"], streamed["status"]) == ("ResponseError", 404)
    assert (option["status"], "options.mirostat" in option["error"]) == (400, True)
