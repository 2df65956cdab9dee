"""The home page in a real browser: live, copyable, and fit for a phone."""

import ast
import json
import shlex
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.async_api import BrowserContext, Locator, Page, Route, expect

from tests.processes import eventually

Scheme = Literal["light", "dark"]


async def test_the_page_shows_the_real_models_as_ready(page: Page, product: Any) -> None:
    """Every model that this machine serves is there with its server's state; the others are folded, with the reason."""
    await page.goto("")
    card = page.locator("[data-model=smollm2]")
    await expect(card).to_contain_text("SmolLM2 135M Instruct")
    await expect(card.locator("[data-label]")).to_have_text("Ready")
    async with httpx.AsyncClient(base_url=product.url, timeout=30) as client:

        async def look() -> tuple[list[Any], str]:
            return (await client.get("/models")).json(), await page.locator("[data-summary]").inner_text()

        # Models come and go meanwhile, so both are asked until they agree.
        models, _ = await eventually(look, lambda seen: seen[1] == summary(seen[0]), within=30)
    served = [model for model in models if not model["refused"]]
    for model in models:
        if model["refused"]:
            folded = page.locator(f"[data-refused='{model['id']}']")
            await expect(folded).not_to_be_visible()
            await expect(folded).to_contain_text(model["reason"])
    if len(served) < len(models):
        await page.locator("[data-unserved] summary").click()
        await expect(page.locator("[data-refused]").first).to_be_visible()


def summary(models: list[Any]) -> str:
    """What the page says of all models together."""
    served = [model for model in models if not model["refused"]]
    return f"{sum(model['ready'] for model in served)} of {len(served)} ready"


class Scripted:
    """Answers for /models/events and /models that the test chooses; the page itself is the product's."""

    def __init__(self) -> None:
        self.model: dict[str, Any] = {"id": "smollm2", "state": "ready"}
        self.streaming = True

    def says(self, state: str, **fields: object) -> None:
        """Let the model be in that state from now on."""
        self.model = {"id": "smollm2", "state": state, **fields}

    async def events(self, route: Route) -> None:
        """One event; the browser comes back for the next one 50 ms later."""
        if not self.streaming:
            await route.fulfill(status=404)
            return
        body = f"retry: 50\nevent: models\ndata: {json.dumps([self.model])}\n\n"
        await route.fulfill(content_type="text/event-stream", body=body)

    async def models(self, route: Route) -> None:
        """The same as JSON."""
        await route.fulfill(json=[self.model])

    async def open(self, context: BrowserContext) -> Locator:
        """The model's card on a page that gets these answers."""
        page = await context.new_page()
        await page.route("**/models/events", self.events)
        await page.route("**/models", self.models)
        await page.goto("")
        return page.locator("[data-model=smollm2]")


async def test_a_state_changes_on_the_page_without_a_reload(context: BrowserContext) -> None:
    """Events move the bar and name the phase, tell a failure and what to do, and a launcher that is silent."""
    server = Scripted()
    progress = {"phase": "downloading weights", "done": 49_000_000, "total": 98_000_000, "unit": "bytes"}
    server.says("fetching", phase="downloading weights", progress=progress)
    card = await server.open(context)
    await expect(card.locator("[data-label]")).to_have_text("Fetching")
    await expect(card.locator("[data-phase]")).to_have_text("downloading weights")
    await expect(card.locator("[data-amount]")).to_have_text("49.0 MB of 98.0 MB")
    assert await card.locator("progress").evaluate("bar => bar.value") == pytest.approx(0.5)

    server.says("failed", reason="No available memory for the cache blocks", hint="Close other programs.")
    await expect(card.locator("[data-label]")).to_have_text("Failed")
    await expect(card.locator("[data-reason]")).to_have_text("No available memory for the cache blocks")
    await expect(card.locator("[data-hint]")).to_be_visible()
    await expect(card.locator("progress")).to_be_hidden()

    server.says("unreachable")
    await expect(card.locator("[data-label]")).to_have_text("Unknown")
    await expect(card.page.locator("[data-launcher]")).to_be_visible()


async def test_without_events_the_page_polls(context: BrowserContext) -> None:
    """A proxy that does not let event streams through leaves the page live, only slower."""
    server = Scripted()
    server.streaming = False
    server.says("warming", phase="warming up")
    card = await server.open(context)
    await expect(card.locator("[data-label]")).to_have_text("Warming up")
    server.says("ready")
    await expect(card.locator("[data-label]")).to_have_text("Ready")


