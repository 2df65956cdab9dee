"""Which protocol a path belongs to, and how that protocol words errors."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.responses import Response

from app.errors import ServiceError
from app.responses import respond


@dataclass(frozen=True)
class Dialect:
    """A protocol's name in metrics and logs, and its errors."""

    name: str
    render: Callable[[ServiceError], Response] = respond


PAGES = Dialect("pages")
LANGSERVE = Dialect("langserve")


class Dialects:
    """Every protocol by the beginning of its paths; the longest that fits counts.

    Args:
        models: The ids that begin LangServe's paths.
    """

    def __init__(self, models: Callable[[], Iterable[str]]) -> None:
        self._models = models
        self._known: dict[str, Dialect] = {}

    def __repr__(self) -> str:
        return f"<Dialects {', '.join(dialect.name for dialect in self._known.values())}>"

    def add(self, dialect: Dialect, *prefixes: str) -> None:
        """Let paths that begin so be of this protocol."""
        self._known.update(dict.fromkeys(prefixes, dialect))
        self._known = dict(sorted(self._known.items(), key=lambda item: -len(item[0])))

    def of(self, path: str) -> Dialect:
        """Return the protocol of a path."""
        for prefix, dialect in self._known.items():
            if path.startswith(prefix):
                return dialect
        return LANGSERVE if path.split("/", 2)[1:2] and path.split("/", 2)[1] in self._models() else PAGES
