"""Two backends for one model while it moves from one to the other: shares of requests, and shadow copies.

Stands on the way to a model's engine, behind chains and protocols, so it holds for all of them. A model without a
``migration`` in its entry has none of this on its way. docs/migration.md tells how it is used.

A session keeps its backend: the hash of its id decides, and as the share grows, sessions only ever move one way. The
answer to a request comes from one backend, its errors too. A copy goes to the other one and is read to its end,
measured, and thrown away; copies are bounded in number, and one too many is dropped.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import httpx2
from chat_vllm.model import VLLM_FIELDS

from app.engines.upstream import translate_transport
from app.errors import ServiceError
from app.memory.session import find_session
from vllm_launcher.registry.entries import Migration

log = logging.getLogger(__name__)

Backend = Literal["ours", "other"]
Role = Literal["answer", "shadow"]
Outcome = Literal["complete", "error", "left", "dropped"]

MOVES = re.compile(r"/(completions|embeddings|generations|edits)$")
"""Requests that have another backend: those that a model computes."""
STREAM_ERROR = b'data: {"error"'
"""How an error in the middle of a stream begins, in vLLM's form."""


class Meter(Protocol):
    """Is told what each backend did: ``app/telemetry/migration_metrics.py``."""

    def ended(  # noqa: PLR0913 -- all but the first two by name
        self, model: str, backend: Backend, *, role: Role, outcome: Outcome, first: float | None, seconds: float
    ) -> None:
        """A request or a copy is over; ``first``: seconds to the first piece of its answer."""
        ...


class Silent:
    """Where nobody wants to know."""

    def ended(self, *told: Any, **more: Any) -> None:
        """Nothing happens."""


