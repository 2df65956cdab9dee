"""What every page of ours shares: its files, its templates, and the policy that keeps strangers out of it."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

_HERE = Path(__file__).parent
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of a page: nothing from another host, and no inline script or style."""


class Asset(NamedTuple):
    """One file that pages link to, with its whole content: a few small files, read once."""

    media_type: str
    content: bytes

    @property
    def version(self) -> str:
        """Changes with the content, so that browsers may keep a version for ever."""
        return hashlib.sha256(self.content).hexdigest()[:12]


@cache
def assets() -> Mapping[str, Asset]:
    """Return every file under ``static/``."""
    files = sorted(path for path in (_HERE / "static").iterdir() if path.suffix in KINDS)
    return {path.name: Asset(KINDS[path.suffix], path.read_bytes()) for path in files}


def links(up: str = "") -> dict[str, str]:
    """Return where a page finds each file; ``up`` leads from the page to the home page, as ``../../``."""
    return {name: f"{up}static/{name}?v={asset.version}" for name, asset in assets().items()}


@cache
def templates() -> Environment:
    """Return the templates; every value in them is escaped."""
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
