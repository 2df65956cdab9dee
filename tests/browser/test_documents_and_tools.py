"""Answers from documents and an agent's steps, in a real browser and from the real model."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.surroundings import ROOT

DOCUMENT = "docs/operations.md"
QUESTION = "Which variable limits the memory of servers on the processor?"


@pytest.fixture(scope="module")
async def ingested(product: Any) -> None:
    """A page of the project's own documentation is in the collection that docs-chat answers from."""
    async with httpx.AsyncClient(base_url=product.url, timeout=120) as client:
        response = await client.post(
            "/documents/docs",
            files={"files": (DOCUMENT, (ROOT / DOCUMENT).read_bytes())},
            headers={"Accept": "text/event-stream"},
        )
    assert "event: end" in response.text, response.text


@pytest.mark.usefixtures("ingested")
async def test_a_citation_opens_at_its_passage(page: Page, product: Any, screenshots: Path) -> None:
    """The link that an answer carries leads to the place in the document, and the passage stands there."""
    async with httpx.AsyncClient(base_url=product.url, timeout=120) as client:
        body = {"input": QUESTION, "config": {"configurable": {"max_tokens": 16}}}
        answer = (await client.post("/docs-chat/invoke", json=body)).raise_for_status().json()["output"]
    citations = answer["response_metadata"]["citations"]
    cited = next(each for each in citations if "LANGSERVE_VLLM_MEMORY" in each["text"])
    await page.goto(cited["url"].removeprefix("/"))
    passage = page.locator(f"#{cited['url'].rpartition('#')[2]}")
    await expect(passage).to_be_in_viewport()
    assert "LANGSERVE_VLLM_MEMORY" in await passage.inner_text()
    await page.screenshot(path=screenshots / "citation.png")


async def test_the_playground_shows_an_agents_steps(page: Page, screenshots: Path) -> None:
    """Below the answer: the tool that was called, with its arguments and its result."""
    await page.set_viewport_size({"width": 1280, "height": 1500})
    await page.goto("agent/playground/", wait_until="networkidle")
    await page.locator("textarea").last.fill("What is 12 * 17?")
    await page.get_by_role("button", name="Start").click()
    await expect(page.get_by_role("button", name="Start")).to_be_visible(timeout=90_000)
    await expect(page.get_by_text("204").first).to_be_visible(timeout=90_000)
    steps = page.get_by_text("Intermediate steps")
    await steps.click()
    await expect(page.get_by_text(re.compile("calculator")).first).to_be_visible()
    await page.screenshot(path=screenshots / "agent-playground.png")
