"""The home page as the server renders it: what it shows, and that nothing it shows can act."""

import ast
import json
import shlex
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI

from app.web.cards import LABELS
from app.web.home import create_router
from vllm_launcher.progress import Progress
from vllm_launcher.registry import Metadata, ModelSpec, Registry
from vllm_launcher.status import LauncherStatus, ServerStatus

HOSTILE = "</code></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"


class FixedTable:
    """A table that says what it was made with."""

    def __init__(self, *servers: ServerStatus, reachable: bool = True) -> None:
        status = LauncherStatus(version="0", pid=1, started_at=0, servers=servers)
        self.status = status if reachable else None

    def snapshot(self) -> LauncherStatus | None:
        """The fixed status, or None."""
        return self.status


class Page(HTMLParser):
    """The elements of a page, and the text in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text += data

    def all(self, tag: str, **attributes: str | None) -> list[dict[str, str | None]]:
        """Attributes of every such element."""
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]


def spec(model: str = "smollm2", **fields: object) -> ModelSpec:
    """A chat model of that id."""
    return ModelSpec.model_validate(
        {
            "id": model,
            "source": {"type": "path", "path": "weights"},
            "chain": {"package": "smollm2_chat"},
            "metadata": Metadata(display_name="SmolLM2", description="Small and real.", tags=["cpu"]),
            **fields,
        }
    )


def registry(*models: ModelSpec) -> Registry:
    """A registry of these models."""
    return Registry.model_validate({"models": list(models)})


async def get(
    path: str, *models: ModelSpec, table: FixedTable | None = None, base: str = "http://test"
) -> httpx.Response:
    """The answer of an app that has only the home page."""
    app = FastAPI()
    app.include_router(create_router(registry(*models), table or FixedTable()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
        return await client.get(path)


async def render(*models: ModelSpec, table: FixedTable | None = None, base: str = "http://test") -> Page:
    """The home page, parsed."""
    response = await get("/", *models, table=table, base=base)
    assert response.status_code == 200
    return Page(response.text)


async def test_every_model_has_a_card_with_what_the_registry_says() -> None:
    """Name, id, description and tags are shown, in the registry's order."""
    page = await render(spec("one"), spec("two"))
    assert [card["data-model"] for card in page.all("article")] == ["one", "two"]
    assert all(text in page.text for text in ("SmolLM2", "Small and real.", "cpu"))


async def test_links_are_relative_to_the_page() -> None:
    """Playgrounds, docs and schemas are found behind a path prefix of a proxy too."""
    page = await render(spec())
    links = {str(link["href"]) for link in page.all("a")}
    assert {"smollm2/playground/", "smollm2/chat/playground/", "smollm2/input_schema", "docs", "models"} <= links
    assert not [link for link in links if link.startswith(("/", "http"))]


@pytest.mark.parametrize("state", sorted(set(LABELS) - {"unreachable"}))
async def test_every_state_is_told_in_words(state: str) -> None:
    """Each state of the contract has a label on the page."""
    server = ServerStatus.model_validate({"model": "smollm2", "served_name": "smollm2", "state": state})
    page = await render(spec(), table=FixedTable(server))
    assert page.all("article")[0]["data-state"] == state
    assert LABELS[state] in page.text


async def test_a_download_shows_its_phase_and_bytes() -> None:
    """The phase, the amount and the bar's value come from the server's progress."""
    progress = Progress(phase="downloading weights", done=49_000_000, total=98_000_000, unit="bytes")
    server = ServerStatus(
        model="smollm2", served_name="smollm2", state="fetching", phase=progress.phase, progress=progress
    )
    page = await render(spec(), table=FixedTable(server))
    assert "downloading weights" in page.text
    assert "49.0 MB of 98.0 MB" in page.text
    assert page.all("progress")[0]["value"] == "0.5000"


async def test_a_phase_of_unknown_length_has_a_bar_without_a_value() -> None:
    """The browser shows it as indeterminate."""
    server = ServerStatus(model="smollm2", served_name="smollm2", state="starting", phase="starting")
    page = await render(spec(), table=FixedTable(server))
    assert "value" not in page.all("progress")[0]
    assert "hidden" not in page.all("div", **{"class": "progress"})[0]


