"""Every image a client gives is checked, and made what a model takes."""

import base64
import gzip
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from PIL import Image

from app.errors import CallerError, InvalidInput, Refused, TooLarge, meaning
from app.guard.allow_list import AllowList
from app.images import ImageCheck, ImageFetcher
from app.settings import Limits
from tests.unit.corpus import ADDRESSES, BAD, GOOD, animation, deep, encoded, halves, image_url, opened, sideways, uri
from vllm_launcher.registry import Limits as ModelLimits

LIMITS = ModelLimits(max_model_len=None, max_num_seqs=None, max_images=3, max_pixels=10_000)
PNG = uri(GOOD["png"])


@pytest.fixture
async def images() -> AsyncIterator[ImageCheck]:
    """A check that fetches nothing."""
    check = ImageCheck(Limits(image_bytes=3_000_000))
    yield check
    check.close()


def asks(*blocks: Mapping[str, Any]) -> list[BaseMessage]:
    """A question with these blocks."""
    return [HumanMessage([{"type": "text", "text": "What is this?"}, *map(dict, blocks)])]


async def seen(images: ImageCheck, block: Mapping[str, Any]) -> Image.Image:
    """What the model gets for a block."""
    (message,) = await images.check_images(asks(block), LIMITS)
    content: Any = message.content
    assert content[0] == {"type": "text", "text": "What is this?"}
    assert set(content[1]) == {"type", "image_url"}
    return opened(content[1]["image_url"]["url"])


def pixel(image: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    """The colour of one pixel."""
    colour: Any = image.getpixel(place)
    return tuple(colour)


def near(colour: tuple[int, ...], wanted: tuple[int, int, int]) -> bool:
    """Whether two colours are the same, but for what a format loses."""
    return all(abs(one - other) < 12 for one, other in zip(colour, wanted, strict=True))


# --- good ones -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GOOD)
async def test_every_kind_of_picture_comes_out_in_rgb(images: ImageCheck, kind: str) -> None:
    """Red on the left and blue on the right; of an animation, the first frame."""
    image = await seen(images, image_url(uri(GOOD[kind])))
    assert image.mode == "RGB"
    assert near(pixel(image, (5, 16)), (255, 0, 0))
    assert near(pixel(image, (58, 16)), (0, 0, 255))
    assert not getattr(image, "is_animated", False)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_what_is_right_already_passes_byte_for_byte(images: ImageCheck, kind: str) -> None:
    """With the type it has, whatever was declared."""
    (message,) = await images.check_images(asks(image_url(uri(GOOD[kind], "image/png"))), LIMITS)
    content: Any = message.content
    assert content[1]["image_url"]["url"] == uri(GOOD[kind], f"image/{kind}")


async def test_a_photograph_is_turned_upright(images: ImageCheck) -> None:
    """As its EXIF says, which is gone then: nothing turns it a second time."""
    image = await seen(images, image_url(uri(sideways(), "image/jpeg")))
    assert image.size == (32, 64)
    assert near(pixel(image, (16, 5)), (255, 0, 0))
    assert near(pixel(image, (16, 58)), (0, 0, 255))
    assert 0x0112 not in image.getexif()


async def test_sixteen_bits_become_eight(images: ImageCheck) -> None:
    """Scaled, not cut off."""
    image = await seen(images, image_url(uri(deep())))
    assert near(pixel(image, (5, 16)), (0, 0, 0))
    assert near(pixel(image, (58, 16)), (255, 255, 255))


async def test_what_is_transparent_is_put_on_white(images: ImageCheck) -> None:
    """And not on the black that lies beneath."""
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert near(pixel(await seen(images, image_url(uri(encoded(image, "PNG")))), (3, 3)), (255, 255, 255))


@pytest.mark.parametrize(("kind", "size"), [("PNG", (400, 200)), ("JPEG", (4000, 1000)), ("WEBP", (101, 100))])
async def test_a_large_picture_is_made_smaller(images: ImageCheck, kind: str, size: tuple[int, int]) -> None:
    """To the pixels the model takes, in its own shape; a JPEG stays one."""
    image = await seen(images, image_url(uri(encoded(halves(size=size), kind))))
    assert image.width * image.height <= 10_000
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.05)
    assert image.format == ("JPEG" if kind == "JPEG" else "PNG")
    assert near(pixel(image, (5, 5)), (255, 0, 0))


