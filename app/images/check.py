"""The check every image of a request passes, wherever the request came in.

Few are at work at once, so that many requests together take no more memory than few; the others wait. What has passed
is remembered by its digest: a request is checked where it comes in and again in front of the model, and the second
time costs nothing.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from langchain_core.messages import BaseMessage

from app.errors import TooLarge
from app.images.blocks import Given, find_images, replace_images
from app.images.encoded import Bounds, decode_base64
from app.images.fetch import ImageFetcher
from app.settings import Limits
from vllm_launcher.registry import Limits as ModelLimits

REMEMBERED = 1024
"""Digests of images that have passed."""
FETCHES = 8
"""Images that are fetched at once."""


class ImageCheck:
    """Checks images. One for the app; belongs to its event loop.

    Args:
        limits: Where a model says nothing.
        fetcher: Gets images by address.
    """

    def __init__(self, limits: Limits, fetcher: ImageFetcher | None = None) -> None:
        self._limits = limits
        self._fetcher = fetcher or ImageFetcher()
        self._threads = ThreadPoolExecutor(limits.image_workers, thread_name_prefix="image")
        self._fetching = asyncio.Semaphore(FETCHES)
        self.bodies = asyncio.Semaphore(limits.image_bodies)
        """To be held while a body with images is read and checked."""
        self.body_limits = limits.model_copy(update={"body_bytes": limits.image_body_bytes})
        """For bodies with images."""
        self._passed: OrderedDict[bytes, None] = OrderedDict()

    async def check_images(self, messages: Sequence[BaseMessage], limits: ModelLimits) -> list[BaseMessage]:
        """Return the conversation with every image checked, upright, in RGB, and no larger than the model takes.

        Args:
            messages: With images in any form that OpenAI, LangChain or Anthropic write them.
            limits: The model's, of its registry entry: ``max_images`` and ``max_pixels``.

        Returns:
            The same messages; their images are OpenAI's ``image_url`` with a ``data:`` URI.

        Raises:
            InvalidInput: An image is none, damaged, or at an address that may not be fetched.
            TooLarge: Too many images, or one with too many bytes or pixels.
            Refused: One could not be fetched.
        """
        given = find_images(messages)
        most = self._limits.images if limits.max_images is None else limits.max_images
        if len(given) > most:
            raise TooLarge(f"{len(given)} images; this model takes {most} in one request.", param=given[most].place)
        if not given:
            return [*messages]
        bounds = Bounds(
            self._limits.image_bytes, self._limits.image_pixels, limits.max_pixels or self._limits.picture_pixels
        )
        uris = [await self._check(image, bounds) for image in given]
        return replace_images(messages, uris)

    async def _check(self, image: Given, bounds: Bounds) -> str:
        if image.url is None:
            return await self._in_thread(lambda: self._prepare(image, bounds))
        async with self._fetching:
            data = await self._fetcher.fetch(image.url, bounds, image.place)
            return await self._in_thread(lambda: self._made(data, bounds, image.place))

    async def _in_thread(self, work: Callable[[], str]) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _prepare(self, image: Given, bounds: Bounds) -> str:
        text = image.base64 or ""
        known = f"data:{image.mime_type};base64,{text}"
        if _digest(known, bounds) in self._passed:
            return known
        return self._made(decode_base64(text, image.mime_type, bounds, image.place), bounds, image.place)

    def _made(self, data: bytes, bounds: Bounds, place: str) -> str:
        from app.images.raster import prepare  # noqa: PLC0415 -- with Pillow, for models that see alone; in a thread

        uri = prepare(data, bounds, place)
        self._passed[_digest(uri, bounds)] = None
        while len(self._passed) > REMEMBERED:
            self._passed.popitem(last=False)
        return uri

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _digest(uri: str, bounds: Bounds) -> bytes:
    return hashlib.sha256(f"{bounds.pixels} {uri}".encode()).digest()
