"""The home page: every model, its state as it changes, and calls to paste.

Rendered here, so it reads without a script; the script then follows ``models/events``. The page allows nothing
from another host and no inline script or style (its Content-Security-Policy), and Jinja2 escapes every value.
"""

from typing import Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from app.guard.gate import key_of
from app.web.assets import SECURITY, assets, links, templates
from app.web.cards import LABELS, WORKING, cards
from vllm_launcher import __version__
from vllm_launcher.registry import Registry
from vllm_launcher.status import LauncherStatus


class Table(Protocol):
    """Where the page learns how the servers are."""

    def snapshot(self) -> LauncherStatus | None:
        """What the launcher said last, or None while it does not answer."""
        ...


def create_router(registry: Registry, table: Table) -> APIRouter:
    """The home page at ``/`` and its files under ``/static/``.

    Args:
        registry: The models to show, in this order.
        table: Asked on every request for the servers' states.
    """
    router = APIRouter(include_in_schema=False)
    constants = {"assets": links(), "labels": LABELS, "working": sorted(WORKING)}
    page = templates().get_template("home.html", globals=constants)

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
        return HTMLResponse(html, headers=SECURITY)

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        asset = assets().get(name)
        if asset is None:
            return Response(status_code=404)
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    _ = home, static  # registered by their decorators
    return router
