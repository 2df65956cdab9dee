"""The launcher's HTTP face on a Unix socket, and the client that the app and the command line use.

::

    GET  /v1/status                          LauncherStatus
    GET  /v1/events                          LauncherStatus, one JSON line now, after every change, and every 5 s
    POST /v1/models/{model}/ensure-ready     202, ServerStatus; ?retry=true revives a failed one; 404 unknown model

The socket (mode 0600, in a directory of mode 0700) is the access control: who can open it owns the launcher.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import quote

import aiohttp
from aiohttp import web

from vllm_launcher.errors import LauncherGone, UnknownModel
from vllm_launcher.status import LauncherStatus, ServerStatus

HEARTBEAT = 5.0
"""Seconds after which an unchanged status is repeated."""
SILENCE = 15.0
"""Seconds without a line after which a watching client takes the launcher for gone."""
LONGEST_LINE = 4 * 1024 * 1024
"""Bytes of one status line: a few thousand models."""
ANSWER = 10.0
"""Seconds for an answer that is no stream."""


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


class ControlServer:
    """Serves ``launcher`` on ``socket_path``. An async context manager."""

    def __init__(self, launcher: Controlled, socket_path: Path, *, heartbeat: float = HEARTBEAT) -> None:
        self._launcher = launcher
        self._socket_path = socket_path
        self._heartbeat = heartbeat
        app = web.Application()
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/events", self._events)
        app.router.add_post("/v1/models/{model}/ensure-ready", self._ensure_ready)
        # Watchers leave when the launcher's events end; who stays longer than a second is cut off.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        self._socket_path.unlink(missing_ok=True)  # an earlier launcher's; the run directory is ours by its lock
        await web.UnixSite(self._runner, self._socket_path).start()
        self._socket_path.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        self._socket_path.unlink(missing_ok=True)

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
        try:
            return _json(self._launcher.ensure_ready(request.match_info["model"], retry=retry), status=202)
        except UnknownModel as error:
            body = {"error": {"type": "unknown_model", "message": error.reason}}
            return web.json_response(body, status=404)


class ControlClient:
    """Talks to the launcher behind ``socket_path``. Holds no connection: it may be made before the launcher runs.

    Every method raises LauncherGone when no launcher answers there.
    """

    def __init__(self, socket_path: Path, *, silence: float = SILENCE) -> None:
        self._socket_path = socket_path
        self._silence = silence

    async def status(self) -> LauncherStatus:
        """Everything, as of now."""
        async with self._exchange("GET", "/v1/status") as response:
            return LauncherStatus.model_validate_json(await response.read())

    async def ensure_ready(self, model: str, *, retry: bool = False) -> ServerStatus:
        """Have ``model`` ready as soon as it can be; its status as of now. UnknownModel if there is none."""
        path = f"/v1/models/{quote(model, safe='')}/ensure-ready{'?retry=true' if retry else ''}"
        async with self._exchange("POST", path) as response:
            if response.status == 404:  # noqa: PLR2004 - not found
                raise UnknownModel(model)
            return ServerStatus.model_validate_json(await response.read())

    async def watch(self) -> AsyncGenerator[LauncherStatus, None]:
        """The status now and after every change. Never just ends: LauncherGone says that it is over."""
        async with self._exchange("GET", "/v1/events", total=None) as response:
            async for line in response.content:
                yield LauncherStatus.model_validate_json(line)
        raise LauncherGone("The launcher has stopped.")

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, path: str, *, total: float | None = ANSWER
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        timeout = aiohttp.ClientTimeout(total=total, sock_read=self._silence)
        connector = aiohttp.UnixConnector(str(self._socket_path))
        try:
            async with (
                aiohttp.ClientSession(
                    "http://launcher", connector=connector, timeout=timeout, read_bufsize=LONGEST_LINE
                ) as session,
                session.request(method, path) as response,
            ):
                if response.status >= 500:  # noqa: PLR2004 - server errors
                    response.raise_for_status()
                yield response
        except (aiohttp.ClientError, OSError) as error:  # time-outs are OSErrors
            raise LauncherGone(
                f"No launcher answers on {self._socket_path}: {error or type(error).__name__}",
                "Start one with: make serve",
            ) from error


def _json(model: LauncherStatus | ServerStatus, *, status: int = 200) -> web.Response:
    return web.Response(body=model.model_dump_json().encode(), content_type="application/json", status=status)
