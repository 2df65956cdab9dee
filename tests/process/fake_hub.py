"""A hub on loopback: as much of the Hugging Face hub's API as its own client needs to fetch a repository.

The answers follow what ``huggingface_hub`` reads of them: ``/api/models/...`` for the listing, ``/resolve/...`` for the
files, and the header ``X-Error-Code`` for what went wrong.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

COMMIT = "c0ffee" * 6 + "c0ff"
REPO = "org/tiny"
GATED, MISSING, OLD = "org/gated", "org/missing", "nowhere"


class FakeHub:
    """One repository, ``REPO``, at one commit.

    ``stall``: the name of a file whose second half never comes; ``cut``: of one whose connection breaks halfway, once.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.stall: str | None = None
        self.cut: str | None = None
        self.stalled = asyncio.Event()
        self.asked: list[tuple[str, str | None]] = []
        """Files that were downloaded, with the range that was asked for."""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str, None]:
        """Listen; the address for HF_ENDPOINT."""
        app = web.Application()
        app.router.add_get("/api/models/{owner}/{name}", self._info)
        app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._info)
        app.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._tree)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{file:.+}", self._file)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _info(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        return web.json_response({"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings})

    async def _tree(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        return web.json_response(
            [{"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in self.files.items()]
        )

    async def _file(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refused(request):
            return refused
        name = request.match_info["file"]
        data = self.files[name]
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if request.method == "GET":
            self.asked.append((name, request.headers.get("Range")))
            await self._send(request, response, name, data[start:])
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, name: str, data: bytes) -> None:
        if name not in {self.stall, self.cut}:
            await response.write(data)
            return
        await response.write(data[: len(data) // 2])
        if name == self.stall:
            self.stalled.set()
            await asyncio.Event().wait()
        self.cut = None
        if request.transport is not None:
            request.transport.close()

    def _refused(self, request: web.Request) -> web.Response | None:
        repo = f"{request.match_info['owner']}/{request.match_info['name']}"
        if repo == GATED:
            return refusal(403, "GatedRepo", "Access to this model is restricted.")
        if repo != REPO:
            return refusal(404, "RepoNotFound", "Repository not found.")
        if request.match_info.get("revision") == OLD:
            return refusal(404, "RevisionNotFound", "Invalid rev id.")
        return None


def refusal(status: int, code: str, message: str) -> web.Response:
    """An error as the hub tells it."""
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    body: dict[str, Any] = {"error": message}
    return web.json_response(body, status=status, headers=headers)


def etag(data: bytes) -> str:
    """Of content, as the hub has it for large files."""
    return hashlib.sha256(data).hexdigest()