async def test_a_failed_model_shows_reason_and_hint_without_paths() -> None:
    """Why it failed and what to do; where files lie on this machine is nobody's business."""
    server = ServerStatus(
        model="smollm2",
        served_name="smollm2",
        state="failed",
        reason="bad /srv/models/config.json",
        hint="Free memory.",
    )
    page = await render(spec(), table=FixedTable(server))
    assert "bad <path>" in page.text
    assert "Free memory." in page.text
    assert "hidden" not in page.all("div", **{"class": "failure"})[0]


async def test_a_silent_launcher_is_told_and_no_state_is_made_up() -> None:
    """Without a status every model's state is unknown, and a notice says why."""
    page = await render(spec(), table=FixedTable(reachable=False))
    assert page.all("article")[0]["data-state"] == "unreachable"
    assert "hidden" not in page.all("p", **{"data-launcher": None})[0]


async def test_hostile_registry_text_is_only_ever_text() -> None:
    """No element, attribute or template expression can come out of a registry or a launcher."""
    metadata = Metadata(display_name=HOSTILE, description=HOSTILE, tags=[HOSTILE], licence=HOSTILE)
    server = ServerStatus(
        model="smollm2", served_name="smollm2", state="failed", phase=HOSTILE, reason=HOSTILE, hint=HOSTILE
    )
    clean = await render(spec())
    page = await render(spec(metadata=metadata), table=FixedTable(server))
    assert page.text.count(HOSTILE) >= 4
    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == [
        tag for tag, _ in clean.tags if tag in {"script", "img"}
    ]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


async def test_the_page_runs_nothing_inline_and_nothing_foreign() -> None:
    """Its policy forbids both, and the page keeps to it."""
    response = await get("/", spec())
    page = Page(response.text)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [attributes for _, attributes in page.tags if "style" in attributes]
    assert all("src" in script for script in page.all("script"))
    sources = [attributes.get("src") or attributes.get("href") for tag, attributes in page.tags if tag != "a"]
    assert all(source.startswith("static/") for source in sources if source)


async def test_the_snippets_call_the_host_that_was_asked() -> None:
    """Both name the address that the browser used, and parse in their language."""
    response = await get("/", spec(), base="http://box.example:8123")
    curl, python = snippets_of(response.text)
    words = shlex.split(curl.replace("\\\n", ""))
    assert words[:3] == ["curl", "-sS", "http://box.example:8123/smollm2/invoke"]
    assert json.loads(words[-1]) == {"input": "Name the capital of France."}
    assert "http://box.example:8123/smollm2" in [
        node.value for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Constant)
    ]


async def test_a_hostile_host_header_stays_an_argument() -> None:
    """Whatever the host is called, pasting the call runs curl and Python, and nothing else."""
    app = FastAPI()
    app.include_router(create_router(registry(spec()), FixedTable()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.get("/", headers={"host": "a'$(id)\";id;'"})
    curl, python = snippets_of(response.text)
    assert shlex.split(curl.replace("\\\n", ""))[3] == "-H"
    assert len(ast.parse(python).body) == 3


async def test_a_model_without_a_chain_offers_no_call() -> None:
    """Where nothing answers at a LangServe path, nothing points there."""
    page = await render(spec(task="embedding", chain=None))
    assert not page.all("figure")
    assert not [link for link in page.all("a") if "playground" in str(link["href"])]


async def test_the_pages_files_may_be_kept_for_ever_and_exist() -> None:
    """Every file the page names is served, under an address that changes with its content."""
    page = await render(spec())
    names = [*page.all("script"), *page.all("link"), *page.all("img")]
    for attributes in names:
        response = await get(f"/{attributes.get('src') or attributes.get('href')}", spec())
        assert response.status_code == 200
        assert "immutable" in response.headers["cache-control"]
    assert (await get("/static/home.py", spec())).status_code == 404


def snippets_of(html: str) -> list[str]:
    """The text of every snippet on a page."""

    class Snippets(HTMLParser):
        found: list[str]
        inside = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = tag == "code" and "data-snippet" in dict(attrs)
            if self.inside:
                self.found.append("")

        def handle_endtag(self, tag: str) -> None:
            self.inside = self.inside and tag != "code"

        def handle_data(self, data: str) -> None:
            if self.inside:
                self.found[-1] += data

    parser = Snippets()
    parser.found = []
    parser.feed(html)
    return parser.found
