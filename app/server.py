"""The composition root: settings become an app. Everything is made here and handed on; nothing here decides."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx2
from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig

from app import prompts, status
from app.catalogue import Catalogue, ServedModel, serve_model
from app.chains import (
    ChainError,
    EngineAccess,
    Offers,
    Remembering,
    build_chain,
    engine_timeout,
    open_connections,
    open_short_connections,
)
from app.direct import Direct, exact_posts
from app.documents import routes as documents
from app.documents.leader import Elsewhere, answer_others, leader_of, store_for
from app.documents.library import Library
from app.documents.queue import IngestQueue
from app.documents.spool import Spool
from app.engines.connection import Connections
from app.engines.migration import Shadows
from app.engines.table import Launcher, ServerTable
from app.grpc.services import GrpcServices
from app.guard.allow_list import AllowList
from app.guard.guarding import Guarding, create_guarding
from app.images import ImageCheck, ImageFetcher
from app.images.gallery import Gallery
from app.memory import routes as sessions
from app.memory.deferred import DeferredStore
from app.memory.kept import Bounds
from app.memory.turntaking import TurnTaking
from app.openapi import Bodies, describe_bodies
from app.protocols.anthropic import routes as anthropic
from app.protocols.chat_service import ChatService
from app.protocols.kserve import routes as kserve
from app.protocols.langserve import routes as langserve
from app.protocols.ollama import routes as ollama
from app.protocols.openai import routes as openai
from app.protocols.tgi import routes as tgi
from app.rehearsal import Rehearsals, Rehearsed, prompt_of, rehearse_files
from app.responses import install_handlers
from app.settings import Settings, wants_telemetry
from app.shutdown import Shutdown
from app.tools.fetch import Fetcher, fetch_tool
from app.tools.search import search_tool
from app.tools.toolbox import Included, limits_of, tool_calling_of, toolbox_of
from app.web import home, pictures, playground
from app.workers.worker import ALONE, Worker
from vllm_launcher import __version__
from vllm_launcher.control_client import ControlClient
from vllm_launcher.registry import ModelSpec, Registry, RegistryError, load_registry

log = logging.getLogger(__name__)

Works = Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
"""What runs beside the requests, by a name for people."""
Closers = Sequence[Callable[[], Awaitable[None]]]

NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""Of FastAPI's own: where no collector is named, it would look for one again at every request."""
PROTOCOLS = (openai, anthropic, ollama, tgi, kserve)
"""Those that answer for every model; LangServe's routes are made for each."""


