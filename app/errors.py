# ruff: noqa: N818 -- an error is named for what happened: ModelNotReady, EngineDied
"""Every way a request can fail, and the one table that gives each its status.

::

    ServiceError
    ├── CallerError              the request is at fault; the same one fails again
    │   ├── InvalidInput         422  does not fit the schema, or is no JSON
    │   ├── ContextTooLong       400  more tokens than the model takes
    │   ├── Refused              400  the engine refuses a parameter or an input
    │   ├── Unauthorized         401  no API key, or none that may be used now
    │   ├── NotAllowed           403  the key may not do this, or a page of another site asks
    │   ├── UnknownModel         404
    │   ├── UnknownRoute         404
    │   ├── UnknownSession       404
    │   ├── UnknownDocument      404  no such collection or document
    │   ├── UnreadableDocument   422  encrypted, damaged, without text, of an unknown kind
    │   ├── OtherEmbedding       409  the collection was made with another embedding model
    │   ├── UnknownPicture       404  never drawn here, or not kept any more
    │   ├── WrongMethod          405
    │   ├── SessionChanged       409  deleted or taken over while its answer came
    │   ├── TooSlow              408  its body took too long to arrive
    │   └── TooLarge             413  body, batch or messages beyond a limit
    ├── Unavailable              not now; a later request may succeed
    │   ├── SessionBusy          409  other requests of the same session are under way
    │   ├── EngineBusy           429
    │   ├── QueueOfDocumentsFull 429  so many documents wait to be ingested that one more is not taken
    │   ├── ToolsUnavailable     503  tools that an agent was given cannot be had: an MCP server does not answer
    │   ├── StoreUnavailable     503  the store of documents does not answer
    │   ├── OverLimit            429  beyond the key's requests, tokens or streams
    │   ├── QueueFull            429  the model's line is full, or did not move in time
    │   ├── ModelNotReady        503  it is loading: phase and progress say how far it is
    │   ├── TooManyWaiting       503  so many requests wait for it to load that one more would only wait in vain
    │   ├── ModelFailed          503  it was given up on: reason and hint say why
    │   ├── MemoryUnavailable    503  the store of conversations does not answer
    │   ├── LauncherGone         503  nobody tells which servers are ready
    │   └── ShuttingDown         503
    ├── EngineError              the engine server is at fault
    │   ├── EngineUnreachable    502  refused or closed the connection before answering
    │   ├── EngineDied           502  ended in the middle of an answer
    │   ├── EngineFailed         502  answered with an error of its own, or with nonsense
    │   └── EngineTimeout        504
    └── InternalError            500  our fault; the log has the rest

Errors of libraries become one of these at the edge: ``app/engines/upstream.py`` for what the engine and its client
raise, ``app/protocols/`` for what parsing raises. A body never holds a stack trace, a path or an address.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_launcher.progress import Progress

MESSAGE_LIMIT = 600
"""Characters of a foreign text that are passed on."""


class ServiceError(Exception):
    """A failure with a meaning. ``hint`` is what to do about it, ``param`` the part of the request it is about."""

    hint: str | None = None
    param: str | None = None
    retry_after: int | None = None
    """Seconds, for the header of that name."""

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.hint
        self.param = param or self.param

    def details(self) -> Mapping[str, Any]:
        """Fields of the body that only this kind of error has."""
        return {}


class CallerError(ServiceError):
    """The request is at fault."""


class InvalidInput(CallerError):
    """The input does not fit. ``problems`` lists every place, each with ``loc``, ``msg`` and ``type``."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        problems: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, param=param)
        self.problems = problems or []

    def details(self) -> Mapping[str, Any]:
        """Every problem with its place."""
        return {"problems": self.problems} if self.problems else {}


class ContextTooLong(CallerError):
    """More tokens than the model takes, in the engine's own words."""

    hint = "Shorten the messages, or ask for fewer max_tokens."


class Refused(CallerError):
    """The engine refuses this input or parameter, in its own words."""


class Unauthorized(CallerError):
    """No API key, or none that may be used now."""

    hint = "Send a key as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."


