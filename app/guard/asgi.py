"""The gate in front of HTTP, as one plain ASGI middleware: everything a request passes before and an answer after.

In: the request's id, the name the service was called by, which site a browser's page is of, the key, the key's
limits. Out: security headers, the request's id, limits on an answer's size and time, and on a reader's slowness.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import NotAllowed, ServiceError, TooLarge, Unauthorized
from app.guard.bodies import HEADERS
from app.guard.call import Call
from app.guard.client_connection import ABORT, WRITE, Write
from app.guard.gate import SESSION_COOKIE, Ending, Gate, request_id
from app.guard.wires import PAGES, Wires, is_probe
from app.images.gallery import NAME, PREFIX
from app.protocols.shapes import shape_of
from app.responses import LEFT, respond
from app.settings import Limits

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing and use up nothing."""
OPEN = frozenset({"/health", "/ready", "/login", "/favicon.ico", "/robots.txt"})
"""What is answered without a key: whether the service lives, and the way to show a key."""
OPEN_BELOW = "/static/"
FROM_HERE = frozenset({"same-origin", "none"})
"""``Sec-Fetch-Site`` of requests that no other site's page made."""


@dataclass(frozen=True)
class Rules:
    """What the guard lets through.

    ``hosts``: names the service may be called by; empty: any. ``origins``: other sites whose pages may call it.
    """

    limits: Limits
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()


