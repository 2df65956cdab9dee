"""OpenAI's own client for Node, unmodified, against the real product."""

from typing import Any

from tests.clients.javascript import run_client
from tests.processes import eventually


async def ask(product: Any, operation: str) -> list[Any]:
    """Run one operation of openai.mjs."""
    return await run_client("openai", product.url, operation)


async def test_models_are_listed(product: Any) -> None:
    """By chain and by engine."""
    assert {"smollm2", "smollm2:raw", "minilm", "emoji-32"} <= set(await ask(product, "models"))


async def test_a_stream_adds_up_to_the_chat(product: Any) -> None:
    """With the same usage."""
    whole, streamed = await ask(product, "chat")
    assert "Paris" in whole["content"]
    assert streamed == whole


async def test_a_forced_tool_is_called_in_a_stream(product: Any) -> None:
    """By the client's own bookkeeping of the pieces."""
    (function,) = await ask(product, "tool")
    assert function["name"] == "weather"
    assert '"Paris"' in function["arguments"]


async def test_texts_are_embedded_and_pictures_drawn(product: Any) -> None:
    """The client unpacks base64 by itself."""
    assert await ask(product, "embeddings") == [[384, 384]]
    assert await ask(product, "images") == ["iVBORw0K"]


async def test_an_aborted_stream_frees_the_engine(product: Any) -> None:
    """As the engine's own metrics say."""
    (end,) = await ask(product, "abort")
    assert end["chunks"] >= 3

    async def running() -> float:
        return product.metrics()["vllm:num_requests_running"]

    await eventually(running, lambda count: count == 0, within=5)


async def test_errors_are_the_clients_own(product: Any) -> None:
    """With status and code, whole or streamed."""
    missing, invalid, unknown = await ask(product, "wrong")
    assert missing == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert invalid == unknown == {"name": "BadRequestError", "status": 400, "code": "invalid_input"}
