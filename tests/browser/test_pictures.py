"""The pages for models that draw and see, in a real browser, answered by real engines."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, FilePayload, Locator, Page, Route, expect

from tests.product import READY_WITHIN
from tests.unit.corpus import BAD, encoded, halves

LOADING = 300_000.0
"""Milliseconds for an answer whose model is loaded for it."""


def upload(data: bytes, name: str = "flag.png") -> FilePayload:
    """A file that a person chooses."""
    return {"name": name, "mimeType": "image/png", "buffer": data}


async def drawn(page: Page, prompt: str) -> Locator:
    """Type a prompt, press the button, and wait for the picture."""
    await page.get_by_label("Prompt", exact=True).fill(prompt)
    await page.get_by_role("button", name="Draw").click()
    picture = page.get_by_role("img", name=prompt).first
    await expect(picture).to_be_visible(timeout=60_000)
    await picture.evaluate("image => image.decode()")
    return picture


COLOUR = """image => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const side = image.naturalWidth;
  canvas.getContext("2d").drawImage(image, side * 0.375, side * 0.375, side / 4, side / 4, 0, 0, 1, 1);
  return [...canvas.getContext("2d").getImageData(0, 0, 1, 1).data];
}"""


async def test_a_person_types_a_prompt_and_sees_a_picture(page: Page, screenshots: Path) -> None:
    """From the home page on: it is red, it is large, its pixels are sharp, and it says what it was made from."""
    await page.set_viewport_size({"width": 1100, "height": 1080})
    await page.goto("")
    await page.locator("[data-model='emoji-32']").get_by_role("link", name="Draw").click()
    picture = await drawn(page, "a red apple")
    red, green, blue, _ = await picture.evaluate(COLOUR)
    assert red > 180
    assert max(green, blue) < 110
    assert await picture.evaluate("image => [image.naturalWidth, getComputedStyle(image).imageRendering]") == [
        32,
        "pixelated",
    ]
    box = await picture.bounding_box()
    assert box is not None
    assert box["width"] > 200
    details = page.locator("figure").first
    for said in ("32x32", "20", "emoji-32"):
        await expect(details.get_by_text(said, exact=True)).to_be_visible()
    for prompt in ("a penguin", "a sunflower"):
        await drawn(page, prompt)
    await page.screenshot(path=screenshots / "draw.png", full_page=True)


async def test_a_press_before_the_scripts_have_come_is_not_possible(page: Page) -> None:
    """It would leave the page, and put the prompt into an address."""
    come = asyncio.Event()

    async def late(route: Route) -> None:
        await come.wait()
        await route.continue_()

    await page.route("**/draw.js*", late)
    await page.goto("emoji-32/playground/", wait_until="commit")
    await page.get_by_label("Prompt", exact=True).fill("a whale")
    await expect(page.get_by_role("button", name="Draw")).to_be_disabled()
    await page.get_by_label("Prompt", exact=True).press("Enter")
    come.set()
    await expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    assert page.url.endswith("/playground/")
    await drawn(page, "a whale")


async def test_the_settings_of_a_picture_draw_it_again(page: Page) -> None:
    """Its seed comes back into the form; the second picture is the first."""
    await page.goto("emoji-32/playground/")
    first = await drawn(page, "a whale")
    await page.get_by_role("button", name="Use these settings").click()
    assert int(await page.get_by_label("Seed").input_value()) >= 0
    await page.get_by_role("button", name="Draw").click()
    await expect(page.locator("figure")).to_have_count(2, timeout=60_000)
    data = "async image => btoa(String.fromCharCode(...new Uint8Array(await (await fetch(image.src)).arrayBuffer())))"
    second = page.locator("figure img").first
    assert await first.evaluate(data) == await second.evaluate(data)


STOP_AT_THE_SECOND = """() => {
  if (document.querySelector("[data-phase]").textContent !== "Drawing 2 of 4") return null;
  document.querySelector("[data-stop]").click();
  return document.querySelector("[data-amount]").textContent;
}"""
"""Looks at every frame, so that the press comes while the second picture is drawn; gives the time it showed."""


async def test_several_pictures_are_counted_and_can_be_stopped(page: Page) -> None:
    """The page tells which one is drawn and for how long; stopped, it is ready for the next."""
    await page.goto("emoji-32/playground/")
    await page.get_by_text("How to draw it").click()
    await page.get_by_role("spinbutton", name="Pictures").fill("4")
    await page.get_by_label("Steps").fill("100")
    await page.get_by_label("Prompt", exact=True).fill("a bear")
    await page.get_by_role("button", name="Draw").click()
    stopped = await page.wait_for_function(STOP_AT_THE_SECOND, timeout=60_000)
    assert str(await stopped.json_value()).endswith(" s")
    await expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    assert await page.locator("figure").count() < 4


WATCH = """() => {
  window.lengths = [];
  new MutationObserver(() => {
    const length = (document.querySelectorAll(".turn .said")[1]?.textContent ?? "").length;
    if (length > (window.lengths.at(-1) ?? 0)) window.lengths.push(length);
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
"""Notes in the page itself how long the answer is after each change: looking from outside comes too late."""


@pytest.mark.timeout(READY_WITHIN + 300)
async def test_a_person_shows_a_picture_and_sees_the_answer_come(page: Page, screenshots: Path) -> None:
    """From the home page on; the model is loaded for it where it is not, and the page says so."""
    await page.set_viewport_size({"width": 1100, "height": 900})
    await page.goto("")
    await page.locator("[data-model='tiny-glm-4.1v']").get_by_role("link", name="Show it a picture").click()
    await page.wait_for_url("**/playground/", wait_until="load")
    await page.locator("#files").set_input_files(upload(encoded(halves(size=(300, 200)), "PNG")))
    await page.get_by_label("Question").fill("What is this?")
    await expect(page.get_by_role("img", name="flag.png")).to_be_visible()
    await page.evaluate(WATCH)
    await page.get_by_role("button", name="Ask").click()
    answer = page.locator(".turn .said").nth(1)
    await expect(answer).not_to_be_empty(timeout=LOADING)
    await expect(page.locator("[data-working]")).to_be_hidden(timeout=60_000)
    await page.screenshot(path=screenshots / "see.png", full_page=True)
    assert len(await page.evaluate("() => window.lengths")) >= 2
    assert len(await answer.inner_text()) > 10
    await expect(page.locator(".turn img")).to_have_count(1)


async def test_what_is_no_picture_is_told_in_a_sentence(context: BrowserContext) -> None:
    """And can be asked again: question and picture are back in the form."""
    page = await context.new_page()
    await page.goto("tiny-glm-4.1v/playground/")
    await page.locator("#files").set_input_files(upload(BAD["text"], "broken.png"))
    await page.get_by_label("Question").fill("What is this?")
    await page.get_by_role("button", name="Ask").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is no image that can be read.")
    await expect(page.get_by_label("Question")).to_have_value("What is this?")
    await expect(page.get_by_role("button", name="Remove broken.png")).to_be_visible()
    await expect(page.locator(".turn")).to_have_count(0)