class Guard:
    """The middleware.

    Args:
        app: What it guards.
        gate: Keys, limits and notes.
        wires: Tells the protocol of a path.
        rules: What is let through.
        models: The registry's ids, which a key may be bound to.
    """

    def __init__(
        self, app: ASGIApp, *, gate: Gate, wires: Wires, rules: Rules, models: Callable[[], Iterator[str]]
    ) -> None:
        self._app = app
        self._gate = gate
        self._wires = wires
        self._rules = rules
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
        path, method = _path(scope), scope["method"]
        call = Call(request_id(headers.get("x-request-id")), self._wires.of(method, path), f"{method} {path[:200]}")
        call.named = self._wires.model(path)
        answer = Answer(send, call.request_id, self._rules.limits)
        try:
            self._check_browser(scope, headers)
            self._identify(scope, headers, path, call)
        except ServiceError as error:
            self._gate.refuse(call, error)
            response = self._refusal(error, scope, headers, path) or render(error, scope, path)
            await response(scope, receive, answer.send)
            return
        extensions: dict[str, Any] = scope.get("extensions") or {}
        if WRITE in extensions:
            extensions[WRITE] = answer.watch(extensions[WRITE])
        with answer.watched(scope):
            try:
                counts = method not in SAFE
                async with self._gate.pass_through(call, counts=counts, headers=headers) as ending:
                    await self._app(scope, receive, answer.send)
                    probe = is_probe(method, path)
                    ending.noted = not probe and (counts or call.protocol != PAGES)
                    _judge(ending, answer, call, probe=probe)
            except ServiceError as error:
                if answer.status:
                    raise
                await render(error, scope, path)(scope, receive, answer.send)

    # --- before ------------------------------------------------------------------------------

    def _check_browser(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another site makes a browser do.

        Raises:
            NotAllowed: Called by a foreign name (DNS rebinding), or from a foreign page (cross-site request forgery).
        """
        host = headers.get("host", "")
        if self._rules.hosts and _host_name(host) not in self._rules.hosts:
            raise NotAllowed(
                "The service is not known by that name.",
                hint="Name the host in LANGSERVE_VLLM_HOSTS, or call the service by its address.",
            )
        origin = headers.get("origin")
        if scope["method"] in SAFE or origin is None or origin in self._rules.origins:
            return
        same = headers.get("sec-fetch-site")
        if same in FROM_HERE if same else urlsplit(origin).netloc == host:
            return
        raise NotAllowed(
            "A page of another site may not call this service.", hint="Name its origin in LANGSERVE_VLLM_CORS_ORIGINS."
        )

    def _identify(self, scope: Scope, headers: Mapping[str, str], path: str, call: Call) -> None:
        """Find the key, and refuse paths of models it may not use.

        Raises:
            Unauthorized: There is no key where one is needed.
            NotAllowed: It is for other models.
        """
        session = cookie_parser(headers["cookie"]).get(SESSION_COOKIE) if "cookie" in headers else None
        try:
            call.key = self._gate.identify(headers, session)
        except Unauthorized:
            if not _open(path):
                raise
        scope.setdefault("state", {})["key"] = call.key
        if call.key is not None and call.key.models:
            for part in {part.partition(":")[0] for part in path.split("/")} & set(self._models()):
                if not call.key.allows(part):
                    raise NotAllowed(f"This API key may not use the model '{part}'.", param="model")

    def _refusal(self, error: ServiceError, scope: Scope, headers: Mapping[str, str], path: str) -> Response | None:
        """Send people who look for a page to where they can show their key."""
        if (
            not isinstance(error, Unauthorized)
            or scope["method"] != "GET"
            or "text/html" not in headers.get("accept", "")
        ):
            return None
        query = scope["query_string"].decode("latin-1")
        wanted = quote(path + (f"?{query}" if query else ""), safe="")
        return RedirectResponse(f"{scope.get('root_path', '')}/login?next={wanted}", 303)


def render(error: ServiceError, scope: Scope, path: str) -> Response:
    """Return an error in the words of the path's protocol."""
    return respond(error, shape_of(path, Headers(scope=scope)))


def _judge(ending: Ending, answer: "Answer", call: Call, *, probe: bool) -> None:
    """Say how a call ended whose answer the app has sent, or has not."""
    ending.status = answer.status
    if answer.status == LEFT or not answer.complete:
        ending.outcome, ending.status = "left", LEFT
    elif probe and answer.status == 503:  # noqa: PLR2004 -- HTTP's own number
        ending.outcome = "complete"  # "not yet" is what it asked for
    elif answer.status >= 400 or call.error is not None:  # noqa: PLR2004 -- HTTP's own number
        ending.outcome = "error"
        call.error = call.error or f"http_{answer.status}"


class Answer:
    """An answer on its way out: its headers completed, its size and time watched."""

    __slots__ = (
        "_deadline",
        "_left",
        "_limits",
        "_request_id",
        "_send",
        "_told",
        "_waiting_since",
        "complete",
        "status",
    )

    def __init__(self, send: Send, identity: str, limits: Limits) -> None:
        self._send = send
        self._request_id = identity
        self._limits = limits
        self._left = limits.response_bytes
        self._deadline = time.monotonic() + limits.response_seconds
        self._told = False
        self._waiting_since = 0.0
        self.status = 0
        self.complete = False

    async def send(self, message: Message) -> None:
        """Send one part.

        Raises:
            TooLarge: Once, when the answer is too large or takes too long; the stream may still say so.
        """
        if message["type"] == "http.response.start":
            self._begin(message)
            await self._send(message)
            return
        self._look(len(message.get("body", b"")))
        self._waiting_since = time.monotonic()  # read by one timer an answer
        await self._send(message)
        self._waiting_since = 0.0
        if not message.get("more_body", False):
            self.complete = True

    def watch(self, write: Write) -> Write:
        """Return the way of pieces that pass the middlewares by (``app/streams/relay.py``), watched too."""

        def write_watched(body: bytes) -> bool:
            self._left -= len(body)  # as _look, for each token
            if (self._left < 0 or now() > self._deadline) and not self._told:
                self._stop()
            return write(body)

        now = time.monotonic

        return write_watched

    def _look(self, size: int) -> None:
        """Count a piece, before it is sent."""
        self._left -= size
        if (self._left < 0 or time.monotonic() > self._deadline) and not self._told:
            self._stop()

    def _begin(self, message: Message) -> None:
        self.status = message["status"]
        present = {name.lower() for name, _ in message["headers"]}
        added = [pair for pair in HEADERS if pair[0] not in present]
        if self.status == 401:  # noqa: PLR2004 -- HTTP's own number
            added.append((b"www-authenticate", b"Bearer"))
        message["headers"] = [*message["headers"], *added, (b"x-request-id", self._request_id.encode())]

    def _stop(self) -> None:
        self._told = True
        limits = self._limits
        if self._left < 0:
            raise TooLarge(f"The answer is larger than {limits.response_bytes} bytes.", hint="It was ended here.")
        raise TooLarge(f"The answer takes longer than {limits.response_seconds:g} s.", hint="It was ended here.")

    @contextlib.contextmanager
    def watched(self, scope: Scope) -> Generator[None]:
        """End the connection of a reader who takes nothing for too long. One timer an answer, none a piece."""
        abort = scope.get("extensions", {}).get(ABORT)
        if abort is None:
            yield
            return
        patience = self._limits.reader_seconds
        loop = asyncio.get_running_loop()

        def look() -> None:
            nonlocal timer
            since = self._waiting_since
            if since and time.monotonic() - since >= patience:
                abort()
            else:
                timer = loop.call_later(patience / 4, look)

        timer = loop.call_later(patience / 4, look)
        try:
            yield
        finally:
            timer.cancel()


def _open(path: str) -> bool:
    """Whether a path is answered without a key. A drawn picture's name is a secret itself; pages send none."""
    if path in OPEN or path.startswith(OPEN_BELOW):
        return True
    return path.startswith(PREFIX) and NAME.fullmatch(path, len(PREFIX)) is not None


def _path(scope: Scope) -> str:
    """Return the path as routes see it: without the prefix a proxy has added."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


@lru_cache(maxsize=16)
def _host_name(host: str) -> str:
    """Return a Host header's name without its port."""
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""
