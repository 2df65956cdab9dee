"""What people and programs ask about the service itself: is it alive, is it ready, which models are there."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.engines.table import ServerTable
from app.errors import describe_progress, scrub
from app.guard.gate import key_of
from app.settings import Settings
from app.shutdown import Shutdown
from app.streams.sse import Event, EventStream, Pump
from vllm_launcher.keys import Key
from vllm_launcher.registry import ModelSpec, Registry
from vllm_launcher.status import ServerStatus

UNREACHABLE = "unreachable"
"""The state of every model while the launcher does not answer."""
PAUSE = 0.25
"""Seconds between two events at least: progress comes faster than anybody reads."""


def create_router(registry: Registry, table: ServerTable, settings: Settings, shutdown: Shutdown) -> APIRouter:
    """Return the status routes."""
    router = APIRouter(tags=["status"])

    @router.get("/health", summary="Is the service alive?")
    async def health() -> Response:
        """200 as long as this process answers, whatever its models do."""
        return JSONResponse({"status": "ok"})

    @router.get("/ready", summary="Are the models ready?", responses={503: {"description": "Some are not."}})
    async def ready(request: Request) -> Response:
        """200 when every model that loads at startup is ready, or has been and made room since; else 503 with the rest.

        A model that this machine cannot serve is not waited for.
        """
        waiting = describe_waiting(registry.models, table)
        if not waiting:
            return JSONResponse({"status": "ready"})
        told = [] if settings.needs_keys and key_of(request) is None else waiting
        return JSONResponse({"status": "not ready", "models": told}, 503, {"Retry-After": "5"})

    @router.get("/models", summary="List the models and their states")
    async def models(request: Request) -> Response:
        """Every model of the registry that the caller may use, in the registry's order."""
        listed = list_models(registry, table, key_of(request))
        return JSONResponse(listed, headers={"Cache-Control": "no-store"})

    @router.get("/models/events", summary="Follow the models' states")
    async def events(request: Request) -> Response:
        """Server-sent events: one `models` event now and after every change, its data as of GET /models."""
        return EventStream(
            Pump(_follow(registry, table, key_of(request))),
            render_error=lambda _error: Event("end"),
            shutdown=shutdown,
            ping=settings.ping,
            endless=True,
        )

    _ = health, ready, models, events  # registered by their decorators
    return router


def describe_waiting(models: Sequence[ModelSpec], table: ServerTable) -> list[dict[str, Any]]:
    """Return those models of the start that somebody still has to wait for."""
    reachable = table.snapshot() is not None
    return [
        _describe(spec, table.server(spec.id), reachable=reachable)
        for spec in models
        if spec.load == "startup" and not is_settled(table.server(spec.id), been_ready=table.has_been_ready(spec.id))
    ]


def list_models(registry: Registry, table: ServerTable, key: Key | None = None) -> list[dict[str, Any]]:
    """Return every model that ``key`` may use as JSON values, without addresses and paths."""
    reachable = table.snapshot() is not None
    specs = (spec for spec in registry.models if key is None or key.allows(spec.id))
    return [_describe(spec, table.server(spec.id), reachable=reachable) for spec in specs]


def is_settled(server: ServerStatus | None, *, been_ready: bool) -> bool:
    """Whether nobody has to wait for a model of startup: ready, not served here, or loaded in its turn on request."""
    if server is None:
        return False
    match server.state:
        case "ready" | "asleep" | "draining" | "stopped":
            return True
        case "failed":
            return server.refused
        case "absent":
            return bool(server.phase)  # there was no room for it at startup
        case "fetching" | "starting" | "warming":
            return been_ready and not server.restarts


def _describe(spec: ModelSpec, server: ServerStatus | None, *, reachable: bool) -> dict[str, Any]:
    state = server.state if server else ("absent" if reachable else UNREACHABLE)
    return {
        "id": spec.id,
        "display_name": spec.display_name,
        "description": spec.metadata.description,
        "task": spec.task,
        "tags": spec.metadata.tags,
        "capabilities": spec.metadata.capabilities,
        "licence": spec.metadata.licence,
        "load": spec.load,
        "state": state,
        "ready": state == "ready",
        "phase": scrub(server.phase) if server else "",
        "progress": describe_progress(server.progress) if server else None,
        "since": server.since if server else None,
        "reason": scrub(server.reason) if server and server.reason else None,
        "hint": scrub(server.hint) if server and server.hint else None,
        "refused": server.refused if server else False,
        "links": _links(spec),
    }


def _links(spec: ModelSpec) -> dict[str, str]:
    """Return where things are, relative to the service's root, so that they hold behind a path prefix."""
    if spec.chain is None:
        return {}
    answers = ("invoke", "batch", "stream", "stream_log", "stream_events")
    routes = (*answers, "input_schema", "output_schema", "config_schema")
    pages = {"playground": f"{spec.id}/playground/", "chat_playground": f"{spec.id}/chat/playground/"}
    return {**{route: f"{spec.id}/{route}" for route in routes}, **pages, "docs": f"docs#/{spec.id}"}


async def _follow(registry: Registry, table: ServerTable, key: Key | None) -> AsyncGenerator[Event, None]:
    """Yield the list now and whenever it changes."""
    last = ""
    async for _ in table.changes():
        now = json.dumps(list_models(registry, table, key))
        if now != last:
            yield Event("models", now)
            last = now
            await asyncio.sleep(PAUSE)