@dataclass(frozen=True)
class OtherBackend:
    """An OpenAI-compatible server beside ours.

    Args:
        migration: Where it is.
        key: It is asked for.
        connections: Shared; closed by whoever made them.
    """

    migration: Migration
    key: str | None
    connections: httpx2.AsyncBaseTransport

    async def send(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        """Send it a request that was made for ours.

        Raises:
            ServiceError: It could not be reached.
        """
        try:
            return await self.connections.handle_async_request(self.rewrite(request, body))
        except httpx2.HTTPError as error:
            raise translate_transport(error, answering=False) from error

    def rewrite(self, request: httpx2.Request, body: bytes) -> httpx2.Request:
        """Return the same request for it: address, key and the name of the model are its own."""
        path = request.url.raw_path.decode("ascii").removeprefix("/v1")
        url = httpx2.URL(self.migration.url.rstrip("/") + path)
        headers = httpx2.Headers(request.headers)
        headers["host"] = url.netloc.decode("ascii")
        headers.pop("authorization", None)
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        content = self._translate(body)
        headers["content-length"] = str(len(content))
        return httpx2.Request(request.method, url, headers=headers, content=content, extensions=request.extensions)

    def _translate(self, body: bytes) -> bytes:
        told = cast("dict[str, Any]", json.loads(body))
        if self.migration.model is not None:
            told["model"] = self.migration.model
        if not self.migration.vllm_fields:
            told = {name: value for name, value in told.items() if name not in VLLM_FIELDS}
        return json.dumps(told, ensure_ascii=False).encode()


class Shadows:
    """The copies under way, of all models.

    Args:
        most: So many at once; another one is dropped.
        within: Seconds that one may take.
        meter: Is told of each.
    """

    def __init__(self, most: int, within: float, meter: Meter | None = None) -> None:
        self._most = most
        self._within = within
        self.meter: Meter = meter or Silent()
        self._running: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Shadows {len(self._running)} of {self._most}>"

    def start(self, model: str, backend: Backend, send: Callable[[], Any]) -> None:
        """Send a copy, in a task that nobody waits for."""
        if len(self._running) >= self._most:
            self.meter.ended(model, backend, role="shadow", outcome="dropped", first=None, seconds=0.0)
            return
        # A context of its own: what is noted of the request is none of the copy's business.
        task = asyncio.create_task(self._run(model, send), name=f"shadow of {model}", context=Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, model: str, send: Callable[[], Any]) -> None:
        try:
            async with asyncio.timeout(self._within):
                response: httpx2.Response = await send()
                async with contextlib.aclosing(response):
                    async for _ in cast("httpx2.AsyncByteStream", response.stream):
                        pass
        except (ServiceError, httpx2.HTTPError, TimeoutError) as error:
            log.info("a copy for %s failed: %s", model, type(error).__name__)
        except Exception:
            log.exception("a copy for %s failed", model)

    async def settle(self) -> None:
        """Wait for the copies that are under way."""
        if self._running:
            await asyncio.wait(self._running)

    async def aclose(self) -> None:
        """End all copies."""
        for task in self._running:
            task.cancel()
        await self.settle()


class MigratingTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of one model to one of two backends, and copies to the other.

    Args:
        model: The model's id.
        ours: The way to our engine.
        other: The other backend.
        shadows: Run copies.
        chance: Of requests without a session, and of copies: from 0 to 1.
    """

    def __init__(
        self,
        model: str,
        ours: httpx2.AsyncBaseTransport,
        other: OtherBackend,
        shadows: Shadows,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._model = model
        self._ours = ours
        self._other = other
        self._shadows = shadows
        self._chance = chance

    def __repr__(self) -> str:
        told = self._other.migration
        return f"<MigratingTransport {self._model}: {told.share:.0%} to {told.url}, {told.shadow:.0%} copied>"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request to the backend that answers it."""
        if not MOVES.search(request.url.path):
            return await self._ours.handle_async_request(request)
        body = await request.aread()
        told = self._other.migration
        backend: Backend = "other" if self._place(find_session()) < told.share else "ours"
        if self._chance() < told.shadow:
            aside: Backend = "ours" if backend == "other" else "other"
            self._shadows.start(self._model, aside, lambda: self._send(aside, "shadow", request, body))
        return await self._send(backend, "answer", request, body)

    def _place(self, session: str | None) -> float:
        """Return where a request stands between 0 and 1; always the same place for one session."""
        if session is None:
            return self._chance()
        digest = hashlib.blake2b(session.encode(errors="replace"), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    async def _send(self, backend: Backend, role: Role, request: httpx2.Request, body: bytes) -> httpx2.Response:
        measure = Measure(self._shadows.meter, self._model, backend, role)
        try:
            if backend == "other":
                response = await self._other.send(request, body)
            else:
                response = await self._ours.handle_async_request(_again(request, body))
        except BaseException as error:
            measure.end("error" if isinstance(error, Exception) else "left")
            raise
        measure.failed = response.status_code >= 400  # noqa: PLR2004 -- HTTP's own number
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Answer(cast("httpx2.AsyncByteStream", response.stream), measure),
            extensions=response.extensions,
        )


class Measure:
    """What one backend did with one request."""

    def __init__(self, meter: Meter, model: str, backend: Backend, role: Role) -> None:
        self._meter = meter
        self._told = (model, backend)
        self._role: Role = role
        self._started = time.perf_counter()
        self._first: float | None = None
        self._over = False
        self.failed = False

    def piece(self, content: bytes) -> None:
        """Note a piece of the answer."""
        if self._first is None:
            self._first = time.perf_counter() - self._started
        if content.startswith(STREAM_ERROR):
            self.failed = True

    def end(self, outcome: Outcome) -> None:
        """Tell the meter; a second call changes nothing."""
        if self._over:
            return
        self._over = True
        seconds = time.perf_counter() - self._started
        said: Outcome = "error" if self.failed else outcome
        self._meter.ended(*self._told, role=self._role, outcome=said, first=self._first, seconds=seconds)


class _Answer(httpx2.AsyncByteStream):
    """An answer that is measured; its connection's errors are those of a service."""

    def __init__(self, inner: httpx2.AsyncByteStream, measure: Measure) -> None:
        self._inner = inner
        self._measure = measure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._inner:
                self._measure.piece(piece)
                yield piece
        except httpx2.HTTPError as error:
            self._measure.end("error")
            raise translate_transport(error, answering=True) from error
        except ServiceError:
            self._measure.end("error")
            raise
        self._measure.end("complete")

    async def aclose(self) -> None:
        """Let go of the connection; what was not read to its end was left."""
        self._measure.end("left")
        with contextlib.suppress(httpx2.HTTPError):
            await self._inner.aclose()


def _again(request: httpx2.Request, body: bytes) -> httpx2.Request:
    """Return a request whose body has been read, to be sent more than once."""
    return httpx2.Request(
        request.method, request.url, headers=request.headers, content=body, extensions=request.extensions
    )
