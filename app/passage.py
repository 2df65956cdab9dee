"""The guard at the engines' side: every request to an engine, of whatever protocol and chain, passes here.

It waits for its place (``app/admission.py``), carries the id of the request it serves into the engine's log, and is
measured: the first token, the tokens, the end. What is done for each piece of a stream is to note that it came.
"""

import json
import re
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2

from app.admission import Admission, Place
from app.call import Call, current_call, note_model
from app.metrics import Metrics
from app.owner import current_owner

GENERATING = re.compile(r"/(completions|embeddings|generations|edits|score|rerank|pooling)$")
"""What needs a place: everything else (counting tokens, say) is done in no time."""
USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
FINISH = re.compile(rb'"finish_reason"\s*:\s*"(\w{1,32})"')
TAIL = 6
"""Pieces at the end of an answer among which its usage is."""

MOST_GUESSED = 8192
"""Tokens of a prompt that nobody counted: pictures in it make its bytes meaningless."""


class Passage(httpx2.AsyncBaseTransport):
    """The way to one model's engine.

    Args:
        model: The model's id.
        inner: Sends requests.
        admission: Gives places.
        metrics: Are told what was seen; None: nobody wants to know.
    """

    def __init__(
        self, model: str, inner: httpx2.AsyncBaseTransport, admission: Admission, metrics: Metrics | None = None
    ) -> None:
        self._model = model
        self._inner = inner
        self._admission = admission
        self._metrics = metrics

    def __repr__(self) -> str:
        return f"<Passage to {self._inner!r}>"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request when it is its turn."""
        note_model(self._model)
        call = current_call.get()
        if call is not None:
            # Engines refuse an id that is under way already, and callers may send any.
            request.headers["X-Request-Id"] = f"{call.request_id}-{secrets.token_hex(3)}"
        if not GENERATING.search(request.url.path):
            return await self._inner.handle_async_request(request)
        place = await self._enter(call)
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            place.leave()
            raise
        body = cast("httpx2.AsyncByteStream", response.stream)
        metrics = self._metrics if response.status_code == 200 else None  # noqa: PLR2004 -- HTTP's own number
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=Measured(body, place, call, metrics, asked=int(request.headers.get("content-length", 0))),
            extensions=response.extensions,
        )

    async def _enter(self, call: Call | None) -> Place:
        begun = time.perf_counter()
        place = await self._admission.enter(self._model, current_owner.get())
        waited = time.perf_counter() - begun
        if call is not None:
            call.queued += waited
        if self._metrics is not None:
            self._metrics.queued(self._model, waited)
        return place


class Measured(httpx2.AsyncByteStream):
    """An engine's answer on its way: holds its place until its end, and notes what came.

    ``asked``: bytes of the request.
    """

    def __init__(
        self, inner: httpx2.AsyncByteStream, place: Place, call: Call | None, metrics: Metrics | None, *, asked: int
    ) -> None:
        self._inner = inner
        self._place = place
        self._asked = asked
        self._call = call
        self._bound = metrics.begin(call) if metrics is not None and call is not None else None
        self._first: float | None = None
        self._events = 0
        self._tail: deque[bytes] = deque(maxlen=TAIL)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._call is None:
            async for piece in self._inner:
                yield piece
            return
        tail = self._tail
        async for piece in self._inner:
            self._events += piece.count(b"data: {")
            if self._first is None and self._events:
                self._first = time.perf_counter()
                self._call.first = self._call.first or self._first
            tail.append(piece)
            yield piece

    async def aclose(self) -> None:
        """Let the next one in, and tell what this one was."""
        self._place.leave()
        call, self._call = self._call, None
        if call is not None:
            self._tell(call)
        await self._inner.aclose()

    def _tell(self, call: Call) -> None:
        prompt, answer = self._tokens(call)
        call.prompt_tokens += prompt
        call.completion_tokens += answer
        bound, self._bound = self._bound, None
        if bound is None:
            return
        bound.end((prompt, answer))
        if self._first is not None:
            waited = self._first - call.started if self._first == call.first else None
            bound.end_stream(waited, time.perf_counter() - self._first, answer)

    def _tokens(self, call: Call) -> tuple[int, int]:
        """Of prompt and answer: as the engine counts them, or as many as events came where it has not said."""
        tail = b"".join(self._tail)
        if finish := FINISH.findall(tail):
            call.finish = finish[-1].decode()
        for found in reversed(USAGE.findall(tail)):
            usage = _read(found)
            if usage is not None:
                return usage
        call.guessed_tokens += min(self._asked // 4, MOST_GUESSED)
        return 0, self._events


def _read(usage: bytes) -> tuple[int, int] | None:
    try:
        told: Any = json.loads(usage)
        return int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0)
    except (ValueError, TypeError, AttributeError):
        return None
