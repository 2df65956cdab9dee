"""Images by address over real TLS: a host of this machine, with a certificate of its own, stands for one outside."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web
from langchain_core.messages import HumanMessage

from app.errors import Refused
from app.guard.allow_list import AllowList
from app.images import ImageCheck, ImageFetcher
from app.settings import Limits
from tests.certificates import make_certificate
from tests.unit.corpus import GOOD, image_url, uri
from vllm_launcher.registry import Limits as ModelLimits

OUTSIDE = "93.184.215.14"
MODEL = ModelLimits(max_model_len=None, max_num_seqs=None, max_images=1, max_pixels=10_000)


class Detour(httpx2.AsyncBaseTransport):
    """Real connections with TLS; what goes to the address outside arrives at a port of this machine."""

    def __init__(self, port: int, trusted: Path) -> None:
        self._port = port
        self._real = httpx2.AsyncHTTPTransport(verify=ssl.create_default_context(cafile=str(trusted)))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass it on, with the name that its certificate is checked for."""
        assert request.url.host == OUTSIDE
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        """End its connections."""
        await self._real.aclose()


async def outside(_host: str, _port: int) -> list[str]:
    """Every name leads to one public address."""
    return [OUTSIDE]


@asynccontextmanager
async def gallery(folder: Path) -> AsyncGenerator[tuple[int, Path, list[str]]]:
    """A host with a picture: its port, its certificate (for ``localhost``), and the names it was asked by."""
    asked: list[str] = []

    async def picture(request: web.Request) -> web.Response:
        asked.append(request.host)
        return web.Response(body=GOOD["png"], content_type="image/png")

    shown, key = make_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown, key)
    application = web.Application()
    application.router.add_get("/a.png", picture)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1], shown, asked
    finally:
        await runner.cleanup()


async def fetched(host: str, port: int, trusted: Path) -> Any:
    """What the model gets for the picture of that host."""
    fetcher = ImageFetcher(AllowList((host,)), outside, Detour(port, trusted))
    images = ImageCheck(Limits(), fetcher)
    try:
        (message,) = await images.check_images([HumanMessage([image_url(f"https://{host}/a.png")])], MODEL)
    finally:
        images.close()
    return message.content


async def test_an_image_is_fetched_over_tls_from_the_address_that_was_checked(tmp_path: Path) -> None:
    """The certificate is the name's, not the address's."""
    async with gallery(tmp_path) as (port, certificate, asked):
        (block,) = await fetched("localhost", port, certificate)
    assert block["image_url"]["url"] == uri(GOOD["png"])
    assert asked == ["localhost"]


async def test_a_host_with_the_certificate_of_another_is_refused(tmp_path: Path) -> None:
    """It is never asked for the picture."""
    async with gallery(tmp_path) as (port, certificate, asked):
        with pytest.raises(Refused, match="could not be fetched"):
            await fetched("images.example", port, certificate)
    assert asked == []


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    """Another signer's word does not count."""
    (tmp_path / "other").mkdir()
    stranger, _ = make_certificate(tmp_path / "other")
    async with gallery(tmp_path) as (port, _, asked):
        with pytest.raises(Refused, match="could not be fetched"):
            await fetched("localhost", port, stranger)
    assert asked == []
