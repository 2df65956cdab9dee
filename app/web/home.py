"""The home page: every model, its state as it changes, and calls to paste.

Rendered here, so it reads without a script; the script then follows ``models/events``. The page allows nothing
from another host and no inline script or style (its Content-Security-Policy), and Jinja2 escapes every value.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from app.gate import key_of
from app.web.cards import LABELS, WORKING, cards
from vllm_launcher import __version__
from vllm_launcher.registry import Registry
from vllm_launcher.status import LauncherStatus

_HERE = Path(__file__).parent
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Table(Protocol):
    """Where the page learns how the servers are."""

    def snapshot(self) -> LauncherStatus | None:
        """What the launcher said last, or None while it does not answer."""
        ...


class Asset(NamedTuple):
    """One file the page links to, with its whole content: three small files, read once."""

    media_type: str
    content: bytes

    @property
    def version(self) -> str:
        """Changes with the content, so that browsers may keep a version for ever."""
        return hashlib.sha256(self.content).hexdigest()[:12]


def create_router(registry: Registry, table: Table) -> APIRouter:
    """The home page at ``/`` and its files under ``/static/``.

    Args:
        registry: The models to show, in this order.
        table: Asked on every request for the servers' states.
    """
    router = APIRouter(include_in_schema=False)
    assets = _read_assets()
    page = load_page("home.html")

    @router.get("/", response_class=HTMLResponse)
    async def home(request: Request) -> HTMLResponse:
        status = table.snapshot()
        key = key_of(request)
        shown = [
            card for card in cards(registry, status, str(request.base_url)) if key is None or key.allows(card.spec.id)
        ]
        served = [card for card in shown if not card.refused]
        refused = [card for card in shown if card.refused]
        html = page.render(
            served=served, refused=refused, reachable=status is not None, version=__version__, signed_in=key is not None
        )
        return HTMLResponse(html, headers={**SECURITY, "Cache-Control": "no-store"})

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        asset = assets.get(name)
        if asset is None:
            return Response(status_code=404)
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    _ = home, static  # registered by their decorators
    return router


def load_page(name: str) -> Template:
    """Return a page's template, with what all pages share."""
    versioned = {name: f"static/{name}?v={asset.version}" for name, asset in _read_assets().items()}
    constants = {"assets": versioned, "labels": LABELS, "working": sorted(WORKING)}
    return _environment().get_template(name, globals=constants)


def _read_assets() -> dict[str, Asset]:
    kinds = {"home.css": "text/css", "home.js": "text/javascript", "icon.svg": "image/svg+xml"}
    return {name: Asset(kind, (_HERE / "static" / name).read_bytes()) for name, kind in kinds.items()}


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
