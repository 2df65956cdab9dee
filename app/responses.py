"""Errors as HTTP answers: in the shape of the protocol that asked, whoever raised them."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from app.catalogue import unknown_model
from app.engines.upstream import translate
from app.errors import (
    InternalError,
    InvalidInput,
    Refused,
    ServiceError,
    UnknownModel,
    UnknownRoute,
    WrongMethod,
    meaning,
    scrub,
)
from app.guard.bodies import CallerLeft
from app.guard.call import may_use, note_error
from app.protocols.shapes import Shape, render_own, shape_of
from vllm_launcher.registry.entries import RESERVED_IDS

log = logging.getLogger(__name__)

LEFT = 499
"""nginx's status for a caller that closed the connection; only a log ever sees it."""
PROBLEM_LIMIT = 20
"""Places of a bad input that are listed: a union of message types can fail in hundreds."""


def respond(error: ServiceError, shape: Shape = render_own) -> JSONResponse:
    """Return an error in a protocol's shape, and Retry-After where a retry makes sense.

    In our own the message stands at the top once more: the JavaScript RemoteRunnable shows that field of a refused
    stream.
    """
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    status, body = shape(error)
    return JSONResponse(body, status, headers)


def name_error(error: BaseException) -> ServiceError:
    """Return the error of this service that ``error`` is; what nobody foresaw goes to the log, whole."""
    named = _name(error)
    note_error(meaning(named).type)
    return named


def _name(error: BaseException) -> ServiceError:
    if isinstance(error, RequestValidationError):
        return invalid(error.errors())
    if isinstance(error, HTTPException):
        return _from_http(error)
    named = translate(error)
    if isinstance(named, InternalError):
        log.error("unforeseen", exc_info=error)
    return named


def invalid(problems: Sequence[Any], *, within: Sequence[str | int] = ()) -> InvalidInput:
    """Return the error for pydantic's list of problems, without the values it quotes.

    Args:
        problems: As ``ValidationError.errors()`` has them.
        within: Where the validated part stands in the body.
    """
    listed = [_problem(problem, within) for problem in problems[:PROBLEM_LIMIT]]
    if not listed:
        return InvalidInput("The request is invalid.")
    first = listed[0]
    place = ".".join(str(step) for step in first["loc"])
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    message = f"{place}: {first['msg']}{more}" if place else first["msg"]
    return InvalidInput(message, param=place or None, problems=listed)


def _problem(problem: Any, within: Sequence[str | int]) -> dict[str, Any]:
    if not isinstance(problem, Mapping):  # LangServe also raises plain texts
        return {"loc": [*within], "msg": scrub(str(problem)), "type": "invalid"}
    said = cast("Mapping[str, Any]", problem)
    return {"loc": [*within, *said["loc"]], "msg": scrub(said["msg"]), "type": said["type"]}


def _from_http(error: HTTPException) -> ServiceError:
    """LangServe raises these for its own checks; starlette for routes and methods."""
    match error.status_code:
        case 404:
            return UnknownRoute("There is no such route.", hint="GET /docs lists them all.")
        case 405:
            allowed = (error.headers or {}).get("Allow")
            hint = f"It takes {allowed}." if allowed else None
            return WrongMethod("This route does not take that method.", hint=hint)
        case 422:
            return InvalidInput(scrub(str(error.detail)))
        case _:
            return Refused(scrub(str(error.detail)))


@contextmanager
def named_errors() -> Generator[None]:
    """Let only errors of this service out of the block, and the news that the caller has left."""
    try:
        yield
    except (ServiceError, CallerLeft):
        raise
    except Exception as error:
        raise name_error(error) from error


def install_handlers(app: FastAPI, models: Callable[[], Sequence[str]]) -> None:
    """Let every error of ``app`` be answered in its path's shape; unknown models are told the near ones."""

    async def answer(request: Request, error: Exception) -> Response:
        named = name_error(error)
        if isinstance(named, UnknownRoute):
            named = _unknown(request.url.path, models()) or named
        return respond(named, shape_of(request.url.path, request.headers))

    async def answer_nobody(_request: Request, _error: Exception) -> Response:
        return Response(status_code=LEFT)

    async def answer_unforeseen(request: Request, _error: Exception) -> Response:
        return respond(InternalError(), shape_of(request.url.path, request.headers))  # the server logs it

    for kind in (ServiceError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
    for kind in (CallerLeft, ClientDisconnect):
        app.add_exception_handler(kind, answer_nobody)
    app.add_exception_handler(Exception, answer_unforeseen)


def _unknown(path: str, known: Sequence[str]) -> UnknownModel | None:
    """Return the better error where the first part of ``path`` looks like a model that is not there."""
    model, _, rest = path.lstrip("/").partition("/")
    if model in known or model in RESERVED_IDS or not rest:
        return None
    return unknown_model(model, [*filter(may_use, known)])
