"""Puts the guard together from the settings: keys, limits, metrics, audit log, lines. Nothing here decides."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.engines.table import ServerTable
from app.guard.admission import Admission
from app.guard.asgi import Guard, Rules
from app.guard.audit import AuditLog
from app.guard.gate import Gate
from app.guard.key_limits import FILE_NAME, KeyLimits
from app.guard.passage import Passages
from app.guard.wires import Wires
from app.settings import Settings, wants_telemetry
from app.telemetry import page as metrics_page
from app.telemetry.metrics import Metrics
from app.telemetry.migration_metrics import MigrationMetrics
from app.web import login
from app.web.assets import links, templates
from app.workers.worker import ALONE, Worker
from vllm_launcher.keys import KeyStore
from vllm_launcher.registry import ModelSpec, Registry

if TYPE_CHECKING:
    from app.telemetry.exporters import Telemetry

GRPC_WORK = ("Chat", "StreamChat", "ModelInfer", "ModelStreamInfer")
"""Methods of gRPC that use up a key's limits."""


@dataclass
class Guarding:
    """Everything of the guard that one app has. gRPC uses the gate itself."""

    settings: Settings
    gate: Gate
    wires: Wires
    admission: Admission
    metrics: Metrics | None
    limits: KeyLimits | None
    audit: AuditLog | None
    places: dict[str, int]
    """Requests that each model's engine is sent at once."""
    telemetry: "Telemetry | None" = None
    page: metrics_page.Page | None = None
    worker: Worker = ALONE

    def serve(self, registry: Registry) -> None:
        """Guard these models from now on."""
        self.places.clear()
        share = self.worker.share
        self.places.update({spec.id: share(count_places(spec, self.settings)) for spec in registry.models})

    @property
    def passages(self) -> Passages:
        """What stands before the ways to the engines."""
        return Passages(self.admission, self.metrics)

    def install(self, app: FastAPI, table: ServerTable, connections: httpx2.AsyncBaseTransport) -> None:
        """Stand before ``app``, and add the guard's own routes."""
        settings = self.settings
        table.permit = self.gate.permit
        if self.metrics is not None:
            self.metrics.watch(table, self.admission)
            self.page = metrics_page.page_of(self.metrics, table, connections)
            if settings.metrics_port is None:
                app.include_router(metrics_page.create_router(self.page))
        page = templates().get_template("login.html", globals={"assets": links()})
        app.include_router(login.create_router(self.gate, settings, page))
        app.add_middleware(
            Guard,
            gate=self.gate,
            wires=self.wires,
            rules=Rules(settings.limits, settings.own_hosts, frozenset(settings.cors_origins)),
            models=lambda: iter(table.models),
        )
        if settings.cors_origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after"],
            )
        app.state.guarding = self

    @contextlib.asynccontextmanager
    async def admit_grpc(self, method: str, metadata: Mapping[str, str]) -> AsyncGenerator[str | None]:
        """Let a gRPC call in by the same gate as a request; gives its key's id. ``app/grpc/calls.py`` asks.

        Raises:
            ServiceError: It has no key that is needed, or is one too many for it.
        """
        call = await self.gate.enter_grpc(method, metadata)
        async with self.gate.pass_through(call, counts=method.rpartition("/")[2] in GRPC_WORK):
            yield call.key.id if call.key else None

    def migration_meter(self) -> MigrationMetrics | None:
        """Return what measures two backends of one model; None where nothing is measured."""
        return MigrationMetrics(self.metrics.registry) if self.metrics is not None else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """What goes on beside requests."""
        settings = self.settings
        async with contextlib.AsyncExitStack() as stack:
            if self.metrics is not None and not self.worker.is_alone:
                telling = asyncio.create_task(self.metrics.tell_lines(), name="tell the lines' lengths")
                stack.callback(telling.cancel)
            if self.limits is not None:
                await stack.enter_async_context(self.limits.running())
            if self.page is not None and settings.metrics_port is not None:
                where = self.worker.metrics or (settings.metrics_host, settings.metrics_port)
                own = metrics_page.own_port(self.page, where)
                await stack.enter_async_context(own)
            if self.telemetry is not None:
                stack.push_async_callback(asyncio.to_thread, self.telemetry.close)
            if self.audit is not None:
                stack.callback(self.audit.close)
            if self.gate.keys is not None:
                stack.callback(self.gate.keys.close)
            yield


class NoKeysError(Exception):
    """Keys are needed, and nobody says where they are."""


def create_guarding(settings: Settings, table: ServerTable, worker: Worker = ALONE) -> Guarding:
    """Return the guard of one app.

    Raises:
        NoKeysError: Keys are needed, and the settings name no file of them.
    """
    keys, limits = open_keys(settings)
    metrics = Metrics(lambda: table.models, worker) if settings.metrics else None
    audit = AuditLog(settings.audit_log) if settings.audit_log is not None else None
    telemetry = open_telemetry(worker) if wants_telemetry() else None
    places: dict[str, int] = {}
    line = settings.limits
    return Guarding(
        settings=settings,
        gate=Gate(
            keys=keys,
            limits=limits,
            metrics=metrics,
            audit=audit,
            spans=telemetry.spans if telemetry is not None else None,
        ),
        telemetry=telemetry,
        wires=Wires(lambda: table.models),
        admission=Admission(
            lambda model: places.get(model, worker.share(settings.engine_sequences)),
            longest=line.queue,
            patience=line.queue_seconds,
            engine_of=lambda model: table.shared.get(model, model),
        ),
        metrics=metrics,
        limits=limits,
        audit=audit,
        places=places,
        worker=worker,
    )


def open_telemetry(worker: Worker) -> "Telemetry":
    """Return the exporters; importing them takes a while, so nobody does without need."""
    from app.telemetry.exporters import Telemetry  # noqa: PLC0415 -- see above

    return Telemetry(None if worker.is_alone else f"worker-{worker.number}")


def open_keys(settings: Settings) -> tuple[KeyStore | None, KeyLimits | None]:
    """Return the keys and their limits; nothing where none are asked for.

    Raises:
        NoKeysError: They are needed, and the settings name no file of them.
    """
    if not settings.needs_keys:
        return None, None
    if settings.keys is None:
        raise NoKeysError("API keys are needed, and LANGSERVE_VLLM_KEYS names no file of them.")
    return KeyStore(settings.keys), KeyLimits(settings.keys.with_name(FILE_NAME))


def count_places(spec: ModelSpec, settings: Settings) -> int:
    """Return how many requests a model's engine is sent at once."""
    computed = spec.limits.max_num_seqs or settings.engine_sequences
    return math.ceil(computed * spec.replicas * settings.engine_oversubscription)
