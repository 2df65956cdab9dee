"""A document as a page for people: its passages in their order, each with an anchor that a citation opens."""

from collections.abc import Sequence
from pathlib import Path

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from rag_chat.store import Found

_WEB = Path(__file__).parent.parent / "web"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_WEB / "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def show_document(collection: str, passages: Sequence[Found]) -> HTMLResponse:
    """Return the page."""
    first = passages[0]
    html = _ENVIRONMENT.get_template("document.html").render(
        collection=collection, source=first.source, title=first.passage.title, passages=passages
    )
    return HTMLResponse(html, headers=_HEADERS)
