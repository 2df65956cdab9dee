"""What a request has to pass before anybody works on it: the size, time and shape of its body, and its wishes.

Nothing here knows a protocol. Every refusal is an error of ``app/errors.py``.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, cast

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive
from typing_extensions import override

from app.errors import InvalidInput, ShuttingDown, TooLarge, TooSlow
from app.guard.client_connection import ON_LEAVE, OnLeave
from app.settings import Limits
from app.shutdown import Shutdown

WAIT_LIMIT = 86_400
"""Larger waits than a day are read as a day; the setting caps far below."""


# --- the body ------------------------------------------------------------------------------


async def read_json(request: Request, limits: Limits) -> Any:
    """Return the body of ``request`` as JSON values.

    Raises:
        TooLarge: More than ``limits.body_bytes``; told before the rest has arrived.
        TooSlow: It took longer than ``limits.body_seconds``.
        InvalidInput: No JSON (with line and column), or JSON that cannot be passed on.
    """
    return parse_json(await read_bytes(request, limits.body_bytes, limits.body_seconds), limits.json_depth)


async def read_bytes(request: Request, most: int, seconds: float) -> bytes:
    """Return the body of ``request``.

    Raises:
        TooLarge: More than ``most`` bytes; told before the rest has arrived.
        TooSlow: It took longer than ``seconds``.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _read_body(request, most)
    except TimeoutError as error:
        raise TooSlow(f"The body did not arrive within {seconds:g} s.") from error


async def _read_body(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    while True:  # as Request.stream, of which nothing more is needed
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes.")


def parse_json(body: bytes, depth: int) -> Any:
    """Return the values of a JSON text: UTF-8, at most ``depth`` deep, with finite numbers and whole characters."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"The body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}.", param="body"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The body is no UTF-8: byte {error.start} is wrong.", param="body") from error
    except RecursionError as error:
        raise _too_deep(depth) from error
    except ValueError as error:  # an integer of thousands of digits
        raise InvalidInput("The body holds a number nobody can use.", param="body") from error
    _check_values(value, depth)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidInput(f"The body holds {name}, which is no JSON.", param="body")


def _too_deep(depth: int) -> InvalidInput:
    return InvalidInput(f"The body is nested deeper than {depth} levels.", param="body")


def _check_values(root: Any, depth: int) -> None:
    """Refuse what parses but cannot be sent on. Walks level by level: no recursion, whatever the input."""
    level: list[Any] = [root]
    for _ in range(depth + 1):
        if not level:
            return
        level = [child for value in level for child in _children(value)]
    raise _too_deep(depth)


def _children(value: Any) -> Iterable[Any]:
    match value:
        case dict():
            return _members(cast("dict[str, Any]", value))
        case list():
            return cast("list[Any]", value)
        case int() if not -(2**63) <= value < 2**64:  # what JSON of other languages, and orjson, can hold
            raise InvalidInput("The body holds a whole number of more than 64 bits.", param="body")
        case float() if not math.isfinite(value):
            raise InvalidInput("The body holds a number too large for anybody.", param="body")
        case str() if not value.isascii():
            _check_text(value)
        case _:
            pass
    return ()


def _members(value: dict[str, Any]) -> Iterator[Any]:
    for key, child in value.items():
        _check_text(key)
        yield child


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("The body holds half a character (a lone surrogate).", param="body") from error


# --- the wishes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Preferences:
    """What a request wishes in its ``Prefer`` header (RFC 7240)."""

    wait: float | None = None
    """Seconds it is willing to wait for its model to get ready."""
    return_exceptions: bool = False
    """A batch answers each input on its own, with a result or an error."""


def parse_preferences(values: Iterable[str]) -> Preferences:
    """Read ``Prefer`` headers. What is not understood is ignored, as the RFC asks; the first of a name counts."""
    wishes: dict[str, str] = {}
    for wish in ",".join(values).split(","):
        name, _, value = wish.partition(";")[0].partition("=")
        wishes.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = wishes.get("wait", "")
    return Preferences(
        wait=min(int(wait), WAIT_LIMIT) if wait.isascii() and wait.isdigit() and len(wait) < 10 else None,  # noqa: PLR2004
        return_exceptions="return-exceptions" in wishes,
    )


# --- the caller ----------------------------------------------------------------------------


class CallerLeft(Exception):  # noqa: N818 -- nothing failed
    """Who asked has closed the connection; nobody reads the answer."""


def while_wanted(
    scope: Mapping[str, Any], receive: Receive, shutdown: Shutdown, *, endless: bool = False
) -> contextlib.AbstractAsyncContextManager[None]:
    """Cancel the block as soon as nobody waits for what it does. The request's body must have been read.

    Args:
        scope: The request's; its server may tell there who leaves (``ON_LEAVE``).
        receive: The request's channel.
        shutdown: Leaves the block its time of grace.
        endless: The block would never end by itself, so it gets no grace.

    Raises:
        CallerLeft: The caller closed the connection.
        ShuttingDown: The app's time is over.
    """
    leaving: OnLeave = scope.get("extensions", {}).get(ON_LEAVE) or partial(_watched, receive)
    return _Wanted(leaving, shutdown.on_begin if endless else shutdown.on_deadline)


class _Wanted(contextlib.AbstractAsyncContextManager[None]):
    """See ``while_wanted``. A class: a generator costs three times as much, and every request has two."""

    def __init__(self, leaving: OnLeave, ending: OnLeave) -> None:
        self._listening = (
            ending(lambda: self._interrupt(ShuttingDown())),
            leaving(lambda: self._interrupt(CallerLeft())),
        )
        self._block = asyncio.timeout(None)
        self._why: Exception | None = None

    def _interrupt(self, reason: Exception) -> None:
        if self._why is None:
            self._why = reason
            self._block.reschedule(0)

    @override
    async def __aenter__(self) -> None:
        await self._block.__aenter__()
        for each in self._listening:
            each.__enter__()

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in reversed(self._listening):
            each.__exit__(None, None, None)
        try:
            await self._block.__aexit__(kind, error, traceback)
        except TimeoutError:
            if self._why is not None:
                raise self._why from None
            raise
        if isinstance(error, TimeoutError) and self._block.expired() and self._why is not None:
            raise self._why from None


@contextlib.contextmanager
def _watched(receive: Receive, listener: Callable[[], None]) -> Generator[None]:
    """As ``ON_LEAVE``, by ASGI alone: a task that waits for the caller to leave."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        listener()

    watcher = asyncio.create_task(watch(), name="caller watch")
    try:
        yield
    finally:
        watcher.cancel()


# --- the answer ----------------------------------------------------------------------------

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Keep browsers from misusing an answer; one that is set already stays."""
