"""Where Prometheus reads: ``/metrics`` beside the models, or on a port of its own."""

import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx2
from aiohttp import web
from fastapi import APIRouter, Request, Response

from app.engines.table import ServerTable
from app.errors import NotAllowed
from app.guard.gate import key_of
from app.telemetry.engine_metrics import read_engines
from app.telemetry.metrics import CONTENT_TYPE, Metrics

Page = Callable[[], Awaitable[bytes]]


def page_of(metrics: Metrics, table: ServerTable, connections: httpx2.AsyncBaseTransport) -> Page:
    """Return what makes the page: ours, then the engines'."""

    async def page() -> bytes:
        endpoints = [endpoint for model in table.models if (endpoint := table.endpoint(model)) is not None]
        return metrics.text() + await read_engines(endpoints, connections)

    return page


def create_router(page: Page) -> APIRouter:
    """Return the route. Where keys are asked for, only one made for it opens it: it tells of everybody."""
    router = APIRouter(tags=["status"])

    @router.get("/metrics", summary="Measures for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        """The service's own measures and the engines', in Prometheus's text format."""
        key = key_of(request)
        if key is not None and not key.metrics:
            raise NotAllowed("This API key may not read the metrics.", hint="Make one with `keys create --metrics`.")
        return Response(await page(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    _ = metrics  # registered by its decorator
    return router


@contextlib.asynccontextmanager
async def own_port(page: Page, where: socket.socket | tuple[str, int]) -> AsyncGenerator[int]:
    """Answer on a port of its own while the block runs, or on a socket that listens; yields the port."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=await page(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, *where) if isinstance(where, tuple) else web.SockSite(runner, where)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
