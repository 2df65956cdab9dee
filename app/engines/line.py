"""A line to one model's engine for requests that go through no chain: embeddings, images, plain completions, raw.

The same connections, time-outs and errors as a chain's: see ``app/engines/endpoint.py``.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx2

from app.chains import EngineAccess
from app.engines.connection import Answer
from app.engines.endpoint import BASE_URL
from app.engines.engine import Engine
from app.engines.upstream import translate, translate_answer
from app.errors import EngineFailed, ServiceError
from app.guard.passage import GuardedEngine
from vllm_launcher.registry import ModelSpec

ERROR_BYTES = 64 * 1024
"""Of an engine's error answer, read at most."""


@dataclass(frozen=True)
class EngineLine:
    """The engine of one model: it waits for a ready server, and names every failure."""

    model: str
    """The name the engine knows the model by."""
    client: httpx2.AsyncClient
    headers: Mapping[str, str]
    short: Engine | GuardedEngine | None = None
    """The short way to it, where there is one: see ``app/engines/connection.py``."""

    @classmethod
    def to(cls, spec: ModelSpec, access: EngineAccess) -> "EngineLine":
        """Return the line to an entry's engine."""
        name, key = access.credentials(spec)
        headers = {"Authorization": f"Bearer {key.get_secret_value()}", "Content-Type": "application/json"}
        return cls(name, access.client(spec.id), headers, access.engine(spec.id))

    async def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON of a whole answer to ``POST /v1{path}``.

        Raises:
            ServiceError: What the engine's refusal or failure means.
        """
        async with self.open(path, body) as response:
            with _named():
                content = await response.aread()
        answer = _json(content)
        if not isinstance(answer, dict):
            raise EngineFailed("The engine answered with something that is no JSON object.")
        return cast("dict[str, Any]", answer)

    @contextlib.asynccontextmanager
    async def open(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[httpx2.Response]:
        """Send ``body``, with the model's name in it, and give the answer once it has begun and is no error.

        Raises:
            ServiceError: What the engine's refusal or failure means.
        """
        content = self._content(body)
        request = self.client.build_request("POST", f"{BASE_URL}{path}", content=content, headers=dict(self.headers))
        with _named():
            response = await self.client.send(request, stream=True)
        try:
            if response.status_code >= 400:  # noqa: PLR2004
                raise translate_answer(response.status_code, _json(await _beginning(response)))
            yield response
        finally:
            await response.aclose()

    def _content(self, body: Mapping[str, Any]) -> bytes:
        return json.dumps({**body, "model": self.model}, ensure_ascii=False).encode()

    async def begin(self, engine: Engine | GuardedEngine, path: str, body: Mapping[str, Any]) -> Answer:
        """As ``open``, by the short way; whoever gets the answer closes it.

        Raises:
            ServiceError: What the engine's refusal or failure means.
        """
        answer = await engine.post(path, self._content(body), self.headers)
        if answer.status_code < 400:  # noqa: PLR2004
            return answer
        async with contextlib.aclosing(answer):
            raise translate_answer(answer.status_code, _json(await _start_of(answer)))

    async def pieces(self, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an open answer as they come, decoded but not changed.

        Raises:
            ServiceError: The engine ended before the answer was whole.
        """
        with _named():
            async for piece in response.aiter_bytes():
                yield piece


async def _beginning(response: httpx2.Response) -> bytes:
    with _named():
        return await _start_of(response.aiter_bytes())


async def _start_of(pieces: AsyncIterator[bytes]) -> bytes:
    said = b""
    async for piece in pieces:
        said += piece
        if len(said) > ERROR_BYTES:
            break
    return said


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@contextlib.contextmanager
def _named() -> Generator[None]:
    try:
        yield
    except ServiceError:
        raise
    except httpx2.HTTPError as error:
        raise translate(error) from error
