"""An engine made of recorded answers, and what the standard tests of a chat model need."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from chat_vllm import ChatVLLM

RECORDED = Path(__file__).parent / "recorded"
"""Bytes that vLLM 0.32 sent, as curl wrote them down."""


@dataclass
class Engine:
    """Answers every request with the same bytes and remembers what it was asked."""

    body: bytes
    status: int = 200
    requests: list[httpx2.Request] = field(default_factory=list[httpx2.Request])

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request."""
        self.requests.append(request)
        kinds = {b"d": "text/event-stream", b"<": "text/html"}
        kind = kinds.get(self.body[:1], "application/json")
        return httpx2.Response(self.status, headers={"content-type": kind}, stream=Pieces(self.body))

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request of the asyncio client."""
        return self(request)

    @property
    def asked(self) -> dict[str, Any]:
        """The body of the last request."""
        return orjson.loads(self.requests[-1].content)

    def llm(self, **params: Any) -> ChatVLLM:
        """A chat model with this engine behind both of its clients."""
        return ChatVLLM(
            model="smollm2",
            base_url="http://engine.test/v1",
            http_client=httpx2.Client(transport=httpx2.MockTransport(self)),
            http_async_client=httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer)),
            **params,
        )


@dataclass
class Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body in pieces of 7 bytes: no event arrives whole, as on a bad network."""

    body: bytes

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, one after the other."""
        return iter([self.body[start : start + 7] for start in range(0, len(self.body), 7)])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces, one after the other."""
        for piece in iter(self):
            yield piece


@pytest.fixture
def recorded() -> Callable[[str], Engine]:
    """Makes an engine that answers with a recorded file."""
    return lambda name, status=200: Engine((RECORDED / name).read_bytes(), status)


@pytest.fixture
def sending() -> Callable[..., Engine]:
    """Makes an engine that sends these objects as server-sent events, and ``[DONE]`` unless told otherwise."""

    def send(*events: Any, done: bool = True) -> Engine:
        return Engine(b"".join(map(event_bytes, events)) + (b"data: [DONE]\n\n" if done else b""))

    return send


def event_bytes(event: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(event) + b"\n\n"


@pytest.fixture
def benchmark(benchmark: Any) -> Any:
    """What a standard test would time, run once: a timing on a shared machine says nothing."""
    benchmark.disabled = True
    return benchmark


def merged(chunks: Iterable[Any]) -> Any:
    """All chunks of a stream added up."""
    total: Any = None
    for chunk in chunks:
        total = chunk if total is None else total + chunk
    return total


@pytest.fixture
def add_up() -> Callable[[Iterable[Any]], Any]:
    """Adds the chunks of a stream up."""
    return merged