class NotAllowed(CallerError):
    """The key may not do this."""


class UnknownModel(CallerError):
    """No such model."""


class UnknownRoute(CallerError):
    """No such route."""


class UnknownSession(CallerError):
    """No such session of this owner."""

    hint = "GET /sessions lists them."


class SessionChanged(CallerError):
    """The session is not what it was when the request began; its turn is not kept."""


class UnknownDocument(CallerError):
    """No such collection or document."""


class UnreadableDocument(CallerError):
    """Its text cannot be had."""


class OtherEmbedding(CallerError):
    """The collection was made with another embedding model."""


class UnknownPicture(CallerError):
    """No such picture, or not any more."""


class WrongMethod(CallerError):
    """The route exists, for other methods."""


class TooSlow(CallerError):
    """The body took too long to arrive."""


class TooLarge(CallerError):
    """Beyond a limit."""


class Unavailable(ServiceError):
    """Not now."""


class EngineBusy(Unavailable):
    """The engine's queue is full."""

    retry_after = 1


class QueueOfDocumentsFull(Unavailable):
    """So many documents wait to be ingested that one more is not taken."""

    retry_after = 10

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} documents wait to be ingested already.", hint="Send it again later.")


class ToolsUnavailable(Unavailable):
    """Tools that an agent was given cannot be had."""

    retry_after = 10


class StoreUnavailable(Unavailable):
    """The store of documents does not answer."""

    retry_after = 10


class OverLimit(Unavailable):
    """Beyond the key's requests, tokens or streams."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, hint=f"Try again in {retry_after} s.")
        self.retry_after = retry_after


class QueueFull(Unavailable):
    """The model's line is full, or did not move in time."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, hint=f"Try again in {retry_after} s.")
        self.retry_after = retry_after


class TooManyWaiting(Unavailable):
    """The line of those who wait for a model to load is full."""

    hint = "Try again later: what waits is served first come, first served."

    def __init__(self, model: str, waiting: int, *, retry_after: int) -> None:
        super().__init__(f"The model '{model}' is loading, and {waiting} requests wait already.")
        self.retry_after = retry_after


class ModelNotReady(Unavailable):
    """It is loading."""

    def __init__(self, model: str, *, state: str, phase: str, progress: Progress | None, retry_after: int) -> None:
        so_far = f": {phase}" if phase else ""
        super().__init__(
            f"The model '{model}' is not ready yet ({state}){so_far}.",
            hint="Try again later, or send 'Prefer: wait=120' to wait for it.",
        )
        self.state, self.phase, self.progress = state, phase, progress
        self.retry_after = retry_after

    def details(self) -> Mapping[str, Any]:
        """How far it is."""
        return {"state": self.state, "phase": self.phase, "progress": describe_progress(self.progress)}


class ModelFailed(Unavailable):
    """It was given up on."""

    def __init__(self, model: str, *, reason: str | None, hint: str | None) -> None:
        why = f": {scrub(reason)}" if reason else ""
        super().__init__(f"The model '{model}' could not be started{why}", hint=scrub(hint) if hint else None)


class SessionBusy(Unavailable):
    """Other requests of the same session are under way, and were for as long as this one would wait."""

    hint = "Requests of one session are answered one after the other; use another session_id for another conversation."
    retry_after = 2


class MemoryUnavailable(Unavailable):
    """The store of conversations does not answer."""

    hint = "A request without a session_id needs no store."
    retry_after = 2


class LauncherGone(Unavailable):
    """Nobody tells which servers are ready."""

    retry_after = 5


class ShuttingDown(Unavailable):
    """The app was told to stop."""

    retry_after = 10

    def __init__(self) -> None:
        super().__init__("The service is shutting down.", hint="Try again in a moment.")


class EngineError(ServiceError):
    """The engine server is at fault."""


