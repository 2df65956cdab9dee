"""The client of the launcher's control API, which the app and the command line use."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict

from vllm_launcher.errors import InvalidModels, LauncherError, LauncherGone, UnknownModel
from vllm_launcher.processes.run_directory import token_of
from vllm_launcher.status import LauncherStatus, ServerStatus

SILENCE = 15.0
"""Seconds without a line after which a watching client takes the launcher for gone."""
LONGEST_LINE = 4 * 1024 * 1024
"""Bytes of one status line: a few thousand models."""
ANSWER = 10.0
"""Seconds for an answer that needs no waiting."""
UNAUTHORIZED = 401


class Refusal(BaseModel):
    """The ``error`` of an answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    message: str
    hint: str | None = None


class ControlClient:
    """Talks to the launcher behind ``socket_path``. Holds no connection: it may be made before the launcher runs.

    The token is read from the file beside the socket. Every method raises LauncherGone when no launcher answers
    there, and LauncherError when it refuses.
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
        return await self._command(model, f"ensure-ready{'?retry=true' if retry else ''}")

    async def unload(self, model: str) -> ServerStatus:
        """Drain and stop ``model``; returns when nothing of it is left."""
        return await self._command(model, "unload", wait=True)

    async def restart(self, model: str) -> ServerStatus:
        """Drain and stop ``model``, and have it ready again; returns once it is on its way."""
        return await self._command(model, "restart", wait=True)

    async def reload(self) -> LauncherStatus:
        """Take over ``models.json`` as it is now; InvalidModels, with every problem of it, if it cannot be."""
        async with self._exchange("POST", "/v1/reload", total=None) as response:
            return LauncherStatus.model_validate_json(await response.read())

    async def stop(self) -> None:
        """Have the launcher end, and everything it started with it. Returns at once."""
        async with self._exchange("POST", "/v1/stop"):
            pass

    async def logs(self, model: str, *, lines: int, follow: bool = False) -> AsyncGenerator[str, None]:
        """The last lines that the model's server printed; with ``follow`` also those that come, until it is over."""
        path = f"/v1/models/{quote(model, safe='')}/logs?lines={lines}&follow={str(follow).lower()}"
        async with self._exchange("GET", path, total=None, silence=None) as response:
            async for line in response.content:
                yield line.decode(errors="replace").rstrip("\n")

    async def watch(self) -> AsyncGenerator[LauncherStatus, None]:
        """The status now and after every change. Never just ends: LauncherGone says that it is over."""
        async with self._exchange("GET", "/v1/events", total=None) as response:
            async for line in response.content:
                yield LauncherStatus.model_validate_json(line)
        raise LauncherGone("The launcher has stopped.")

    async def _command(self, model: str, verb: str, *, wait: bool = False) -> ServerStatus:
        path = f"/v1/models/{quote(model, safe='')}/{verb}"
        async with self._exchange("POST", path, total=None if wait else ANSWER, silence=None) as response:
            return ServerStatus.model_validate_json(await response.read())

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, path: str, *, total: float | None = ANSWER, silence: float | None = -1.0
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        timeout = aiohttp.ClientTimeout(total=total, sock_read=self._silence if silence == -1.0 else silence)
        connector = aiohttp.UnixConnector(str(self._socket_path))
        try:
            async with (
                aiohttp.ClientSession(
                    "http://launcher", connector=connector, timeout=timeout, read_bufsize=LONGEST_LINE
                ) as session,
                await self._request(session, method, path) as response,
            ):
                if response.status >= 400:  # noqa: PLR2004 - errors
                    _raise(await response.read(), path)
                yield response
        except (aiohttp.ClientError, OSError) as error:  # time-outs are OSErrors
            told = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise LauncherGone(
                f"No launcher answers on {self._socket_path}: {told}",
                "Start one with: make serve",
            ) from error

    async def _request(self, session: aiohttp.ClientSession, method: str, path: str) -> aiohttp.ClientResponse:
        """Ask with the launcher's token; once more where that launcher has just been followed by another."""
        token = token_of(self._socket_path.parent)
        while True:
            response = await session.request(method, path, headers={"Authorization": f"Bearer {token}"})
            newer = token_of(self._socket_path.parent)
            if response.status != UNAUTHORIZED or newer == token:
                return response
            response.release()
            token = newer


class _Envelope(BaseModel):
    error: Refusal


def _raise(body: bytes, path: str) -> NoReturn:
    """The error that the launcher named, as the one that it is."""
    try:
        refusal = _Envelope.model_validate_json(body).error
    except ValueError:
        raise LauncherGone(f"Something else than a launcher answers: {body[:100]!r}") from None
    if refusal.type == "unknown_model":
        raise UnknownModel(path.split("/")[3])
    kinds: dict[str, Any] = {"invalid_models": InvalidModels}
    raise kinds.get(refusal.type, LauncherError)(refusal.message, refusal.hint)
