"""The composition root: settings become an app. Everything is made here and handed on; nothing here decides."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Container
from dataclasses import dataclass, replace
from typing import Any

import httpx2
from fastapi import FastAPI

from app import status
from app.catalogue import Catalogue, ServedModel, serve_model
from app.chains import ChainError, EngineAccess, build_chain, engine_timeout, open_connections
from app.guarding import Guarding, create_guarding
from app.openapi import Bodies, describe_bodies
from app.protocols import anthropic, langserve, openai
from app.protocols.chat_service import ChatService
from app.responses import install_handlers
from app.settings import Settings
from app.shutdown import Shutdown
from app.table import Launcher, ServerTable
from app.web import home
from vllm_launcher import __version__
from vllm_launcher.control_client import ControlClient
from vllm_launcher.registry import ModelSpec, Registry, RegistryError, load_registry

log = logging.getLogger(__name__)


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
    limits = settings.limits
    table = ServerTable(launcher or connect_launcher(settings), (), waiting=(limits.waiting, limits.waiting_in_all))
    guarding = create_guarding(settings, table)
    access = EngineAccess(
        table,
        connections or open_connections(settings),
        engine_timeout(settings),
        wait=settings.wait_ready,
        guard=guarding.passage,
    )
    app = FastAPI(
        title="langserve-vllm",
        version=__version__,
        summary="LangChain chains in front of vLLM servers.",
        lifespan=lambda _app: run_in_background(table, access.connections, guarding),
    )
    app.state.table, app.state.shutdown = table, shutdown
    guarding.install(app, table, access.connections)
    catalogue = Catalogue()
    chats = ChatService(catalogue, table, settings, shutdown)
    for router in (openai.create_router(chats), anthropic.create_router(chats)):
        app.include_router(router)
    served = Served(app, settings, access, shutdown, catalogue)
    install_handlers(app, lambda: table.models)
    served.show(registry, served.build(registry))
    table.on_generation = served.refresh
    return app


@dataclass(frozen=True)
class Built:
    """One model as it is served; ``routes`` are LangServe's, None where it names no chain."""

    served: ServedModel
    routes: langserve.ModelRoutes | None


class Served:
    """What the app serves now: a list of models as the app's routes, replaced as a whole when the list changes.

    Requests under way keep the routes they came in by; chains of entries that are the same are kept.
    """

    def __init__(
        self, app: FastAPI, settings: Settings, access: EngineAccess, shutdown: Shutdown, catalogue: Catalogue
    ) -> None:
        self._app = app
        self._settings = settings
        self._access = access
        self._shutdown = shutdown
        self._catalogue = catalogue
        self._fixed = list(app.router.routes)
        self._plain_openapi = app.openapi
        self._registry: Registry | None = None
        self._built: dict[str, Built] = {}

    def build(self, registry: Registry) -> dict[str, "Built"]:
        """Return every model as it will be served; imports packages, so it takes a while.

        Raises:
            ChainError: A chain cannot be built.
        """
        access = replace(self._access, registry=registry)
        return {
            spec.id: self._built[spec.id] if self._is_same(spec, registry) else self._build(spec, access)
            for spec in registry.models
        }

    def _is_same(self, spec: ModelSpec, registry: Registry) -> bool:
        """Whether the entry, and the one whose server it uses, say what they said before."""
        old, server = self._registry, registry.server_of(spec)
        return old is not None and old.get(spec.id) == spec and old.get(server.id) == server

    def _build(self, spec: ModelSpec, access: EngineAccess) -> "Built":
        around = langserve.Surroundings(access.table, self._settings, self._shutdown)
        chain = build_chain(spec, access) if spec.chain else None
        routes = langserve.create_routes(spec, chain, around) if chain is not None else None
        return Built(serve_model(spec, chain, access), routes)

    def show(self, registry: Registry, built: dict[str, "Built"]) -> None:
        """Serve these from now on."""
        app, table = self._app, self._access.table
        guarding: Guarding = app.state.guarding
        guarding.serve(registry)
        self._registry, self._built = registry, built
        table.models, table.shared = tuple(spec.id for spec in registry.models), registry.shared
        self._catalogue.replace(each.served for each in built.values())
        app.router.routes[:] = self._fixed
        app.include_router(home.create_router(registry, table))
        app.include_router(status.create_router(registry, table, self._settings, self._shutdown))
        routes = {model: each.routes for model, each in built.items() if each.routes}
        bodies: dict[str, Bodies] = {}
        for each in routes.values():
            app.include_router(each.router)
            bodies.update(each.bodies)
        app.openapi_schema = None
        app.openapi_tags = describe_tags(registry, routes)
        app.openapi = self._plain_openapi
        describe_bodies(app, bodies)

    async def refresh(self) -> None:
        """Read the list of models again; one that cannot be served leaves everything as it is."""
        try:
            registry = await asyncio.to_thread(load_registry, self._settings.models)
            if registry == self._registry:
                return
            built = await asyncio.to_thread(self.build, registry)
        except (RegistryError, ChainError) as error:
            log.error("the changed list of models is not served: %s", error)  # noqa: TRY400 -- the trace tells no more
            return
        self.show(registry, built)
        log.info("another list of models is served: %s", ", ".join(spec.id for spec in registry.models))


def connect_launcher(settings: Settings) -> Launcher | None:
    """Return the client of the launcher's control socket; None where none is named."""
    if settings.control is None:
        return None
    return ControlClient(settings.control)


@contextlib.asynccontextmanager
async def run_in_background(
    table: ServerTable, connections: httpx2.AsyncBaseTransport, guarding: Guarding
) -> AsyncGenerator[None]:
    """Follow the launcher while the app runs, and close the connections to the engines after it."""
    following = asyncio.create_task(table.follow(), name="follow the launcher")
    try:
        async with guarding.running():
            yield
    finally:
        following.cancel()
        await asyncio.wait([following])
        await connections.aclose()


def describe_tags(registry: Registry, chains: Container[str]) -> list[dict[str, Any]]:
    """Return one tag a model for /docs."""
    served = [spec for spec in registry.models if spec.id in chains]
    return [
        {"name": "status", "description": "The service and its models."},
        *({"name": spec.id, "description": langserve.describe_routes(spec)} for spec in served),
    ]
