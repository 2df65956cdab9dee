"""The image chain on the real vLLM-Omni, through the app, with LangServe's own client."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage
from langserve import RemoteRunnable  # noqa: TID251 -- the client people have
from PIL import Image

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
async def painter(product: Any) -> AsyncIterator[RemoteRunnable[Any, AIMessage]]:
    """The chain of emoji-32."""
    chains: dict[str, Any] = {"emoji-32": RemoteRunnable(f"{product.url}/emoji-32", timeout=120)}
    yield chains["emoji-32"]
    await chains["emoji-32"].async_client.aclose()


def blocks(message: AIMessage) -> list[dict[str, Any]]:
    """The image blocks of a message."""
    return [block for block in message.content if isinstance(block, dict)]


def opened(block: dict[str, Any]) -> Image.Image:
    """The picture of a block."""
    return Image.open(io.BytesIO(base64.b64decode(block["base64"])))


def middle(image: Image.Image) -> tuple[float, float, float]:
    """The mean colour of the middle."""
    pixels: Any = image.convert("RGB").crop((12, 12, 24, 24)).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return tuple(pixels)


async def test_a_red_apple_is_red(painter: RemoteRunnable[Any, AIMessage]) -> None:
    """Asked in the shortest way there is."""
    (block,) = blocks(await painter.ainvoke("a red apple"))
    red, green, blue = middle(opened(block))
    assert red > 180
    assert max(green, blue) < 110


async def test_what_a_png_says_draws_it_again(painter: RemoteRunnable[Any, AIMessage]) -> None:
    """Its own parameters, taken out of the file, give the same pixels."""
    (block,) = blocks(await painter.ainvoke({"prompt": "a banana"}))
    image = opened(block)
    told = json.loads(str(image.info["parameters"]))
    told.pop("model")
    (again,) = blocks(await painter.ainvoke(told))
    assert image.tobytes() == opened(again).tobytes()


async def test_pictures_stream_as_they_are_drawn(painter: RemoteRunnable[Any, AIMessage]) -> None:
    """One chunk each, with seeds that count on."""
    pieces = [piece async for piece in painter.astream({"prompt": "a dog", "n": 3, "seed": 7})]
    seeds = [[block["extras"]["parameters"]["seed"] for block in blocks(piece)] for piece in pieces]
    assert [seed for seed in seeds if seed] == [[7], [8], [9]]


async def test_a_batch_draws_each(painter: RemoteRunnable[Any, AIMessage]) -> None:
    """In its order, in its format."""
    drawn = await painter.abatch([{"prompt": "a cat"}, {"prompt": "a fox", "output_format": "webp"}])
    assert [blocks(message)[0]["mime_type"] for message in drawn] == ["image/png", "image/webp"]


async def test_a_drawn_picture_is_kept_at_an_address(painter: RemoteRunnable[Any, AIMessage], product: Any) -> None:
    """The same bytes."""
    (block,) = blocks(await painter.ainvoke("a tulip"))
    async with httpx.AsyncClient(base_url=product.url) as client:
        kept = await client.get(block["extras"]["url"])
    assert kept.content == base64.b64decode(block["base64"])


async def test_whoever_leaves_frees_the_engine_for_others(painter: RemoteRunnable[Any, AIMessage]) -> None:
    """Of four long pictures no more than the one at hand is drawn."""
    long = {"prompt": "a bear", "n": 4, "num_inference_steps": 100}
    async with asyncio.timeout(60):
        begun = asyncio.get_running_loop().time()
        await painter.ainvoke({**long, "n": 1})
        one = asyncio.get_running_loop().time() - begun
    left = asyncio.create_task(painter.ainvoke(long))
    await asyncio.sleep(one / 4)  # it is at its first
    left.cancel()
    await asyncio.wait([left])
    begun = asyncio.get_running_loop().time()
    await painter.ainvoke({"prompt": "a rose", "num_inference_steps": 1})
    assert asyncio.get_running_loop().time() - begun < 2.5 * one
