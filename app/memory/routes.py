"""Conversations over REST: list, read, export, delete. Everybody sees their own alone."""

import asyncio
import json
import logging
import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from langchain_core.messages import convert_to_openai_messages
from starlette.responses import JSONResponse, Response

from app.errors import MemoryUnavailable, UnknownSession
from app.guard.owner import current_owner
from app.memory.deferred import DeferredStore
from app.memory.kept import SessionInfo, SessionName, Turn

log = logging.getLogger(__name__)

SWEEP = 600.0
"""Seconds between two looks for sessions that have expired."""
PRIVATE = {"Cache-Control": "no-store"}

Limit = Annotated[int, Query(ge=1, le=1000, description="Sessions at most.")]
Before = Annotated[float | None, Query(description="Only sessions last used before this time: the last one's used_at.")]
Model = Annotated[str | None, Query(max_length=64, description="Only this model's.")]


def create_router(store: DeferredStore) -> APIRouter:
    """Return the routes below ``/sessions``."""
    router = APIRouter(prefix="/sessions", tags=["sessions"])

    @router.get("", summary="List the conversations")
    async def list_sessions(model: Model = None, limit: Limit = 100, before: Before = None) -> Response:
        """The caller's, the last used first."""
        found = await store.find(current_owner.get(), model=model, limit=limit, before=before)
        return JSONResponse({"sessions": [describe(info) for info in found]}, headers=PRIVATE)

    @router.delete("", summary="Delete all conversations")
    async def delete_sessions(model: Model = None) -> Response:
        """The caller's, of one model or of all."""
        return JSONResponse({"deleted": await store.delete(current_owner.get(), model=model)})

    @router.get("/{model}/{session_id}", summary="Read a conversation")
    async def read(model: str, session_id: str) -> Response:
        """What was said, as messages in OpenAI's form: any chat chain takes them as its input."""
        info, turns = await store.read(SessionName(current_owner.get(), model, session_id))
        messages = [message for turn in turns for message in turn.messages]
        return JSONResponse({**describe(info), "messages": convert_to_openai_messages(messages)}, headers=PRIVATE)

    @router.get("/{model}/{session_id}/export", summary="Export a conversation")
    async def export(model: str, session_id: str) -> Response:
        """A file with everything that is kept: every turn with its time, messages in LangChain's form."""
        info, turns = await store.read(SessionName(current_owner.get(), model, session_id))
        file = {"Content-Disposition": f'attachment; filename="{model}-{session_id}.json"', **PRIVATE}
        return JSONResponse({**describe(info), "turns": [_exported(turn) for turn in turns]}, headers=file)

    @router.delete("/{model}/{session_id}", summary="Delete a conversation", status_code=204)
    async def delete(model: str, session_id: str) -> Response:
        """An answer that is under way in it ends in an error and is not kept."""
        if not await store.delete(current_owner.get(), model=model, id=session_id):
            raise UnknownSession(f"There is no session '{session_id}' of '{model}'.")
        return Response(status_code=204)

    _ = list_sessions, delete_sessions, read, export, delete  # registered by their decorators
    return router


def describe(info: SessionInfo) -> dict[str, Any]:
    """Return a session as JSON values; times are seconds since 1970."""
    return asdict(info)


def _exported(turn: Turn) -> dict[str, Any]:
    return {"number": turn.number, "created_at": turn.created_at, "messages": json.loads(turn.text)}


async def sweep(store: DeferredStore, every: float = SWEEP) -> None:
    """Delete now and then what has expired, until cancelled."""
    while True:
        await asyncio.sleep(every)
        started = time.monotonic()
        try:
            swept = await store.sweep()
        except MemoryUnavailable:
            continue
        if swept:
            log.info("%d conversations have expired (%.1f s)", swept, time.monotonic() - started)
