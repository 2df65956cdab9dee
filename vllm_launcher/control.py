"""The launcher's HTTP face on a Unix socket; ``control_client`` is the other end.

::

    GET  /v1/status                          LauncherStatus
    GET  /v1/events                          LauncherStatus, one JSON line now, after every change, and every 5 s
    POST /v1/models/{model}/ensure-ready     202, ServerStatus; ?retry=true revives a failed one
    POST /v1/models/{model}/unload           200, ServerStatus, once nothing of it is left
    POST /v1/models/{model}/restart          202, ServerStatus, once the old server is gone
    GET  /v1/models/{model}/logs             text, the last ?lines=100; ?follow=true goes on until the launcher ends
    POST /v1/reload                          200, LauncherStatus; 422 if models.json is not valid
    POST /v1/stop                            202; the launcher ends

Errors are ``{"error": {"type", "message", "hint"}}``: 401 without the token, 404 for an unknown model. The socket
(mode 0600, in a directory of mode 0700) is the first lock, the token beside it (``control.token``, 0600, new at
every start) the second: a socket that is passed on to a container or proxied gives nothing away by itself.
"""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

from aiohttp import web

from vllm_launcher.errors import InvalidModels, LauncherError, UnknownModel
from vllm_launcher.keeping.collaborators import ROUTER, part_of, parts
from vllm_launcher.log_reader import follow, last_lines
from vllm_launcher.processes.run_directory import new_token
from vllm_launcher.status import LauncherStatus, ServerStatus

T = TypeVar("T")
HEARTBEAT = 5.0
"""Seconds after which an unchanged status is repeated."""
MOST_LINES = 10_000
"""Of a log, in one answer."""
MOST_BYTES = 64 * 1024
"""Of a request: none has a body."""


class Controlled(Protocol):
    """What is controlled: ``Launcher`` is one."""

    def status(self) -> LauncherStatus:
        """Everything, as of now."""
        ...

    def events(self, heartbeat: float | None = None) -> AsyncIterator[LauncherStatus]:
        """Now and after every change."""
        ...

    def ensure_ready(self, model: str, *, retry: bool = False) -> ServerStatus:
        """Have a model ready as soon as it can be, or raise UnknownModel."""
        ...

    async def unload(self, model: str) -> ServerStatus:
        """Have it stopped, or raise UnknownModel."""
        ...

    async def restart(self, model: str) -> ServerStatus:
        """Have it started anew, or raise UnknownModel."""
        ...


@dataclass(frozen=True)
class Around:
    """What the launcher's surroundings offer to be controlled; None where they do not."""

    reload: Callable[[], Awaitable[None]] | None = None
    """Take over the list of models; raise InvalidModels."""
    stop: Callable[[], None] | None = None
    log: Callable[[str], Path] | None = None
    """Where the output of a model's server goes."""


class ControlServer:
    """Serves ``launcher`` on ``socket_path``. An async context manager."""

    def __init__(
        self, launcher: Controlled, socket_path: Path, *, around: Around | None = None, heartbeat: float = HEARTBEAT
    ) -> None:
        self._launcher = launcher
        self._socket_path = socket_path
        self._around = around or Around()
        self._heartbeat = heartbeat
        self._token = ""
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BYTES)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/events", self._events)
        app.router.add_post("/v1/models/{model}/ensure-ready", self._ensure_ready)
        app.router.add_post("/v1/models/{model}/unload", self._unload)
        app.router.add_post("/v1/models/{model}/restart", self._restart)
        app.router.add_get("/v1/models/{model}/logs", self._logs)
        app.router.add_post("/v1/reload", self._reload)
        app.router.add_post("/v1/stop", self._stop)
        # Watchers leave when the launcher's events end; who stays longer than a second is cut off.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0, access_log=None)

    async def __aenter__(self) -> Self:
        self._token = new_token(self._socket_path.parent)
        await self._runner.setup()
        self._socket_path.unlink(missing_ok=True)  # an earlier launcher's; the run directory is ours by its lock
        await web.UnixSite(self._runner, self._socket_path).start()
        self._socket_path.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        self._socket_path.unlink(missing_ok=True)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            return _error(401, "unauthorized", "The token of this launcher is missing or wrong.")
        try:
            return await handler(request)
        except UnknownModel as error:
            return _error(404, "unknown_model", error.reason, error.hint)
        except InvalidModels as error:
            return _error(422, "invalid_models", error.reason, error.hint)
        except LauncherError as error:
            return _error(409, "refused", error.reason, error.hint)

    async def _status(self, _: web.Request) -> web.Response:
        return _json(self._launcher.status())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            async for status in self._launcher.events(self._heartbeat):
                await response.write(status.model_dump_json().encode() + b"\n")
        return response

    async def _ensure_ready(self, request: web.Request) -> web.Response:
        retry = request.query.get("retry") == "true"
        return _json(self._launcher.ensure_ready(request.match_info["model"], retry=retry), status=202)

    async def _unload(self, request: web.Request) -> web.Response:
        return _json(await _to_the_end(self._launcher.unload(request.match_info["model"])))

    async def _restart(self, request: web.Request) -> web.Response:
        return _json(await _to_the_end(self._launcher.restart(request.match_info["model"])), status=202)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        model = self._logging(request.match_info["model"])
        if self._around.log is None:
            raise LauncherError("This launcher keeps no logs.")
        path, asked = self._around.log(model), request.query.get("lines", "100")
        lines = min(int(asked), MOST_LINES) if asked.isascii() and asked.isdigit() else 100
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            text, position = await asyncio.to_thread(last_lines, path, lines)
            await response.write(text)
            if request.query.get("follow") == "true":
                async for piece in follow(path, position, self._ended()):
                    await response.write(piece)
        return response

    def _logging(self, name: str) -> str:
        """The server whose log is asked for; of a model with several, one of them has to be named."""
        model, _ = parts(name)
        server = self._launcher.status().server(model)
        if server is None:
            raise UnknownModel(name)
        several = [*(replica.model for replica in server.replicas), part_of(model, ROUTER)] if server.replicas else []
        if several and name == model:
            raise LauncherError(f"{model} has several servers.", f"Name one: {', '.join(several)}.")
        if name not in (several or [model]):
            raise UnknownModel(name)
        return name

    async def _ended(self) -> None:
        """Return when the launcher's events end."""
        async for _ in self._launcher.events():
            pass

    async def _reload(self, _: web.Request) -> web.Response:
        if self._around.reload is None:
            raise LauncherError("This launcher has no list of models to read again.")
        await _to_the_end(self._around.reload())
        return _json(self._launcher.status())

    async def _stop(self, _: web.Request) -> web.Response:
        if self._around.stop is None:
            raise LauncherError("This launcher does not end by being asked here.", "Send it SIGTERM.")
        self._around.stop()
        return web.json_response({"status": "stopping"}, status=202)


async def _to_the_end(work: Awaitable[T]) -> T:
    """What was begun is finished, also when the client that asked for it goes."""
    return await asyncio.shield(asyncio.ensure_future(work))


def _json(model: LauncherStatus | ServerStatus, *, status: int = 200) -> web.Response:
    return web.Response(body=model.model_dump_json().encode(), content_type="application/json", status=status)


def _error(status: int, kind: str, message: str, hint: str | None = None) -> web.Response:
    return web.json_response({"error": {"type": kind, "message": message, "hint": hint}}, status=status)
