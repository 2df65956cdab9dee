"""What stands around the app in its unit tests: a launcher and an engine that follow a script, and a caller."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx2
from fastapi import FastAPI

from app.server import create_app
from app.settings import Limits, Settings
from tests.unit.memory_network import MemoryNetwork
from vllm_launcher.status import LauncherStatus, ServerStatus, State

MODEL = "tiny"
ENGINE = "http://127.0.0.1:41003"
REGISTRY: dict[str, Any] = {
    "models": [
        {
            "id": MODEL,
            "source": {"type": "path", "path": "checkpoint"},
            "chain": {"package": "smollm2_chat", "system_prompt": "Be brief."},
            "sampling": {"temperature": 0.5},
            "metadata": {"display_name": "Tiny", "description": "A test's model.", "tags": ["test"]},
        }
    ]
}
SOON = 20.0
"""Seconds any single step of a test may take; steps take milliseconds."""


def server(state: State = "ready", **fields: Any) -> ServerStatus:
    """Return a server's status; a ready one has an endpoint."""
    endpoint = ENGINE if state == "ready" else None
    usual: dict[str, Any] = {"model": MODEL, "state": state, "served_name": MODEL, "endpoint": endpoint, "pid": 7}
    return ServerStatus(**{**usual, **fields})


def status(*servers: ServerStatus) -> LauncherStatus:
    """Return what a launcher with these servers says."""
    return LauncherStatus(version="0", pid=1, started_at=0.0, servers=servers)


class ScriptedLauncher:
    """Says what the test tells it to say, and notes what it is asked for."""

    def __init__(self, *servers: ServerStatus) -> None:
        self._said = status(*servers)
        self._changed = asyncio.Event()
        self.asked: list[str] = []
        self.asked_once = asyncio.Event()
        self.watchers = 0
        self.gone = False

    def say(self, *servers: ServerStatus) -> None:
        """Tell every watcher a new status."""
        self._said = status(*servers)
        self._wake()

    def vanish(self) -> None:
        """End every watcher's stream and refuse new ones."""
        self.gone = True
        self._wake()

    def return_with(self, *servers: ServerStatus) -> None:
        """Take watchers again."""
        self.gone = False
        self.say(*servers)

    def _wake(self) -> None:
        self._changed, changed = asyncio.Event(), self._changed
        changed.set()

    async def watch(self) -> AsyncGenerator[LauncherStatus, None]:
        """Yield what is said."""
        self.watchers += 1
        while not self.gone:
            changed = self._changed
            yield self._said
            await changed.wait()
        raise ConnectionError("no launcher")

    async def ensure_ready(self, model: str) -> None:
        """Note the wish."""
        self.asked.append(model)
        self.asked_once.set()


# --- the engine ----------------------------------------------------------------------------


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    """Return one chunk of vLLM's chat stream."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}


def answer(text: str) -> dict[str, Any]:
    """Return vLLM's whole answer."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], "usage": usage}


def refusal(message: str, *, code: int, param: str | None = None) -> dict[str, Any]:
    """Return vLLM's error object."""
    return {"error": {"message": message, "type": "BadRequestError", "param": param, "code": code}}


Step = dict[str, Any] | asyncio.Event | Exception | str
"""Of a stream: a chunk, an event to wait for, an error of the connection, or a raw line."""


class Stream(httpx2.AsyncByteStream):
    """A stream of the engine that follows its steps, and knows whether it was closed early."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.sent = 0
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self._steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
            else:
                self.sent += 1
                yield f"data: {step if isinstance(step, str) else json.dumps(step)}\n\n".encode()

    async def aclose(self) -> None:
        """Note that nobody reads on."""
        self.closed.set()


@dataclass
class ScriptedEngine(httpx2.AsyncBaseTransport):
    """Stands for the connections to the engines.

    ``reply`` gets the request's body and returns the answer: a Stream, an (status, JSON) pair, or an error to raise.
    """

    reply: Callable[[Mapping[str, Any]], Any]
    requests: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    urls: list[str] = field(default_factory=list[str])
    running: int = 0
    most: int = 0
    closed: bool = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer as the script says; it has no metrics."""
        if request.method == "GET":
            return httpx2.Response(404)
        body = json.loads(await request.aread())
        self.requests.append(body)
        self.urls.append(str(request.url))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            reply = self.reply(body)
            if asyncio.iscoroutine(reply):
                reply = await reply
        finally:
            self.running -= 1
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Stream):
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=reply)
        code, content = reply
        return httpx2.Response(code, json=content)

    async def aclose(self) -> None:
        """Note that the app let go."""
        self.closed = True