def create_app(
    settings: Settings,
    *,
    launcher: Launcher | None = None,
    connections: httpx2.AsyncBaseTransport | None = None,
    short: Connections | None = None,
    worker: Worker = ALONE,
) -> FastAPI:
    """Return the app.

    Args:
        settings: What it was told from outside.
        launcher: Tells which servers are ready; by default the one at ``settings.control``.
        connections: To the engines; by default real ones.
        short: The short way to them; by default a real one, where ``connections`` is not given.
        worker: Which of several processes this is; ``settings`` are its share.

    Raises:
        RegistryError: ``models.json`` is wrong.
        ChainError: A chain cannot be built.
        StoreError: The address of the conversations' store cannot be used.
    """
    registry = load_registry(settings.models)
    shutdown = Shutdown(settings.drain)
    limits = settings.limits
    table = ServerTable(launcher or connect_launcher(settings), (), waiting=(limits.waiting, limits.waiting_in_all))
    guarding = create_guarding(settings, table, worker)
    gallery = Gallery(settings.pictures_dir, settings.pictures_seconds, settings.pictures_bytes)
    images = ImageCheck(limits, ImageFetcher(AllowList(settings.image_hosts)))
    store = open_sessions(settings, worker)
    if connections is None and short is None:
        short = open_short_connections(settings)
    access = EngineAccess(
        table,
        connections or open_connections(settings),
        engine_timeout(settings),
        wait=settings.wait_ready,
        guard=guarding.passages,
        short=short,
        limits=limits,
        images=images,
        keep=gallery.keep,
        shadows=Shadows(limits.shadows, settings.engine_silence, guarding.migration_meter()),
        memory=Remembering(TurnTaking(store, settings.sessions_wait), settings.sessions_ttl),
    )
    leader = leader_of(worker)
    library = Library(settings, access, store_for(settings, leader))
    queue = IngestQueue(Spool(settings.data / "ingest"), library.ingest, settings.documents)
    works: Works = {
        "follow the launcher": table.follow,
        **({"sweep sessions": partial(sessions.sweep, store), "ingest documents": queue.run} if worker.leads else {}),
        **(
            {"rehearse prompts": Rehearsals(access, lambda: served.rehearsed).run}
            if settings.rehearse and worker.leads
            else {}
        ),
    }
    app = FastAPI(
        title="langserve-vllm",
        version=__version__,
        summary="LangChain chains in front of vLLM servers.",
        telemetry=None if wants_telemetry() else NO_TELEMETRY,
        lifespan=lambda app_: run_in_background(
            works,
            guarding,
            open_grpc(settings, services, together=not worker.is_alone),
            answer_others(app_, library.store, settings, worker),
            (store.close, library.store.aclose, access.aclose),
        ),
    )
    app.state.table, app.state.shutdown, app.state.images = table, shutdown, images
    catalogue = Catalogue()
    chats = ChatService(catalogue, table, settings, shutdown, images)
    services = app.state.grpc = GrpcServices(chats, shutdown, guarding.admit_grpc)
    protocols = [protocol.create_router(chats) for protocol in PROTOCOLS]
    for router in protocols:
        app.include_router(router)
    app.include_router(pictures.create_router(gallery))
    app.include_router(sessions.create_router(store))
    app.include_router(documents.create_router(library, queue, settings, shutdown))
    guarding.install(app, table, access.connections)
    if leader is not None:
        app.add_middleware(Elsewhere, leader=leader, shutdown=shutdown)
    served = Served(app, settings, access, shutdown, catalogue=catalogue, library=library, protocols=protocols)
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

    def __init__(  # noqa: PLR0913 -- the composition root names them
        self,
        app: FastAPI,
        settings: Settings,
        access: EngineAccess,
        shutdown: Shutdown,
        *,
        catalogue: Catalogue,
        library: Library,
        protocols: Sequence[APIRouter],
    ) -> None:
        self._app = app
        self._settings = settings
        self._access = access
        self._shutdown = shutdown
        self._catalogue = catalogue
        self._library = library
        self._protocols = protocols
        self._fixed = list(app.router.routes)
        self._plain_openapi = app.openapi
        self._registry: Registry | None = None
        self._built: dict[str, Built] = {}

    @property
    def rehearsed(self) -> list[Rehearsed]:
        """What engines are to render dry: the prompts in front of their own chat templates."""
        served = [each.served for each in self._built.values()]
        prompts_of = [(each.spec, prompt_of(each.chain)) for each in served if each.spec.chain]
        return [
            Rehearsed(spec, prompt, self._settings.models)
            for spec, prompt in prompts_of
            if prompt is not None and spec.chain is not None and not spec.chain.chat_template
        ]

    def build(self, registry: Registry) -> dict[str, "Built"]:
        """Return every model as it will be served; imports packages, so it takes a while.

        Raises:
            ChainError: A chain cannot be built.
        """
        included: Included = {
            "fetch": lambda _spec: fetch_tool(Fetcher(AllowList(self._settings.fetch_hosts))),
            "search_documents": lambda spec: search_tool(self._library.retriever(spec, registry)),
        }
        offers: Offers = {
            "retriever": lambda spec: self._library.retriever(spec, registry),
            "tools": lambda spec: toolbox_of(spec, included),
            "limits": limits_of,
            "tool_calling": tool_calling_of,
        }
        access = replace(self._access, registry=registry, offers=offers)
        return {
            spec.id: self._built[spec.id] if self._is_same(spec, registry) else self._build(spec, access)
            for spec in registry.models
        }

    def _is_same(self, spec: ModelSpec, registry: Registry) -> bool:
        """Whether the entry, the one whose server it uses, and what its documents are embedded with are as before."""
        old, server, library = self._registry, registry.server_of(spec), self._library
        if old is None or old.get(spec.id) != spec or old.get(server.id) != server:
            return False
        searches = spec.chain is not None and spec.chain.retrieval is not None
        return not searches or library.embedding_of(old) == library.embedding_of(registry)

    def _build(self, spec: ModelSpec, access: EngineAccess) -> "Built":
        around = langserve.Surroundings(access.table, self._settings, self._shutdown, access.images)
        chain = build_chain(spec, access) if spec.chain else None
        if (prompt := prompt_of(chain)) is not None and access.registry is not None:
            rehearse_files(Rehearsed(spec, prompt, self._settings.models), access.registry)
        routes = langserve.create_routes(spec, chain, around) if chain is not None else None
        return Built(serve_model(spec, chain, access), routes)

    def show(self, registry: Registry, built: dict[str, "Built"]) -> None:
        """Serve these from now on."""
        app, table = self._app, self._access.table
        guarding: Guarding = app.state.guarding
        guarding.serve(registry)
        self._library.use(registry)
        self._registry, self._built = registry, built
        table.models, table.shared = tuple(spec.id for spec in registry.models), registry.shared
        self._catalogue.replace(each.served for each in built.values())
        app.router.routes.clear()
        routes = {model: each.routes for model, each in built.items() if each.routes}
        app.router.routes.append(Direct(exact_posts([*(each.router for each in routes.values()), *self._protocols])))
        for model, each in routes.items():  # first: routes are looked through in their order, for every request
            if (spec := registry.get(model)) is not None:
                app.include_router(playground.create_router(spec, self._access))
            app.include_router(each.router)
        app.router.routes.extend(self._fixed)
        app.include_router(home.create_router(registry, table))
        app.include_router(status.create_router(registry, table, self._settings, self._shutdown))
        known = replace(self._access, registry=registry)
        app.include_router(prompts.create_router(self._catalogue, known, self._settings))
        bodies: dict[str, Bodies] = {path: body for each in PROTOCOLS for path, body in each.BODIES.items()}
        for each in routes.values():
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


