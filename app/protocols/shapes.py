"""The one table of error shapes: what each kind of failure is called, and which status it has, in each protocol.

========= ========================================================= ====================================
protocol  body                                                      paths
========= ========================================================= ====================================
OpenAI    ``{"error": {"message", "type", "param", "code"}}``       ``/v1/``
Anthropic ``{"type": "error", "error": {"type", "message"}}``       ``/v1/messages``
Ollama    ``{"error": "..."}``                                      ``/api/``
TGI       ``{"error": "...", "error_type": "..."}``                 ``/generate``, ``/models/{id}``
KServe    ``{"error": "...", "type", "hint", "param"}``             ``/v2``
our own   ``{"error": {...}, "message"}`` (``app/responses.py``)    everything else
========= ========================================================= ====================================

An error keeps its hint: it follows the message. A type that is not in the table has the row of its nearest ancestor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from app import errors
from app.errors import ServiceError, describe, meaning

Shape = Callable[[ServiceError], tuple[int, dict[str, Any]]]
"""Renders an error: its HTTP status, and its body."""


@dataclass(frozen=True)
class Native:
    """One row: a kind of error in the words of each protocol."""

    openai: tuple[int, str]
    """Status and ``type``."""
    anthropic: tuple[int, str]
    """Status and ``type``, of those its documentation lists."""
    plain: int
    """Status for Ollama, TGI and KServe."""
    tgi: str
    """``error_type``."""
    grpc: str
    """Name of the status code."""


_INVALID = "invalid_request_error"
_CALLER = Native((400, _INVALID), (400, _INVALID), 400, "validation", "INVALID_ARGUMENT")
_MISSING = Native((404, _INVALID), (404, "not_found_error"), 404, "validation", "NOT_FOUND")
_UNAVAILABLE = Native((503, "server_error"), (529, "overloaded_error"), 503, "overloaded", "UNAVAILABLE")
_BUSY = Native((429, "rate_limit_error"), (529, "overloaded_error"), 429, "overloaded", "RESOURCE_EXHAUSTED")
_LIMITED = Native((429, "rate_limit_error"), (429, "rate_limit_error"), 429, "overloaded", "RESOURCE_EXHAUSTED")
_ENGINE = Native((502, "server_error"), (502, "api_error"), 502, "generation", "UNAVAILABLE")

NATIVE: Mapping[type[ServiceError], Native] = {
    errors.CallerError: _CALLER,
    errors.InvalidInput: _CALLER,
    errors.Unauthorized: Native(
        (401, "authentication_error"), (401, "authentication_error"), 401, "validation", "UNAUTHENTICATED"
    ),
    errors.NotAllowed: Native(
        (403, "permission_error"), (403, "permission_error"), 403, "validation", "PERMISSION_DENIED"
    ),
    errors.UnknownModel: _MISSING,
    errors.UnknownRoute: Native((404, _INVALID), (404, "not_found_error"), 404, "validation", "UNIMPLEMENTED"),
    errors.WrongMethod: Native((405, _INVALID), (405, _INVALID), 405, "validation", "UNIMPLEMENTED"),
    errors.TooSlow: Native((408, _INVALID), (408, "timeout_error"), 408, "validation", "DEADLINE_EXCEEDED"),
    errors.TooLarge: Native((413, _INVALID), (413, "request_too_large"), 413, "validation", "RESOURCE_EXHAUSTED"),
    errors.Unavailable: _UNAVAILABLE,
    errors.EngineBusy: _BUSY,
    errors.OverLimit: _LIMITED,
    errors.QueueFull: _LIMITED,
    errors.EngineError: _ENGINE,
    errors.EngineTimeout: Native((504, "server_error"), (504, "timeout_error"), 504, "generation", "DEADLINE_EXCEEDED"),
    errors.ServiceError: Native((500, "server_error"), (500, "api_error"), 500, "generation", "INTERNAL"),
}
"""The table. ``app/errors.py`` draws the tree."""


def native(error: ServiceError) -> Native:
    """Return the row of an error's kind, or of the nearest kind above it."""
    return next(NATIVE[kind] for kind in type(error).__mro__ if kind in NATIVE)


def sentence(error: ServiceError) -> str:
    """Return message and hint as one text, for shapes that have no place for a hint."""
    return f"{error.message} {error.hint}" if error.hint else error.message


def render_openai(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """``code`` is our own name of the kind, as OpenAI's is: ``context_length_exceeded`` where it has one."""
    status, kind = native(error).openai
    own = meaning(error).type
    code = {"context_too_long": "context_length_exceeded", "unknown_model": "model_not_found"}.get(own, own)
    return status, {"error": {"message": sentence(error), "type": kind, "param": error.param, "code": code}}


def render_anthropic(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """https://docs.anthropic.com/en/api/errors."""
    status, kind = native(error).anthropic
    return status, {"type": "error", "error": {"type": kind, "message": sentence(error)}}


def render_ollama(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """One sentence."""
    return native(error).plain, {"error": sentence(error)}


def render_tgi(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Text Generation Inference's: ``huggingface_hub`` raises ``ValidationError``, ``OverloadedError``, ... from it."""
    row = native(error)
    return row.plain, {"error": sentence(error), "error_type": row.tgi}


def render_kserve(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """The Open Inference Protocol's, which Triton's clients read, and beside it what else is known."""
    return native(error).plain, {**describe(error), "error": sentence(error)}


def render_own(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """LangServe's and the pages': everything that is known, and the message at the top once more."""
    return meaning(error).status, {"error": describe(error), "message": error.message}


PREFIXES: tuple[tuple[str, Shape], ...] = (
    ("/v1/messages", render_anthropic),
    ("/v1/", render_openai),
    ("/api/", render_ollama),
    ("/v2", render_kserve),
    ("/generate", render_tgi),
    ("/models/", render_tgi),
)
"""Which shape a path's errors have: the first that fits. A protocol adds its line."""


def shape_of(path: str, headers: Headers) -> Shape:
    """Return the shape of the errors at ``path``; ``/v1/models`` is answered as its caller's protocol has it."""
    if path.startswith("/v1/") and "anthropic-version" in headers:
        return render_anthropic
    if path == "/":
        return render_tgi  # TGI takes prompts there
    if path.startswith("/models/") and "/v1/" in path:
        return render_openai
    return next((shape for prefix, shape in PREFIXES if path.startswith(prefix)), render_own)


# --- as JSON schemas, for /docs ------------------------------------------------------------


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*properties], "properties": properties}


_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}
OPENAI_ERROR = _object(error=_object(message=_TEXT, type=_TEXT, param=_MAYBE, code=_MAYBE))
ANTHROPIC_ERROR = _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT))
OLLAMA_ERROR = _object(error=_TEXT)
TGI_ERROR = _object(error=_TEXT, error_type=_TEXT)
