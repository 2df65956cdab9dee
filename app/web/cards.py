"""What the home page shows of one model: a registry entry and its server's status, as one value.

Pure: the template prints these fields and decides nothing.
"""

from dataclasses import dataclass

from app.errors import scrub
from app.web.snippets import Snippet, snippets
from vllm_launcher.progress import Progress
from vllm_launcher.registry import ModelSpec, Registry
from vllm_launcher.status import LauncherStatus, ServerStatus
from vllm_launcher.view import amount

UNREACHABLE = "unreachable"
"""The state shown while the launcher does not answer: nobody knows what its servers do."""

LABELS = {
    "absent": "Not loaded",
    "fetching": "Fetching",
    "starting": "Starting",
    "warming": "Warming up",
    "ready": "Ready",
    "asleep": "Asleep",
    "draining": "Draining",
    "stopped": "Stopped",
    "failed": "Failed",
    UNREACHABLE: "Unknown",
}
"""What people read for a state. The page's script gets the same table, so they are written once."""

TASKS = {
    "chat": "Chat",
    "vision-chat": "Vision chat",
    "image-generation": "Image generation",
    "embedding": "Embeddings",
}

WORKING = frozenset({"fetching", "starting", "warming", "draining"})
"""States that end by themselves: shown with a progress bar."""


@dataclass(frozen=True)
class Link:
    """``href`` is relative to the home page, so that it holds behind a proxy's path prefix too."""

    label: str
    href: str


@dataclass(frozen=True)
class Card:
    """One model on the page."""

    spec: ModelSpec
    task: str
    state: str
    refused: bool
    """This machine cannot serve it; ``reason`` says why."""
    phase: str
    progress: Progress | None
    reason: str
    hint: str
    actions: tuple[Link, ...]
    references: tuple[Link, ...]
    snippets: tuple[Snippet, ...]

    @property
    def label(self) -> str:
        """The state in words."""
        return LABELS[self.state]

    @property
    def working(self) -> bool:
        """Whether something is under way that a progress bar tells of."""
        return self.state in WORKING

    @property
    def amount(self) -> str:
        """How far the phase has come, in words; empty where that is unknown."""
        return amount(self.progress)


def cards(registry: Registry, status: LauncherStatus | None, base_url: str) -> tuple[Card, ...]:
    """Every model of the registry, in its order.

    Args:
        registry: What ``models.json`` says.
        status: What the launcher says; None while it does not answer.
        base_url: Where clients reach the app, ending in a slash.
    """
    return tuple(_card(spec, status, base_url) for spec in registry.models)


def _card(spec: ModelSpec, status: LauncherStatus | None, base_url: str) -> Card:
    server = status.server(spec.id) if status else None
    server = server or ServerStatus(model=spec.id, served_name=spec.id)
    return Card(
        spec=spec,
        task=TASKS[spec.task],
        state=server.state if status else UNREACHABLE,
        refused=server.refused,
        phase=server.phase,
        progress=server.progress,
        reason=scrub(server.reason or ""),
        hint=scrub(server.hint or ""),
        actions=_actions(spec),
        references=_references(spec),
        snippets=snippets(spec, base_url),
    )


def _actions(spec: ModelSpec) -> tuple[Link, ...]:
    if spec.chain is None:
        return ()
    playground = Link("Playground", f"{spec.id}/playground/")
    if spec.task == "image-generation":
        return (Link("Draw", playground.href),)
    if spec.task == "vision-chat":
        return (Link("Show it a picture", playground.href), Link("Chat playground", f"{spec.id}/chat/playground/"))
    return (Link("Open chat", f"{spec.id}/chat/playground/"), playground)


def _references(spec: ModelSpec) -> tuple[Link, ...]:
    if spec.chain is None:
        return (Link("API docs", "docs"),)
    return (
        Link("API docs", f"docs#/{spec.id}"),
        Link("Input schema", f"{spec.id}/input_schema"),
        Link("Output schema", f"{spec.id}/output_schema"),
        Link("Config schema", f"{spec.id}/config_schema"),
    )
