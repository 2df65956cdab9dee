"""An app with a model of each task, for the tests of the protocols: one that chats, one that embeds, one that draws."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
from fastapi import FastAPI

from app.server import create_app
from tests.unit.scripted import (
    ENGINE,
    MODEL,
    REGISTRY,
    ScriptedEngine,
    ScriptedLauncher,
    Stage,
    Stream,
    answer,
    chunk,
    running,
    server,
    settings,
)

EMBEDS, DRAWS, SEES = "vectors", "brush", "eyes"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
"""A PNG of one red pixel, in base64."""
PICTURE = f"data:image/png;base64,{PIXEL}"
QUESTION = [{"role": "user", "content": "Where is Paris?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def external(model: str, task: str, **fields: Any) -> dict[str, Any]:
    """Return an entry that needs no weights."""
    return {"id": model, "task": task, "engine": {"type": "external", "url": f"{ENGINE}/v1"}, **fields}


OFFERED = [
    *REGISTRY["models"],
    external(EMBEDS, "embedding"),
    external(
        DRAWS,
        "image-generation",
        drawing={"size": "32x32"},
        limits={"max_pixels": 4096},
        chain={"package": "image_generation"},
    ),
    external(SEES, "vision-chat"),
]
READY = tuple(server(model=model, served_name=model, endpoint=ENGINE) for model in (MODEL, EMBEDS, DRAWS, SEES))


class Offering(Stage):
    """A stage whose launcher has all of them ready."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        chosen = settings(folder, {"models": OFFERED}, pictures=folder / "pictures")
        self._app: FastAPI = create_app(chosen, launcher=self, connections=self)

    @asynccontextmanager
    async def client(
        self, engine: httpx2.AsyncBaseTransport, launcher: ScriptedLauncher | None = None
    ) -> AsyncGenerator[httpx.AsyncClient]:
        """Return a client of the running app."""
        async with super().client(engine, launcher or ScriptedLauncher(*READY)) as client:
            yield client

    @asynccontextmanager
    async def app(
        self, engine: httpx2.AsyncBaseTransport, launcher: ScriptedLauncher | None = None
    ) -> AsyncGenerator[FastAPI]:
        """Run the app."""
        self._engine, self._launcher = engine, launcher or ScriptedLauncher(*READY)
        async with running(self._app):
            yield self._app


# --- what an engine says ---------------------------------------------------------------------


def replies(body: Any, status: int = 200) -> ScriptedEngine:
    """Return an engine that answers everything with one JSON."""
    return ScriptedEngine(lambda _body: (status, body))


def streams(*steps: Any) -> ScriptedEngine:
    """Return an engine that answers everything with one stream, each time anew."""
    return ScriptedEngine(lambda _body: Stream(steps))


def usage(given: int, made: int) -> dict[str, Any]:
    """Return the last event of a stream: its tokens."""
    counts = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [], "usage": counts}


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk with these fields of a delta."""
    made = chunk("", finish)
    made["choices"][0]["delta"] = fields
    return made


def piece_of_call(
    index: int, name: str | None = None, arguments: str = "", number: str | None = None
) -> dict[str, Any]:
    """Return a piece of a tool call, as vLLM streams it."""
    function: dict[str, Any] = {"arguments": arguments}
    if name:
        function["name"] = name
    call: dict[str, Any] = {"index": index, "function": function}
    return {**call, "id": number, "type": "function"} if number else call


CALLS = (
    delta(role="assistant", content=""),
    delta(reasoning="Let me look."),
    delta(tool_calls=[piece_of_call(0, "weather", "", "call-1")]),
    delta(tool_calls=[piece_of_call(0, None, '{"city": ')]),
    delta(tool_calls=[piece_of_call(0, None, '"Paris"}')]),
    delta(tool_calls=[piece_of_call(1, "clock", "{}", "call-2")]),
    delta("tool_calls"),
    usage(9, 7),
    "[DONE]",
)
"""A stream of a model that thinks and then calls two tools."""


def calling() -> dict[str, Any]:
    """Return the same as a whole answer."""
    whole = answer("")
    calls = [
        {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
        {"id": "call-2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]
    whole["choices"][0]["message"] |= {"content": None, "reasoning": "Let me look.", "tool_calls": calls}
    whole["choices"][0]["finish_reason"] = "tool_calls"
    return whole


def engine(reply: Callable[[Mapping[str, Any]], Any]) -> ScriptedEngine:
    """Return an engine that answers by what it is asked."""
    return ScriptedEngine(reply)


def frames(text: str) -> list[Any]:
    """Return the JSON of a stream of unnamed events; ``[DONE]`` as it is."""
    told = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in told]