def says(*pieces: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return a reply that says ``pieces``, streamed or whole as it is asked."""

    def reply(body: Mapping[str, Any]) -> Any:
        if not body.get("stream"):
            return 200, answer("".join(pieces))
        return Stream([*(chunk(piece) for piece in pieces), chunk("", "stop"), "[DONE]"])

    return reply


# --- the app -------------------------------------------------------------------------------


def settings(folder: Path, registry: Mapping[str, Any] = REGISTRY, /, **fields: Any) -> Settings:
    """Return settings with a registry in ``folder``, by default of one model, and short times.

    An app that already reads there sees the old list or the new one whole.
    """
    (folder / "checkpoint").mkdir(exist_ok=True)
    models, written = folder / "models.json", folder / "models.json.new"
    written.write_text(json.dumps(registry, indent=2))
    written.replace(models)
    usual: dict[str, Any] = {
        "models": models,
        "data": folder / "data",
        "wait_ready": 0,
        "stream_hold": 60,  # no test depends on how fast the machine is
        "ping": 600,  # nor has an answer comments because it was slow
        "drain": 0,
        "rehearse": False,
        "hosts": ("test",),
    }
    return Settings(**{**usual, **fields})


def limits(**fields: int) -> Limits:
    """Return limits, some of them small."""
    return Limits(**fields)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncGenerator[FastAPI]:
    """Run the app's lifespan, and wait until it has heard the launcher once."""
    async with app.router.lifespan_context(app):
        await until(app, reachable=True)
        yield app


async def until(app: FastAPI, *, reachable: bool) -> None:
    """Wait until the app hears the launcher, or no longer does."""
    async with asyncio.timeout(SOON):
        async for snapshot in app.state.table.changes():
            if (snapshot is not None) is reachable:
                return


def caller(app: FastAPI) -> httpx.AsyncClient:
    """Return a client of the app. It gets answers whole, never in pieces."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@asynccontextmanager
async def served(folder: Path, engine: httpx2.AsyncBaseTransport, **fields: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Return a client of an app of its own with a ready model; for settings that are not the usual ones."""
    app = create_app(settings(folder, **fields), launcher=ScriptedLauncher(server()), connections=engine)
    async with running(app), caller(app) as client:
        yield client


class Stage(httpx2.AsyncBaseTransport):
    """One app for many tests, each with a launcher and an engine of its own: building an app takes a while.

    Args:
        folder: For its registry.
        registry: Another list of models than the usual one.
        fields: Settings.
        way: To the engine: ``sdk`` is the openai SDK's, ``short`` the app's own; ``fast`` is the fast path on it.
    """

    def __init__(
        self, folder: Path, registry: Mapping[str, Any] = REGISTRY, *, way: str = "sdk", **fields: Any
    ) -> None:
        self._engine: httpx2.AsyncBaseTransport = ScriptedEngine(says())
        self._launcher = ScriptedLauncher()
        self.network = MemoryNetwork(self)
        short = None if way == "sdk" else self.network.connections()
        usual = {"fast_path": way == "fast", "sessions_url": f"sqlite:///{folder}/sessions.db"}
        told = settings(folder, registry, **{**usual, **fields})
        self._app = create_app(told, launcher=self, connections=self, short=short)

    @asynccontextmanager
    async def app(
        self, engine: httpx2.AsyncBaseTransport, launcher: ScriptedLauncher | None = None
    ) -> AsyncGenerator[FastAPI]:
        """Run the app with this engine and this launcher, by default one with a ready model."""
        self._engine, self._launcher = engine, launcher or ScriptedLauncher(server())
        async with running(self._app):
            yield self._app

    @asynccontextmanager
    async def client(
        self, engine: httpx2.AsyncBaseTransport, launcher: ScriptedLauncher | None = None
    ) -> AsyncGenerator[httpx.AsyncClient]:
        """Return a client of the running app."""
        async with self.app(engine, launcher) as app, caller(app) as client:
            yield client

    async def watch(self) -> AsyncGenerator[LauncherStatus, None]:
        """Yield what this test's launcher says."""
        async for said in self._launcher.watch():
            yield said

    async def ensure_ready(self, model: str) -> None:
        """Pass the wish on."""
        await self._launcher.ensure_ready(model)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass the request on."""
        return await self._engine.handle_async_request(request)

    async def aclose(self) -> None:
        """Tell this test's engine."""
        await self._engine.aclose()


# --- a caller that reads in pieces, waits and leaves -----------------------------------------


class Exchange:
    """One request to the app, as a server drives it: pieces are read one by one, and the caller may leave.

    A POST where there is a body, else a GET. ``room``: pieces that wait for the caller to read them; 0: any number.
    """

    def __init__(
        self, app: FastAPI, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, room: int = 0
    ) -> None:
        self._left = asyncio.Event()
        self._sent_body = False
        self._body = json.dumps(body).encode() if body is not None else b""
        self._out: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(room)
        names = {"content-type": "application/json", "host": "test", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST" if self._body else "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in names.items()],
            "client": ("test", 1),
            "server": ("test", 80),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._out.put))

    async def _receive(self) -> dict[str, Any]:
        if not self._sent_body:
            self._sent_body = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def start(self) -> int:
        """Wait for the answer's status."""
        async with asyncio.timeout(SOON):
            return int((await self._out.get())["status"])

    async def piece(self) -> str:
        """Wait for the next piece of the answer's body; empty at the end."""
        async with asyncio.timeout(SOON):
            message = await self._out.get()
        return message["body"].decode()

    async def until(self, text: str) -> str:
        """Read until ``text`` came; return everything read."""
        read = ""
        while text not in read:
            piece = await self.piece()
            assert piece, f"the answer ended without {text!r}: {read}"
            read += piece
        return read

    async def end(self) -> None:
        """Wait until the app is done with this request."""
        async with asyncio.timeout(SOON):
            await self.task


def events(text: str) -> list[tuple[str, Any]]:
    """Return the events of an SSE text: name and JSON data."""
    frames = [frame for frame in text.split("\r\n\r\n") if frame and not frame.startswith(":")]
    return [_event(frame) for frame in frames]


def _event(frame: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in frame.split("\r\n"))
    return fields["event"], json.loads(fields["data"]) if "data" in fields else None
