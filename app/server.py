"""The composition root: settings become an app. Everything is made here and handed on; nothing here decides."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2
from fastapi import FastAPI

from app import status
from app.chains import Chain, EngineAccess, build_chains, engine_timeout, open_connections
from app.guard import SecurityHeaders
from app.openapi import Bodies, describe_bodies
from app.protocols import langserve
from app.responses import install_handlers
from app.settings import Settings
from app.shutdown import Shutdown
from app.table import Launcher, ServerTable
from app.web import home
from vllm_launcher import __version__
from vllm_launcher.control import ControlClient
from vllm_launcher.registry import Registry, load_registry


def create_app(
    settings: Settings,
    *,
    launcher: Launcher | None = None,
    connections: httpx2.AsyncBaseTransport | None = None,
) -> FastAPI:
    """Return the app.

    Args:
        settings: What it was told from outside.
        launcher: Tells which servers are ready; by default the one at ``settings.control``.
        connections: To the engines; by default real ones.

    Raises:
        RegistryError: ``models.json`` is wrong.
        ChainError: A chain cannot be built.
    """
    registry = load_registry(settings.models)
    shutdown = Shutdown(settings.drain)
    table = ServerTable(launcher or connect_launcher(settings), tuple(spec.id for spec in registry.models))
    access = EngineAccess(table, connections or open_connections(settings), engine_timeout(settings))
    chains = build_chains(registry, access)

    app = FastAPI(
        title="langserve-vllm",
        version=__version__,
        summary="LangChain chains in front of vLLM servers.",
        openapi_tags=describe_tags(registry, chains),
        lifespan=lambda _app: run_in_background(table, access.connections),
    )
    app.state.table, app.state.shutdown = table, shutdown
    app.add_middleware(SecurityHeaders)
    install_handlers(app, [spec.id for spec in registry.models])
    app.include_router(home.create_router(registry, table))
    app.include_router(status.create_router(registry, table, settings, shutdown))
    around = langserve.Surroundings(table, settings, shutdown)
    bodies: dict[str, Bodies] = {}
    for spec in registry.models:
        if spec.id in chains:
            routes = langserve.create_routes(spec, chains[spec.id], around)
            app.include_router(routes.router)
            bodies.update(routes.bodies)
    describe_bodies(app, bodies)
    return app


def connect_launcher(settings: Settings) -> Launcher | None:
    """Return the client of the launcher's control socket; None where none is named."""
    if settings.control is None:
        return None
    return ControlClient(settings.control)


@contextlib.asynccontextmanager
async def run_in_background(table: ServerTable, connections: httpx2.AsyncBaseTransport) -> AsyncGenerator[None]:
    """Follow the launcher while the app runs, and close the connections to the engines after it."""
    following = asyncio.create_task(table.follow(), name="follow the launcher")
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait([following])
        await connections.aclose()


def describe_tags(registry: Registry, chains: Mapping[str, Chain]) -> list[dict[str, Any]]:
    """Return one tag a model for /docs."""
    served = [spec for spec in registry.models if spec.id in chains]
    return [
        {"name": "status", "description": "The service and its models."},
        *({"name": spec.id, "description": langserve.describe_routes(spec)} for spec in served),
    ]
