"""The guard at the engines' side: every request to an engine, of whatever protocol and chain, passes here.

It waits for its place (``admission.py``), carries the id of the request it serves into the engine's log, and is
measured: the first token, the tokens, the end. What is done for each piece of a stream is to note that it came.
"""

import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from random import getrandbits
from typing import Any, cast

import httpx2
from typing_extensions import override

from app.engines.connection import Answer, Passed
from app.engines.engine import BESIDE, Engine
from app.guard.admission import Admission, Place
from app.guard.call import Call, current_call, note_model
from app.guard.owner import current_owner
from app.telemetry.metrics import Metrics

GENERATING = re.compile(r"/(completions|embeddings|generations|edits|score|rerank|pooling)$")
"""What needs a place: everything else (counting tokens, say) is done in no time."""
USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
FINISH = re.compile(rb'"finish_reason"\s*:\s*"(\w{1,32})"')
MOST_GUESSED = 8192
"""Tokens of a prompt that nobody counted: pictures in it make its bytes meaningless."""


@dataclass(frozen=True)
class Passages:
    """Stands before the ways to the engines; ``metrics`` None: nobody wants to know."""

    admission: Admission
    metrics: Metrics | None = None

    def transport(self, model: str, inner: httpx2.AsyncBaseTransport) -> "GuardedTransport":
        """Return the guarded way of httpx's kind."""
        return GuardedTransport(model, inner, self)

    def engine(self, model: str, inner: Engine) -> "GuardedEngine":
        """Return the guarded short way."""
        return GuardedEngine(model, inner, self)

    async def enter(self, model: str) -> Place:
        """Wait for a place.

        Raises:
            QueueFull: The line is full, or does not move.
        """
        begun = time.perf_counter()
        place = await self.admission.enter(model, current_owner.get())
        waited = time.perf_counter() - begun
        call = current_call.get()
        if call is not None:
            call.queued += waited
        if self.metrics is not None:
            self.metrics.queued(model, waited)
        return place


def engine_id(call: Call) -> str:
    """Return the id of one request to an engine: engines refuse one that is under way, and callers may send any."""
    return f"{call.request_id}-{getrandbits(24):06x}"


class GuardedEngine:
    """The short way to one model's engine, guarded: ``chat_vllm.model.Engine``."""

    def __init__(self, model: str, inner: Engine, passages: Passages) -> None:
        self._model = model
        self._inner = inner
        self._passages = passages

    def __repr__(self) -> str:
        return f"<GuardedEngine {self._inner!r}>"

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send it when it is its turn; an error before the answer begins is a ServiceError."""
        note_model(self._model)
        call = current_call.get()
        reading: Reading | None = None

        def see(answer: Answer) -> None:
            nonlocal reading
            reading = read = Reading(call, self._passages.metrics, asked=len(body))
            answer.passed = read
            answer.lifetime.callback(lambda: read.end(answer.status_code))

        if call is not None:
            headers = {**headers, "X-Request-Id": engine_id(call)}
        if path in BESIDE:
            return await self._inner.post(path, body, headers)
        place = await self._passages.enter(self._model)
        try:
            answer = await self._inner.post(path, body, headers, seen=see)
        except BaseException:
            place.leave()
            raise
        if reading is None:
            place.leave()
        else:
            reading.hold(place)
        return answer


class GuardedTransport(httpx2.AsyncBaseTransport):
    """The way of httpx's kind to one model's engine, guarded."""

    def __init__(self, model: str, inner: httpx2.AsyncBaseTransport, passages: Passages) -> None:
        self._model = model
        self._inner = inner
        self._passages = passages

    def __repr__(self) -> str:
        return f"<GuardedTransport {self._inner!r}>"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request when it is its turn."""
        note_model(self._model)
        call = current_call.get()
        if call is not None:
            request.headers["X-Request-Id"] = engine_id(call)
        if not GENERATING.search(request.url.path):
            return await self._inner.handle_async_request(request)
        place = await self._passages.enter(self._model)
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            place.leave()
            raise
        reading = Reading(call, self._passages.metrics, asked=int(request.headers.get("content-length", 0)))
        reading.hold(place)
        body = cast("httpx2.AsyncByteStream", response.stream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=Measured(body, reading, response.status_code),
            extensions=response.extensions,
        )


class Measured(httpx2.AsyncByteStream):
    """The body of an engine's answer, read along with."""

    def __init__(self, inner: httpx2.AsyncByteStream, reading: "Reading", status: int) -> None:
        self._inner = inner
        self._reading = reading
        self._status = status

    async def __aiter__(self) -> AsyncIterator[bytes]:
        note = self._reading.note
        async for piece in self._inner:
            note(piece)
            yield piece

    async def aclose(self) -> None:
        """Let the next one in, and tell what this one was."""
        self._reading.end(self._status)
        await self._inner.aclose()


class Reading(Passed):
    """What is noted of one answer of an engine, from its first piece to its end.

    Args:
        call: The request it serves, if any.
        metrics: Are told.
        asked: Bytes of the request.
    """

    __slots__ = ("_asked", "_bound", "_call", "_ended", "_first", "_place")

    def __init__(self, call: Call | None, metrics: Metrics | None, *, asked: int) -> None:
        super().__init__()
        self._call = call
        self._asked = asked
        self._bound = metrics.begin(call) if metrics is not None and call is not None else None
        self._first: float | None = None
        self._place: Place | None = None
        self._ended = False

    def hold(self, place: Place) -> None:
        """Give the place up at the end, which may have been."""
        if self._ended:
            place.leave()
        else:
            self._place = place

    @override
    def begin(self) -> None:
        """The first token has come."""
        super().begin()
        self._first = time.perf_counter()
        if self._call is not None and self._call.first is None:
            self._call.first = self._first

    def end(self, status: int) -> None:
        """Nobody reads it any more; a second call changes nothing."""
        if self._ended:
            return
        self._ended = True
        if self._place is not None:
            self._place.leave()
        if self._call is None:
            return
        prompt, answer = self._tokens(self._call) if status == 200 else (0, 0)  # noqa: PLR2004 -- HTTP's own number
        self._call.prompt_tokens += prompt
        self._call.completion_tokens += answer
        if self._bound is None:
            return
        self._bound.end((prompt, answer))
        if self._first is not None:
            waited = self._first - self._call.started if self._first == self._call.first else None
            self._bound.end_stream(waited, time.perf_counter() - self._first, answer)

    def _tokens(self, call: Call) -> tuple[int, int]:
        """Of prompt and answer: as the engine counts them, or as many as events came where it has not said."""
        tail = b"".join(self.tail)
        if finish := FINISH.findall(tail):
            call.finish = finish[-1].decode()
        for found in reversed(USAGE.findall(tail)):
            usage = _read(found)
            if usage is not None:
                return usage
        call.guessed_tokens += min(self._asked // 4, MOST_GUESSED)
        return 0, self.events


def _read(usage: bytes) -> tuple[int, int] | None:
    try:
        told: Any = json.loads(usage)
        return int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0)
    except (ValueError, TypeError, AttributeError):
        return None