async def test_hostile_events_stay_text(context: BrowserContext) -> None:
    """What the launcher passes on from an engine's log is shown, never run."""
    hostile = "<img src=x onerror='document.title=1'><script>document.title=1</script>"
    server = Scripted()
    server.says("failed", phase=hostile, reason=hostile, hint=hostile)
    card = await server.open(context)
    await expect(card.locator("[data-reason]")).to_have_text(hostile)
    assert await card.locator("img, script").count() == 0
    assert await card.page.title() == "langserve-vllm"


WORDS = """button => {
  window.words = [];
  new MutationObserver(() => window.words.push(button.textContent)).observe(button, { childList: true });
}"""
"""Notes in the page itself what the button says: it says "Copied" for two seconds only."""


@pytest.mark.parametrize(("slug", "name"), [("curl", "curl"), ("python", "Python")])
async def test_a_copy_button_copies_the_whole_call(page: Page, product: Any, slug: str, name: str) -> None:
    """The clipboard holds the snippet to the letter, and the button says so."""
    await page.goto("")
    button = page.get_by_role("button", name=f"Copy the {name} call of SmolLM2 135M Instruct")
    await button.evaluate(WORDS)
    await button.click()
    await page.wait_for_function("() => window.words.length")
    copied: str = await page.evaluate("navigator.clipboard.readText()")
    assert copied == await page.locator(f"[data-model=smollm2] [data-snippet={slug}]").inner_text()
    assert f"{product.url}/smollm2" in copied
    await page.wait_for_function("() => window.words.length === 2")
    assert await page.evaluate("() => window.words") == ["Copied", "Copy"]


async def test_the_calls_on_the_page_work_as_they_stand(page: Page) -> None:
    """The curl command's request is answered; the Python program parses."""
    await page.goto("")
    card = page.locator("[data-model=smollm2]")
    words = shlex.split((await card.locator("[data-snippet=curl]").inner_text()).replace("\\\n", ""))
    url, header, data = words[2], words[4], words[6]
    async with httpx.AsyncClient(timeout=120) as client:
        name, _, value = header.partition(": ")
        answer = await client.post(url, content=data, headers={name: value})
    assert answer.status_code == 200
    assert answer.json()["output"]["content"]
    ast.parse(await card.locator("[data-snippet=python]").inner_text())


async def test_every_link_of_the_page_leads_somewhere(page: Page, product: Any) -> None:
    """Playgrounds, docs, schemas: none is a dead end."""
    await page.goto("")
    links: list[str] = await page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
    async with httpx.AsyncClient(timeout=30, follow_redirects=True) as client:
        for link in {link.partition("#")[0] for link in links}:
            assert link.startswith(product.url)
            assert (await client.get(link)).status_code == 200, link


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
async def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    """Long lines of code scroll inside their box; the page never scrolls sideways."""
    await page.set_viewport_size({"width": width, "height": 740})
    await page.goto("")
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_everything_is_reached_by_keyboard(page: Page) -> None:
    """Tab visits the links, the calls and their copy buttons, each with a visible outline."""
    await page.goto("")
    visited: set[str] = set()
    for _ in range(25):
        await page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if not await focused.count():
            break
        assert await focused.evaluate("element => getComputedStyle(element).outlineStyle") != "none"
        visited.add(await focused.inner_text())
    assert {"Open chat", "Playground", "Copy", "Call it", "API docs"} <= visited


CONTRASTS = """() => {
  const luminance = (css) => {
    const [r, g, b] = css.match(/[\\d.]+/g).map(Number)
      .map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!color.startsWith("rgba(0, 0, 0, 0")) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((element) => {
    const [low, high] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => a - b);
    return [element.textContent.trim().slice(0, 30), (high + 0.05) / (low + 0.05)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["ready", "starting", "failed", "absent", "unreachable"])
async def test_every_text_has_enough_contrast(context: BrowserContext, scheme: Scheme, state: str) -> None:
    """4.5:1 or better in both colour schemes, in every state (WCAG 2.2, success criterion 1.4.3)."""
    server = Scripted()
    server.says(state, phase="starting", reason="out of memory", hint="Close other programs.")
    card = await server.open(context)
    await card.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await expect(card).to_have_attribute("data-state", state)
    contrasts: list[tuple[str, float]] = await card.page.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    assert not [pair for pair in contrasts if pair[1] < 4.5]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_pictures_of_the_page_are_kept(page: Page, screenshots: Path, scheme: Scheme, width: int) -> None:
    """One picture a width and colour scheme, for people to look at."""
    picture = screenshots / f"home-{width}-{scheme}.png"
    await page.set_viewport_size({"width": width, "height": 800})
    await page.emulate_media(color_scheme=scheme)
    await page.goto("")
    await expect(page.locator("[data-model=smollm2] [data-label]")).to_have_text("Ready")
    await page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 10_000