class EngineUnreachable(EngineError):
    """Refused or closed the connection before it answered. ``refused``: it has not seen the request."""

    retry_after = 2

    def __init__(self, message: str, *, hint: str | None = None, refused: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.refused = refused


class EngineDied(EngineError):
    """Ended in the middle of an answer."""

    retry_after = 2


class EngineFailed(EngineError):
    """Answered with an error of its own, or with nonsense."""


class EngineTimeout(EngineError):
    """Sent nothing for too long."""


class InternalError(ServiceError):
    """Our fault."""

    def __init__(self) -> None:
        super().__init__("Something went wrong inside the service. Its log has the details.")


@dataclass(frozen=True)
class Meaning:
    """What one kind of error is called and which HTTP status it has."""

    type: str
    status: int


MEANINGS: Mapping[type[ServiceError], Meaning] = {
    InvalidInput: Meaning("invalid_input", 422),
    ContextTooLong: Meaning("context_too_long", 400),
    Refused: Meaning("refused", 400),
    Unauthorized: Meaning("unauthorized", 401),
    NotAllowed: Meaning("not_allowed", 403),
    UnknownModel: Meaning("unknown_model", 404),
    UnknownRoute: Meaning("unknown_route", 404),
    UnknownSession: Meaning("unknown_session", 404),
    SessionChanged: Meaning("session_changed", 409),
    SessionBusy: Meaning("session_busy", 409),
    MemoryUnavailable: Meaning("memory_unavailable", 503),
    UnknownDocument: Meaning("unknown_document", 404),
    UnreadableDocument: Meaning("unreadable_document", 422),
    OtherEmbedding: Meaning("other_embedding", 409),
    UnknownPicture: Meaning("unknown_picture", 404),
    WrongMethod: Meaning("wrong_method", 405),
    TooSlow: Meaning("too_slow", 408),
    TooLarge: Meaning("too_large", 413),
    EngineBusy: Meaning("engine_busy", 429),
    QueueOfDocumentsFull: Meaning("documents_waiting", 429),
    ToolsUnavailable: Meaning("tools_unavailable", 503),
    StoreUnavailable: Meaning("store_unavailable", 503),
    OverLimit: Meaning("over_limit", 429),
    QueueFull: Meaning("queue_full", 429),
    ModelNotReady: Meaning("model_not_ready", 503),
    TooManyWaiting: Meaning("too_many_waiting", 503),
    ModelFailed: Meaning("model_failed", 503),
    LauncherGone: Meaning("launcher_gone", 503),
    ShuttingDown: Meaning("shutting_down", 503),
    EngineUnreachable: Meaning("engine_unreachable", 502),
    EngineDied: Meaning("engine_died", 502),
    EngineFailed: Meaning("engine_failed", 502),
    EngineTimeout: Meaning("engine_timeout", 504),
    InternalError: Meaning("internal_error", 500),
}
"""The table. Later protocols add their own column here."""


def meaning(error: ServiceError) -> Meaning:
    """Return the row of this error's class."""
    return MEANINGS[type(error)]


def describe(error: ServiceError) -> dict[str, Any]:
    """Return the ``error`` object of a body: always type, message, hint and param, then what the kind adds."""
    return {
        "type": meaning(error).type,
        "message": error.message,
        "hint": error.hint,
        "param": error.param,
        **error.details(),
    }


def describe_progress(progress: Progress | None) -> dict[str, Any] | None:
    """Return progress for people and programs, or None where there is none."""
    if progress is None:
        return None
    return {**progress.model_dump(), "fraction": progress.fraction}


_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)]+", re.IGNORECASE)
_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\blocalhost(?::\d+)?\b|\[[0-9a-fA-F:]+\](?::\d+)?")
_PATH = re.compile(r"(?<![\w.:/])(?:~|/)(?:[\w.@+-]+/)+[\w.@+-]*|(?<![\w.:/])/(?:root|home|tmp|etc|var|opt)\b")
_TRACEBACK = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)


def scrub(text: str) -> str:
    """Return a foreign text without stack traces, addresses and file paths, and not longer than is read."""
    text = _TRACEBACK.sub("", text)
    for pattern, word in ((_URL, "<address>"), (_ADDRESS, "<address>"), (_PATH, "<path>")):
        text = pattern.sub(word, text)
    text = text.strip()
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"
