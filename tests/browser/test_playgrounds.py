"""LangServe's two playgrounds in a real browser, answered by the real model: type, send, see tokens arrive."""

import re
import uuid
from itertools import pairwise
from pathlib import Path

from playwright.async_api import Page, expect

from tests.processes import eventually

QUESTION = "Tell me a story about a lighthouse."
OUTPUT = re.compile(r"\nOutput\n(?!\.\.\.\n)(.*?)\nIntermediate steps", re.DOTALL)
"""The default playground's output panel, in the page's text; it shows three dots before the first token."""
ANSWER = re.compile(r"SYSTEM\n(.*?)\nHUMAN", re.DOTALL)
"""The chat playground's last answer: the newest message stands first in the page's text."""


NOTE = """pattern => {
  const answer = new RegExp(pattern, "s");
  window.texts = [];
  new MutationObserver(() => {
    const text = (answer.exec(document.body.innerText)?.[1] ?? "").trim();
    if (text.length > (window.texts.at(-1) ?? "").length) window.texts.push(text);
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
"""Notes in the page itself every text that the answer has: looking from outside misses most of them."""


async def grow(page: Page, *, times: int, within: float = 90) -> list[str]:
    """The texts that were noted, each longer than the one before, once there are so many."""

    async def look() -> list[str]:
        texts: list[str] = await page.evaluate("() => window.texts")
        return texts

    return await eventually(look, lambda texts: len(texts) >= times, within=within)


def is_one_text_growing(texts: list[str]) -> bool:
    """Whether each text begins with the one before."""
    return all(later.startswith(earlier) for earlier, later in pairwise(texts))


async def test_the_default_playground_shows_tokens_as_they_come(page: Page, screenshots: Path) -> None:
    """A message is typed and started: the output grows piece by piece, and ends where it was told to."""
    await page.set_viewport_size({"width": 1280, "height": 1500})
    await page.goto("smollm2/playground/", wait_until="networkidle")
    await page.locator("[id='#/properties/temperature-input']").fill("0")
    await page.locator("[id='#/properties/max_tokens-input']").fill("48")
    await page.locator("textarea").last.fill(QUESTION)
    await page.evaluate(NOTE, OUTPUT.pattern)
    await page.get_by_role("button", name="Start").click()
    texts = await grow(page, times=8)
    await page.screenshot(path=screenshots / "playground-streaming.png")
    await expect(page.get_by_role("button", name="Start")).to_be_visible(timeout=90_000)
    whole = OUTPUT.search(await page.inner_text("body"))
    await page.screenshot(path=screenshots / "playground-done.png")
    assert whole is not None
    assert is_one_text_growing([*texts, whole[1].strip()])
    assert "lighthouse" in whole[1].lower()


async def test_the_chat_playground_shows_tokens_as_they_come(page: Page, screenshots: Path) -> None:
    """A message is typed and sent with Enter: the answer grows piece by piece below it."""
    await page.goto("smollm2/chat/playground/", wait_until="networkidle")
    box = page.get_by_placeholder("Send a message...")
    await box.press_sequentially(QUESTION)
    await page.evaluate(NOTE, ANSWER.pattern)
    await box.press("Enter")
    texts = await grow(page, times=8)
    await page.screenshot(path=screenshots / "chat-playground-streaming.png")
    assert QUESTION in await page.inner_text("body")
    assert is_one_text_growing(texts)
    assert len(texts[-1].split()) >= 5


async def test_the_chat_playground_goes_on_with_a_conversation(page: Page, screenshots: Path) -> None:
    """At a session's address the model is asked with what was said before, though the page was opened anew."""
    session = f"browser-{uuid.uuid4().hex}"
    for turn, said in enumerate(("Hello!", "Say yes.")):
        await page.goto(f"smollm2/chat/s/{session}/playground/", wait_until="networkidle")
        box = page.get_by_placeholder("Send a message...")
        await box.press_sequentially(said)
        await box.press("Enter")

        async def stored() -> int:
            answer = await page.request.get(f"sessions/smollm2/{session}")
            return len((await answer.json()).get("messages", ()))

        await eventually(stored, lambda count, turn=turn: count == 2 * turn + 2, within=90)
    await page.screenshot(path=screenshots / "chat-playground-session.png")
    messages = (await (await page.request.get(f"sessions/smollm2/{session}")).json())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[2]["content"] == "Say yes."
