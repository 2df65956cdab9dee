"""Vision on the real vLLM, one model of each GLM-4V architecture: a picture goes in, and what comes out depends on it.

Their weights are random, so what they say means nothing; that they say the same about the same pixels, and something
else about others, is what can be tested. They are loaded at the first request, as on-demand models are.
"""

import io
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langserve import RemoteRunnable  # noqa: TID251 -- the client people have
from PIL import Image

from tests.product import READY_WITHIN
from tests.unit.corpus import BAD, encoded, halves, image_url, uri

MODELS = ("tiny-glm-4.1v", "tiny-glm-4v")
QUESTION = "What is this?"
Seer = RemoteRunnable[Any, AIMessage]

pytestmark = [
    pytest.mark.timeout(READY_WITHIN + 300),
    pytest.mark.parametrize("model", MODELS),
]


@pytest.fixture(scope="module")
async def seers(product: Any) -> AsyncIterator[Mapping[str, Seer]]:
    """The models' chains, waiting for them as long as they take to load."""
    chains: dict[str, Any] = {}
    for model in MODELS:
        url = f"{product.url}/{model}"
        chains[model] = RemoteRunnable(url, timeout=300, headers={"Prefer": "wait=300"})
    yield chains
    for chain in chains.values():
        await chain.async_client.aclose()


@pytest.fixture
def seer(seers: Mapping[str, Seer], model: str) -> Seer:
    """The model's chain."""
    return seers[model]


def shows(*images: bytes) -> list[HumanMessage]:
    """A question about these pictures."""
    return [HumanMessage([{"type": "text", "text": QUESTION}, *(image_url(uri(image)) for image in images)])]


def plain(colour: str) -> bytes:
    """A picture of one colour."""
    return encoded(Image.new("RGB", (112, 112), colour), "PNG")


def turned(image: Image.Image) -> bytes:
    """The picture laid on its side, with the EXIF that says how to turn it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    return file.getvalue()


async def test_what_it_says_depends_on_the_pixels(seer: Seer) -> None:
    """The same about the same, something else about others, and something else about none."""
    red, again, blue = [(await seer.ainvoke(shows(plain(colour)))).text for colour in ("red", "red", "blue")]
    nothing = (await seer.ainvoke([HumanMessage(QUESTION)])).text
    assert red == again
    assert len({red, blue, nothing}) == 3
    assert len(red) > 10


async def test_its_answer_streams(seer: Seer) -> None:
    """Piece by piece, and all of it."""
    question = shows(plain("green"))
    pieces = [piece.text async for piece in seer.astream(question)]
    assert len([piece for piece in pieces if piece]) > 5
    assert "".join(pieces) == (await seer.ainvoke(question)).text


async def test_it_sees_a_picture_upright(seer: Seer) -> None:
    """As its EXIF says: the engine itself would see it lying."""
    image = halves(size=(112, 56))
    upright, lying = [
        (await seer.ainvoke(shows(encoded(picture, "PNG")))).text
        for picture in (image, image.transpose(Image.Transpose.ROTATE_90))
    ]
    assert (await seer.ainvoke(shows(turned(image)))).text == upright != lying


async def test_it_sees_as_many_pictures_as_it_takes(product: Any, model: str, seer: Seer) -> None:
    """GLM-4.1V several, glm-4v one: a second is refused in a sentence."""
    async with httpx.AsyncClient(base_url=product.url, timeout=300, headers={"Prefer": "wait=300"}) as client:
        messages = [message.model_dump() for message in shows(plain("red"), plain("blue"))]
        answer = await client.post(f"/{model}/invoke", json={"input": {"messages": messages}})
    if model == "tiny-glm-4v":
        assert answer.status_code == 413
        assert "takes 1 in one request" in answer.json()["error"]["message"]
    else:
        one = (await seer.ainvoke(shows(plain("red")))).text
        assert answer.json()["output"]["content"] != one


@pytest.mark.parametrize("kind", ["text", "truncated png", "20000 x 20000", "1 x 5000"])
async def test_a_bad_picture_is_a_sentence_within_a_second(product: Any, model: str, kind: str) -> None:
    """What the engine itself answers with 500, some of them."""
    async with httpx.AsyncClient(base_url=product.url, timeout=30) as client:
        messages = [message.model_dump() for message in shows(BAD[kind])]
        begun = time.perf_counter()
        answer = await client.post(f"/{model}/invoke", json={"input": {"messages": messages}})
    assert time.perf_counter() - begun < 1
    assert answer.status_code in (413, 422)
    assert answer.json()["error"]["message"].endswith(".")
