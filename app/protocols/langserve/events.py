"""LangServe's streams: its events with their errors mended, and which of them is the first that matters."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from app.errors import describe, describe_progress, meaning, scrub
from app.guard.bodies import CallerLeft
from app.responses import name_error
from app.streams.sse import Event
from vllm_launcher.status import ServerStatus


async def mend(events: AsyncGenerator[Mapping[str, Any], None]) -> AsyncGenerator[Event, None]:
    """Yield langserve's events; raise the error itself in place of its nameless ``error`` event.

    langserve yields that event for any exception, a cancellation included, and raises the exception when it is asked
    for one more.
    """
    finished = False
    try:
        async for event in events:
            if event["event"] == "error":
                finished = True
                await anext(events)
            yield Event(event["event"], event.get("data"))
        finished = True
    finally:
        if not finished:
            await _abandon(events)


async def _abandon(events: AsyncGenerator[Mapping[str, Any], None]) -> None:
    """End a generator that answers every exception, GeneratorExit too, with one more event."""
    with suppress(CallerLeft, StopAsyncIteration):
        await events.athrow(CallerLeft())
        await anext(events)


def tell_progress(server: ServerStatus | None) -> str:
    """Return how far a model is that a stream waits for, as one line of JSON; without addresses and paths."""
    if server is None:
        return json.dumps({"state": "unreachable"})
    told = {"state": server.state, "phase": scrub(server.phase), "progress": describe_progress(server.progress)}
    return json.dumps({"model": server.model, **told})


def is_output(event: Event) -> bool:
    """Tell whether an event of ``stream`` carries a piece of the output."""
    return event.name == "data"


def logs_output(event: Event) -> bool:
    """Tell whether a patch of the run's log adds output of the chain or of a model."""
    if event.data is None:
        return True
    return any("/streamed_output" in operation["path"] for operation in json.loads(event.data)["ops"])


def tells_output(event: Event) -> bool:
    """Tell whether an event carries output of the chain or of a model, rather than a step's start."""
    if event.data is None:
        return True
    told = json.loads(event.data)
    kind: str = told["event"]
    is_root = not told.get("parent_ids")
    return kind in _MODEL_OUTPUT or (is_root and not kind.endswith("_start"))


_MODEL_OUTPUT = frozenset({"on_chat_model_stream", "on_llm_stream", "on_chat_model_end", "on_llm_end"})


def render_error(error: BaseException) -> Event:
    """Return the ``error`` event as RemoteRunnable reads it (status_code, message), with what else is known."""
    named = name_error(error)
    return Event("error", json.dumps({"status_code": meaning(named).status, **describe(named)}))