DATA = base64.b64encode(GOOD["png"]).decode()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
        {"type": "image_url", "image_url": PNG},
        {"type": "input_image", "image_url": PNG},
        {"type": "image", "base64": DATA, "mime_type": "image/png"},
        {"type": "image", "url": PNG},
        {"type": "image", "source_type": "base64", "data": DATA, "mime_type": "image/png"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
        {"type": "image", "base64": DATA},
        {"type": "image", "base64": "\n".join(DATA[start : start + 76] for start in range(0, len(DATA), 76))},
        {"type": "image_url", "image_url": {"url": PNG.replace("data:image/png;", "DATA:image/png;charset=utf-8;")}},
    ],
)
async def test_every_way_to_write_an_image_is_understood(images: ImageCheck, block: dict[str, Any]) -> None:
    """OpenAI's, LangChain's and Anthropic's."""
    assert (await seen(images, block)).size == (64, 32)


async def test_text_is_left_as_it_is(images: ImageCheck) -> None:
    """The very same messages."""
    messages = [SystemMessage("Be brief."), HumanMessage("hi"), AIMessage([{"type": "text", "text": "hello"}])]
    checked = await images.check_images(messages, LIMITS)
    assert all(one is other for one, other in zip(checked, messages, strict=True))


async def test_what_has_passed_passes_again_as_it_is(images: ImageCheck) -> None:
    """The check in front of the model repeats nothing that the one at the door did."""
    once = await images.check_images(asks(image_url(uri(encoded(halves(size=(4000, 1000)), "JPEG")))), LIMITS)
    assert await images.check_images(once, LIMITS) == once


# --- bad ones ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_picture_is_the_callers_fault_and_told_within_a_second(images: ImageCheck, kind: str) -> None:
    """In a sentence, with its place, and nothing of its content."""
    begun = time.perf_counter()
    with pytest.raises(CallerError) as caught:
        await images.check_images(asks(image_url(uri(BAD[kind]))), LIMITS)
    assert time.perf_counter() - begun < 1
    assert meaning(caught.value).status in (413, 422)
    assert caught.value.message.endswith(".")
    assert caught.value.param == "messages.0.content.1"
    assert "script" not in caught.value.message


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (image_url("data:image/png,plain"), "not in base64"),
        (image_url("data:image/png;base64,!!!!"), "not in base64"),
        (image_url("data:;base64"), "not in base64"),
        (image_url(uri(GOOD["png"], "text/html")), "type of the image"),
        (image_url(uri(GOOD["png"], "application/pdf")), "type of the image"),
        (image_url(uri(GOOD["png"], "image/svg+xml")), "type of the image"),
        (image_url("https://images.example/a.png"), "not fetched here"),
        ({"type": "image_url"}, "neither data nor an address"),
        ({"type": "image_url", "image_url": {}}, "neither data nor an address"),
        ({"type": "image_url", "image_url": {"url": 5}}, "neither data nor an address"),
        ({"type": "image", "file_id": "file-1"}, "neither data nor an address"),
        ({"type": "video_url", "video_url": {"url": "https://images.example/a.mp4"}}, "neither text nor an image"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "neither text nor an image"),
        ({"type": "file", "base64": DATA}, "neither text nor an image"),
        ({"type": "<script>"}, "A block is neither"),
        ({}, "A block is neither"),
    ],
)
async def test_what_is_no_image_is_told(images: ImageCheck, block: dict[str, Any], said: str) -> None:
    """Nothing else reaches the engine: what it does not know, it might fetch."""
    with pytest.raises(InvalidInput, match=said):
        await images.check_images(asks(block), LIMITS)


async def test_a_file_beyond_the_limit_is_refused_before_it_is_decoded(images: ImageCheck) -> None:
    """By the length of its text."""
    with pytest.raises(TooLarge, match="3000000 bytes"):
        await images.check_images(asks(image_url("data:image/png;base64," + "A" * 5_000_000)), LIMITS)


async def test_more_images_than_the_model_takes_are_refused(images: ImageCheck) -> None:
    """Counted over the whole conversation; the first that is too many is named."""
    messages = [*asks(image_url(PNG), image_url(PNG)), AIMessage("A cat."), *asks(image_url(PNG), image_url(PNG))]
    with pytest.raises(TooLarge, match="takes 3 in one request") as caught:
        await images.check_images(messages, LIMITS)
    assert caught.value.param == "messages.2.content.2"


# --- by address ----------------------------------------------------------------------------

OUTSIDE = "93.184.215.14"
IMAGE = "https://images.example/a.png"


class Names:
    """A resolver that answers as it is told, and notes what it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, host: str, port: int) -> list[str]:
        """The next answer."""
        assert port == 443
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class World(httpx2.AsyncBaseTransport):
    """Hosts that answer as they are told, and note what they are asked."""

    def __init__(self, *answers: httpx2.Response) -> None:
        self.asked: list[httpx2.Request] = []
        self._answers = list(answers)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The next answer."""
        self.asked.append(request)
        return self._answers.pop(0)