def open_sessions(settings: Settings, worker: Worker = ALONE) -> DeferredStore:
    """Return the store of conversations; it opens nothing before it is needed.

    Where none is named they last as long as the app; several workers keep them in their folder until then.

    Raises:
        StoreError: Its address cannot be used.
    """
    limits = settings.limits
    shared = f"sqlite:///{worker.folder / 'sessions.db'}" if worker.folder else None
    address = settings.sessions_url.get_secret_value() if settings.sessions_url else shared
    return DeferredStore(address, Bounds(limits.session_bytes, limits.sessions))


@contextlib.asynccontextmanager
async def open_grpc(settings: Settings, services: GrpcServices, *, together: bool) -> AsyncGenerator[int | None]:
    """Serve gRPC while the block runs; gives the port, or None where it is off. Several workers listen ``together``.

    Raises:
        OSError: Its certificate cannot be used.
        RuntimeError: Its port is taken.
    """
    if not settings.grpc_port:
        yield None
        return
    from app.grpc.server import serve_grpc  # noqa: PLC0415 -- gRPC and protobuf are 11 MiB, for services that use them

    async with serve_grpc(settings, services, together=together) as port:
        yield port


def connect_launcher(settings: Settings) -> Launcher | None:
    """Return the client of the launcher's control socket; None where none is named."""
    if settings.control is None:
        return None
    return ControlClient(settings.control)


@contextlib.asynccontextmanager
async def run_in_background(
    works: Works,
    guarding: Guarding,
    grpc_server: AbstractAsyncContextManager[Any],
    others: AbstractAsyncContextManager[None],
    closers: Closers,
) -> AsyncGenerator[None]:
    """Run what has to go on while the app does, gRPC among it, and close what is open after it."""
    tasks = [asyncio.create_task(work(), name=name) for name, work in works.items()]
    try:
        async with guarding.running(), grpc_server, others:
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for close in closers:
            await close()


def describe_tags(registry: Registry, chains: Container[str]) -> list[dict[str, Any]]:
    """Return one tag a model for /docs."""
    served = [spec for spec in registry.models if spec.id in chains]
    return [
        {"name": "status", "description": "The service and its models."},
        {"name": "sessions", "description": "Conversations that the service remembers."},
        *({"name": spec.id, "description": langserve.describe_routes(spec)} for spec in served),
    ]
