"""Images by address: fetched by the app, over https, from hosts that an allow-list names, and from nowhere inside.

``app/guard/allow_list.py`` says which addresses those are, and connects to none but the ones it has checked. Each
redirect passes it again.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import httpx2

from app.errors import InvalidInput, Refused
from app.guard.allow_list import AllowList, NotAllowed, Resolve
from app.images.encoded import Bounds, too_many_bytes

REDIRECTS = 3
SECONDS = 10.0
"""For all of it, redirects included."""
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "langserve-vllm"}
SEND = "Send the image itself: a data: URI in base64."


@dataclass(frozen=True)
class ImageFetcher:
    """Fetches images from hosts that are allowed.

    Args:
        allowed: The hosts; of an empty list nothing is fetched.
        resolve: Looks names up; by default as the system does.
        connections: What carries requests; by default connections of its own, with the system's certificates.
    """

    allowed: AllowList = field(default_factory=AllowList)
    resolve: Resolve | None = None
    connections: httpx2.AsyncBaseTransport | None = field(default=None, repr=False)

    async def fetch(self, url: str, bounds: Bounds, place: str) -> bytes:
        """Return the bytes an address gives.

        Raises:
            InvalidInput: It is not one that may be fetched. All such get one sentence, which tells nothing.
            Refused: It could not be had.
            TooLarge: It has more bytes than allowed.
        """
        if not self.allowed.hosts:
            raise InvalidInput("Images by address are not fetched here.", param=place, hint=SEND)
        try:
            async with asyncio.timeout(SECONDS), self._client() as client:
                return await self._follow(client, url, bounds, place)
        except NotAllowed as error:
            raise InvalidInput("The image's address is not one that may be fetched.", param=place, hint=SEND) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:  # TimeoutError is an OSError
            raise unreachable(place) from error

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=self.connections, timeout=SECONDS, trust_env=False, follow_redirects=False, headers=HEADERS
        )

    async def _follow(self, client: httpx2.AsyncClient, url: str, bounds: Bounds, place: str) -> bytes:
        for _ in range(REDIRECTS + 1):
            async with self._opened(client, url) as response:
                if not response.has_redirect_location:
                    return await _read(response, bounds, place)
                url = str(httpx2.URL(url).join(response.headers["Location"]))
        raise unreachable(place)

    @contextlib.asynccontextmanager
    async def _opened(self, client: httpx2.AsyncClient, url: str) -> AsyncGenerator[httpx2.Response]:
        """Ask at the address that was checked, and nowhere else."""
        if not url.lower().startswith("https://"):
            raise NotAllowed("Images are fetched over https alone.")
        located = await self.allowed.locate(url, self.resolve)
        response = await client.send(located.request(headers=HEADERS), stream=True)
        try:
            yield response
        finally:
            await response.aclose()


def unreachable(place: str) -> Refused:
    """Return the error for an address that gives no image, without what went wrong on the way."""
    return Refused("The image could not be fetched from its address.", param=place, hint=SEND)


async def _read(response: httpx2.Response, bounds: Bounds, place: str) -> bytes:
    """Return the body, as it came: nothing is unpacked, so nothing small gets large."""
    if response.status_code != 200:  # noqa: PLR2004
        raise unreachable(place)
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > bounds.file_bytes:
            raise too_many_bytes(bounds, place)
    return bytes(data)
