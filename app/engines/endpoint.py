"""The way of a request to its engine: the server is looked up when the request is made, not when the chain is.

So a chain knows only its model's name. A server that restarts on another port, or is not ready, is the table's
matter, and a connection that fails says what failed.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar, cast

import httpx2
from langchain_core.runnables.config import ensure_config

from app.engines.table import Endpoint, ServerTable
from app.engines.upstream import translate_transport
from app.errors import EngineDied, EngineUnreachable

BASE_URL = "http://engine.invalid/v1"
"""What chat models are given as address; the transport replaces everything before ``/v1``."""

SESSION_HEADER = "x-session-id"
"""By which the router in front of a model's replicas keeps a session at one of them (``balance: session``)."""

TRIES = 3
"""Servers that one request is sent to at most."""
LEAVING = frozenset({500, 503})
"""What vLLM answers to a new request once it was told to end."""
NEWS = 1.0
"""Seconds until the table knows of a server's end at the latest, where it was asked to end."""


class Closable(Protocol):
    """An answer whose head is there."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    async def aclose(self) -> None:
        """Read no more of it."""
        ...


Begun = TypeVar("Begun", bound=Closable)


async def reach(model: str, table: ServerTable, send: Callable[[Endpoint], Awaitable[Begun]], *, wait: float) -> Begun:
    """Send a request of one model to whatever server is ready for it, and return its answer.

    A request that meets a server on its way out (it makes room for another model, say) is sent again to the next one,
    as long as nothing of an answer has come: a swap loses nothing. One that a server took before it died is not: it
    may be what killed it.
    """
    for _ in range(TRIES - 1):
        endpoint = await table.ensure_ready(model, wait=wait)
        try:
            answer = await send(endpoint)
            has_left = table.endpoint(model) is not endpoint  # the table sends nobody to it any more
            if not (answer.status_code in LEAVING and has_left):
                return answer
            await answer.aclose()
        except EngineUnreachable as error:
            if not error.refused:
                raise
        await table.changed(within=NEWS)  # refused, or nearly: the table is about to say so
    return await send(await table.ensure_ready(model, wait=wait))


class EndpointTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of one model to whatever server is ready for it; see ``reach``.

    Args:
        model: The model's id.
        table: Knows the ready server.
        inner: The connections, shared by all models; closed by whoever made it.
        wait: Seconds to wait for the next server where one was on its way out.
    """

    def __init__(
        self, model: str, table: ServerTable, inner: httpx2.AsyncBaseTransport, *, wait: float = 300.0
    ) -> None:
        self._model = model
        self._table = table
        self._inner = inner
        self._wait = wait

    def __repr__(self) -> str:
        return f"<EndpointTransport {self._model} → {self._table.endpoint(self._model)}>"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request; an error before the answer begins is a ServiceError."""

        async def send(endpoint: Endpoint) -> httpx2.Response:
            return await self._send(request, endpoint)

        return await reach(self._model, self._table, send, wait=self._wait)

    async def _send(self, request: httpx2.Request, endpoint: Endpoint) -> httpx2.Response:
        async with _while_up(endpoint, answering=False):
            response = await self._inner.handle_async_request(_redirect(request, endpoint))
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Answer(cast("httpx2.AsyncByteStream", response.stream), endpoint),
            extensions=response.extensions,
        )


class _Answer(httpx2.AsyncByteStream):
    """The body of an answer, whose end is either its end or a named error."""

    def __init__(self, inner: httpx2.AsyncByteStream, endpoint: Endpoint) -> None:
        self._inner = inner
        self._endpoint = endpoint

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._inner)
        while True:
            async with _while_up(self._endpoint, answering=True):
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


@contextlib.asynccontextmanager
async def _while_up(endpoint: Endpoint, *, answering: bool) -> AsyncGenerator[None]:
    """Name what fails in the block, and end the block when the table says that the server has gone.

    A killed engine closes its connections. One that was told to end may keep them open for ever, without a word.
    """
    if endpoint.ended:
        raise gone()
    try:
        async with asyncio.timeout(None) as scope:
            with endpoint.on_end(lambda: scope.reschedule(0)):
                yield
    except TimeoutError as error:
        raise gone() from error
    except httpx2.HTTPError as error:
        raise translate_transport(error, answering=answering) from error


def gone() -> EngineDied:
    """Return what a request is told whose server the table says has gone."""
    return EngineDied("The engine ended before the answer was whole.", hint="What arrived is not the whole answer.")


def _redirect(request: httpx2.Request, endpoint: Endpoint) -> httpx2.Request:
    """Return the same request for the server at ``endpoint``."""
    url = httpx2.URL(endpoint.url.rstrip("/") + request.url.raw_path.decode("ascii"))
    headers = httpx2.Headers(request.headers)
    headers["host"] = url.netloc.decode("ascii")
    if session := _session():
        headers[SESSION_HEADER] = session
    return httpx2.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


def _session() -> str | None:
    """Return what stands for the session of the chain that is running; never its name."""
    session = (ensure_config().get("configurable") or {}).get("session_id")
    return hashlib.blake2b(str(session).encode(), digest_size=16).hexdigest() if session else None
