"""The image model emoji-32 on the real vLLM-Omni, served beside the other models of models.json."""

import base64
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

SIDE = 32


@pytest.fixture
async def client(product: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the engine."""
    async with httpx.AsyncClient(base_url=product.engine_url_of("emoji-32"), timeout=120) as http:
        yield http


async def draw(client: httpx.AsyncClient, **changes: object) -> httpx.Response:
    """Ask for a picture."""
    body = {"model": "emoji-32", "prompt": "a red apple", "size": "32x32", "seed": 3, **changes}
    return await client.post("/v1/images/generations", json=body)


async def test_a_red_apple_is_red_in_the_middle_and_white_around(client: httpx.AsyncClient) -> None:
    """What it drew, looked at."""
    (picture,) = pictures(await draw(client))
    red, green, blue = mean(picture, range(12, 24))
    assert red > 180
    assert green < 90
    assert blue < 110
    assert min(picture[SIDE - 1][0]) > 230


async def test_a_banana_is_yellow(client: httpx.AsyncClient) -> None:
    """The prompt decides, not the seed alone."""
    (picture,) = pictures(await draw(client, prompt="an emoji of a banana"))
    red, green, blue = mean(picture, range(SIDE))
    assert min(red, green) > blue + 20


async def test_one_seed_gives_one_picture_and_several_pictures_differ(client: httpx.AsyncClient) -> None:
    """The first of three is the one that is drawn alone."""
    alone = pictures(await draw(client))
    three = pictures(await draw(client, n=3))
    assert three[0] == alone[0]
    assert three[0] != three[1] != three[2]


@pytest.mark.parametrize(
    "changes", [{"size": "512x512"}, {"model": "another"}, {"num_inference_steps": 0}, {"response_format": "url"}]
)
async def test_what_it_cannot_do_is_a_400(client: httpx.AsyncClient, changes: dict[str, object]) -> None:
    """And not an attempt."""
    assert (await draw(client, **changes)).status_code == 400


Picture = list[list[tuple[int, ...]]]
"""Rows of pixels (red, green, blue), 0 to 255."""


def pictures(response: httpx.Response) -> list[Picture]:
    """The pictures of an answer."""
    assert response.status_code == 200, response.text
    return [decode(base64.b64decode(item["b64_json"])) for item in response.json()["data"]]


def mean(picture: Picture, square: range) -> tuple[float, ...]:
    """The mean colour of a square in the picture's diagonal."""
    pixels = [picture[row][column] for row in square for column in square]
    return tuple(sum(channel) / len(pixels) for channel in zip(*pixels, strict=True))


def decode(png: bytes) -> Picture:
    """An RGB PNG of 32x32 pixels. Follows sections 5, 7 and 9 of the PNG specification."""
    chunks = dict[bytes, bytes](_merged(png[8:]))
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (SIDE, SIDE, 8, 2, 0, 0, 0)
    raw, stride = zlib.decompress(chunks[b"IDAT"]), SIDE * 3
    above, rows = bytes(stride), list[bytes]()
    for start in range(0, len(raw), stride + 1):
        above = _unfilter(raw[start], raw[start + 1 : start + 1 + stride], above)
        rows.append(above)
    return [[tuple(row[i : i + 3]) for i in range(0, stride, 3)] for row in rows]


def _merged(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    found: dict[bytes, bytes] = {}
    while data:
        length, kind = struct.unpack(">I4s", data[:8])
        found[kind] = found.get(kind, b"") + data[8 : 8 + length]
        data = data[12 + length :]
    yield from found.items()


def _unfilter(kind: int, line: bytes, above: bytes) -> bytes:
    out = bytearray(line)
    for i, value in enumerate(line):
        left, up, corner = (out[i - 3], above[i], above[i - 3]) if i > 2 else (0, above[i], 0)
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda candidate: abs(guess - candidate))
        out[i] = (value + (0, left, up, (left + up) // 2, nearest)[kind]) % 256
    return bytes(out)
