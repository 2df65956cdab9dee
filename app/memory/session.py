"""Which conversation a request belongs to, for whoever keeps to one on the way to an engine."""

from contextvars import ContextVar

from langchain_core.runnables.config import ensure_config

current_session: ContextVar[str | None] = ContextVar("current_session", default=None)
"""As a protocol says it; None where it says nothing."""


def find_session() -> str | None:
    """Return the session of the request under way: as its protocol says, else as its chain's config does."""
    session = current_session.get()
    if session is not None:
        return session
    told = (ensure_config().get("configurable") or {}).get("session_id")
    return str(told) if told is not None else None
