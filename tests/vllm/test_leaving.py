"""Whoever leaves frees the engine, over every way that has no client of its own in ``tests/clients``.

LangServe's are in ``test_streaming.py``; those of OpenAI, Anthropic, Ollama, Hugging Face, tritonclient and our gRPC
stream are left by their own clients in ``tests/clients``.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from functools import partial
from typing import Any

import grpc.aio
import httpx
import pytest

from app.generated.langserve_vllm.v1 import chat_pb2 as pb
from tests.processes import eventually
from tests.product import read_metrics

FREED_WITHIN = 5.0
"""Seconds; it takes less than one, unless the machine is busy."""
LONG = {"max_tokens": 1500, "ignore_eos": True}
STORY = "Tell me a long story about a lighthouse."
CHAT = {"messages": [{"role": "user", "content": STORY}]}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "kserve generate": ("/v2/models/smollm2/generate", {"text_input": STORY, "parameters": LONG}),
    "kserve generate_stream": ("/v2/models/smollm2/generate_stream", {"text_input": STORY, "parameters": LONG}),
    "kserve infer": (
        "/v2/models/smollm2/infer",
        {
            "inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [STORY]}],
            "parameters": {"max_tokens": 1500, "ignore_eos": True},
        },
    ),
    "tgi generate": ("/models/smollm2/generate", {"inputs": STORY, "parameters": {"max_new_tokens": 1500}}),
    "tgi generate_stream": (
        "/models/smollm2/generate_stream",
        {"inputs": STORY, "parameters": {"max_new_tokens": 1500}},
    ),
    "openai completions": ("/v1/completions", {"model": "smollm2:raw", "prompt": STORY, **LONG}),
    "anthropic whole": ("/v1/messages", {"model": "smollm2", "max_tokens": 1500, **CHAT}),
    "ollama generate": ("/api/generate", {"model": "smollm2", "prompt": STORY, "options": {"num_predict": 1500}}),
}
PICTURE = {"prompt": "a bear", "n": 4, "num_inference_steps": 100}
PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/images/generations", {"model": "emoji-32", **PICTURE}),
    "langserve invoke": ("/emoji-32/invoke", {"input": PICTURE}),
    "langserve stream": ("/emoji-32/stream", {"input": PICTURE}),
    "langserve batch": ("/emoji-32/batch", {"inputs": [PICTURE] * 2}),
}


async def read(url: str, body: dict[str, Any]) -> None:
    """Ask, and read the answer to its end."""
    async with httpx.AsyncClient(timeout=120) as client, client.stream("POST", url, json=body) as response:
        said = await response.aread()
        raise AssertionError(f"it ended by itself: {response.status_code} {said[:300]!r}")


async def leave(asking: Coroutine[Any, Any, Any], running: Any) -> None:
    """Start a request, wait until the engine computes it, go, and wait until the engine computes nothing."""
    await eventually(running, lambda count: count == 0, within=60)
    task = asyncio.create_task(asking)
    await eventually(partial(_while_asked, task, running), lambda count: count > 0, within=60, every=0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await eventually(running, lambda count: count == 0, within=FREED_WITHIN)


async def _while_asked(task: asyncio.Task[Any], running: Any) -> float:
    if task.done():
        task.result()
    return await running()


async def count(engine_url: str, prefix: str) -> float:
    """Requests that an engine computes or holds, as its own metrics say."""
    metrics = await asyncio.to_thread(read_metrics, engine_url)
    return metrics[f"{prefix}:num_requests_running"] + metrics[f"{prefix}:num_requests_waiting"]


async def drawn(engine_url: str) -> float:
    """Pictures that an engine has finished."""
    return (await asyncio.to_thread(read_metrics, engine_url))["vllm_omni:requests_success_total"]


@pytest.mark.parametrize("way", TEXTS)
async def test_leaving_a_text_frees_its_engine(product: Any, way: str) -> None:
    """Whole or streamed."""
    path, body = TEXTS[way]
    await leave(read(product.url + path, body), partial(count, product.engine_url, "vllm"))


@pytest.mark.parametrize("way", PICTURES)
async def test_leaving_a_picture_frees_its_engine(product: Any, way: str) -> None:
    """Those that are not begun are not drawn: while somebody else's is, no more than that one gets done."""
    path, body = PICTURES[way]
    engine = product.engine_url_of("emoji-32")
    await leave(read(product.url + path, body), partial(count, engine, "vllm_omni"))
    before = await drawn(engine)
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{product.url}/emoji-32/invoke", json={"input": {**PICTURE, "n": 1}})
    assert answer.status_code == 200
    assert await drawn(engine) == before + 1


async def test_cancelling_a_grpc_chat_frees_its_engine(product: Any) -> None:
    """A call with one answer, which has not come yet."""
    message = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text=STORY)])
    question = pb.Question(model="smollm2", messages=[message], sampling=pb.Sampling(max_tokens=1500))
    async with grpc.aio.insecure_channel(product.grpc) as channel:
        ask = channel.unary_unary(
            "/langserve_vllm.v1.ChatService/Chat",
            pb.ChatRequest.SerializeToString,
            pb.ChatResponse.FromString,
        )

        async def wait() -> None:
            await ask(pb.ChatRequest(question=question))

        await leave(wait(), partial(count, product.engine_url, "vllm"))
