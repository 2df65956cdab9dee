"""The system's Chromium, driven by Playwright, kept off every network but loopback."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Request, Response, Route, async_playwright, expect

from tests.surroundings import ARTIFACTS, browser

FLAGS = [
    "--no-sandbox",  # containers run tests as root, where the sandbox refuses to start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


expect.set_options(timeout=30_000)  # milliseconds: a busy machine may take many of them, a ready page takes few


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """One browser for the session."""
    program = browser()
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        await running.close()


@pytest.fixture
async def context(chromium: Browser, product: Any) -> AsyncIterator[BrowserContext]:
    """A fresh profile that opens the product, and whatever it is asked for from elsewhere makes the test fail."""
    foreign: list[str] = []
    async with await chromium.new_context(
        base_url=f"{product.url}/",
        viewport={"width": 1280, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
    ) as fresh:

        async def stay(route: Route, request: Request) -> None:
            if request.url.startswith((product.url, "data:", "blob:")):
                await route.continue_()
            else:
                foreign.append(request.url)
                await route.abort()

        await fresh.route("**/*", stay)
        yield fresh
    assert not foreign, "the page asked for files of other hosts"


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A page; an error in its scripts, or something that its policy forbids, makes the test fail."""
    errors: list[str] = []
    opened = await context.new_page()
    opened.set_default_timeout(30_000)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("response", lambda response: errors.append(tell(response)) if response.status >= 400 else None)
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield opened
    assert not errors


def tell(response: Response) -> str:
    """What was asked and refused."""
    request = response.request
    return f"{response.status} for {request.method} {request.url} {request.post_data or ''}"


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of the pages are kept for people to look at."""
    folder = ARTIFACTS / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