def picture() -> httpx2.Response:
    """A host's answer with a picture."""
    return httpx2.Response(200, headers={"Content-Type": "image/png"}, stream=Raw(GOOD["png"]))


def leads_to(url: str) -> httpx2.Response:
    """A redirect."""
    return httpx2.Response(302, headers={"Location": url})


async def fetched(world: World, names: Names, url: str = IMAGE, **limits: int) -> list[BaseMessage]:
    """What the model gets for an address."""
    images = ImageCheck(Limits(**limits), ImageFetcher(AllowList(("images.example",)), names, world))
    try:
        return await images.check_images(asks(image_url(url)), LIMITS)
    finally:
        images.close()


async def test_an_image_of_an_allowed_host_is_fetched_and_checked() -> None:
    """From the address that was looked up, with the host's own name and certificate."""
    world = World(picture())
    (message,) = await fetched(world, Names([OUTSIDE]))
    content: Any = message.content
    assert content[1]["image_url"]["url"] == PNG
    assert world.asked[0].url.host == OUTSIDE
    assert world.asked[0].headers["host"] == "images.example"
    assert world.asked[0].extensions["sni_hostname"] == "images.example"


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_address_that_is_not_allowed_is_not_even_looked_up(address: str) -> None:
    """Whatever it leads to."""
    names, world = Names([OUTSIDE]), World()
    with pytest.raises(InvalidInput, match="not one that may be fetched"):
        await fetched(world, names, address)
    assert names.asked == []


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_redirect_is_checked_like_the_first_address(address: str) -> None:
    """It leads nowhere that the first could not; a path alone stays on the host, which may then have no picture."""
    world = World(leads_to(address), httpx2.Response(404))
    with pytest.raises(CallerError):
        await fetched(world, Names([OUTSIDE]))
    assert all(request.headers["host"] == "images.example" for request in world.asked)


async def test_a_redirect_to_an_allowed_address_is_followed() -> None:
    """The name is looked up again, and checked again."""
    names = Names([OUTSIDE])
    (message,) = await fetched(World(leads_to("/b.png"), picture()), names)
    assert message.content != ""
    assert names.asked == ["images.example"] * 2


async def test_redirects_come_to_an_end() -> None:
    """After three."""
    world = World(*[leads_to(IMAGE) for _ in range(9)])
    with pytest.raises(Refused, match="could not be fetched"):
        await fetched(world, Names([OUTSIDE]))
    assert len(world.asked) == 4


async def test_a_name_that_changes_its_address_gains_nothing() -> None:
    """One look-up for each request: the address that was checked is the one that is asked (DNS rebinding)."""
    names, world = Names([OUTSIDE], ["127.0.0.1"]), World(picture())
    await fetched(world, names)
    assert names.asked == ["images.example"]
    assert world.asked[0].url.host == OUTSIDE


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["10.1.2.3"], ["::1"], ["fe80::1%eth0"], [OUTSIDE, "127.0.0.1"], []],
)
async def test_a_name_that_leads_inside_is_refused(addresses: list[str]) -> None:
    """Even if only one of its addresses does; nobody is asked."""
    world = World(picture())
    with pytest.raises(InvalidInput, match="not one that may be fetched"):
        await fetched(world, Names(addresses))
    assert world.asked == []


@pytest.mark.parametrize("answer", [httpx2.Response(404), httpx2.Response(500), httpx2.Response(204)])
async def test_a_host_without_the_picture_is_told(answer: httpx2.Response) -> None:
    """Without its own words."""
    with pytest.raises(Refused, match="could not be fetched"):
        await fetched(World(answer), Names([OUTSIDE]))


async def test_what_is_fetched_is_bounded_and_never_unpacked() -> None:
    """Neither a long file nor one that is short packed."""
    long = httpx2.Response(200, stream=Raw(bytes(2000)))
    with pytest.raises(TooLarge, match="1000 bytes"):
        await fetched(World(long), Names([OUTSIDE]), image_bytes=1000)
    packed = httpx2.Response(200, headers={"Content-Encoding": "gzip"}, stream=Raw(gzip.compress(GOOD["png"])))
    with pytest.raises(InvalidInput, match="no image that can be read"):
        await fetched(World(packed), Names([OUTSIDE]))


class Raw(httpx2.AsyncByteStream):
    """A body as it travels."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


def test_the_animations_are_animations() -> None:
    """The corpus is what it says."""
    assert getattr(opened(uri(animation("GIF"))), "is_animated", False)
