"""Which protocol a path belongs to: its name in metrics and in the audit log."""

from collections.abc import Callable, Iterable

PAGES = "pages"
"""What no model answers: status, documents, pages."""
LANGSERVE = "langserve"
PREFIXES = (
    ("/v1/messages", "anthropic"),
    ("/v1/", "openai"),
    ("/api/", "ollama"),
    ("/v2/", "kserve"),
    ("/generate", "tgi"),
    ("/models/", "huggingface"),
)
"""The first that fits. A protocol adds its line, as in ``app/protocols/shapes.py``."""
OWN = frozenset({"/models/events"})
PROBES = frozenset({"/health", "/ready"})
PROBES_BELOW = ("/v2/health/", "/v2/models/", "/models/")


class Wires:
    """Tells the protocol of a path.

    Args:
        models: The ids that begin LangServe's paths.
    """

    def __init__(self, models: Callable[[], Iterable[str]]) -> None:
        self._models = models

    def of(self, method: str, path: str) -> str:
        """Return the protocol's name."""
        if path in OWN:
            return PAGES
        if path == "/" and method == "POST":
            return "tgi"
        for prefix, name in PREFIXES:
            if path.startswith(prefix):
                return name
        first = path.split("/", 2)[1] if path.startswith("/") else ""
        return LANGSERVE if first in self._models() else PAGES

    def model(self, path: str) -> str:
        """Return the id of the model that a path names, with or without ``:raw``; empty where it names none."""
        models = self._models()
        names = (part.partition(":")[0] for part in path.split("/"))
        return next((name for name in names if name in models), "")


def is_probe(method: str, path: str) -> bool:
    """Whether a request asks nothing but whether the service or a model is up; "not yet" is its answer, no error."""
    if method not in ("GET", "HEAD"):
        return False
    return path in PROBES or (path.startswith(PROBES_BELOW) and path.endswith(("/ready", "/live", "/health")))
