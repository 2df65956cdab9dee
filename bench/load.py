"""The load: many streams at once, every byte of every answer checked, every moment noted.

What arrives is only stored while the clock runs; it is parsed and compared afterwards.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools

from bench.engine import text_of, wish
from bench.protocols import PROTOCOLS, Speaks, content


@dataclass(frozen=True)
class Target:
    """Where a server is reached and what it speaks there."""

    port: int
    speaks: Speaks
    model: str = "smollm2"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def request(self, seed: int, tokens: int, pace: int, *, stream: bool) -> bytes:
        """Return the bytes of one request."""
        protocol = PROTOCOLS[self.speaks]
        path, body = protocol.path, dict(protocol.body(self.model, wish(seed, tokens, pace), tokens))
        if not stream:
            path = path.replace("/stream", "/invoke")
            body.pop("stream", None)
        return self.post(path.format(model=self.model), body)

    def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Return the bytes of a POST."""
        text = json.dumps(body).encode()
        head = {"host": f"127.0.0.1:{self.port}", "content-type": "application/json", **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"POST {path} HTTP/1.1\r\n{lines}content-length: {len(text)}\r\n\r\n".encode() + text


class Connection(asyncio.Protocol):
    """One connection; asks one request after the other and stores what comes with its time."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        self.transport = transport

    async def ask(self, request: bytes, within: float) -> "Got":
        """Send a request and return its answer."""
        self.pieces, self._status = [], 0
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.write(request)
        async with asyncio.timeout(within):
            await self._done
        return Got(self._status, began, self.pieces)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._now = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self.pieces.append((self._now, body))

    def on_message_complete(self) -> None:  # noqa: D102
        self._status = self._parser.get_status_code()
        if self._done and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        if self._done and not self._done.done():
            self._done.set_exception(exc or ConnectionError("closed before the answer was whole"))


@dataclass(frozen=True)
class Got:
    """One answer as it arrived: times in seconds of ``time.perf_counter``."""

    status: int
    began: float
    pieces: Sequence[tuple[float, bytes]]

    def moments(self, speaks: Speaks) -> list[tuple[float, str]]:
        """Return every piece of text of a stream with its time; raise ValueError where the stream is not whole."""
        if self.status != 200:  # noqa: PLR2004
            raise ValueError(f"status {self.status}: {b''.join(piece for _, piece in self.pieces)[:200]!r}")
        protocol, found, ended = PROTOCOLS[speaks], list[tuple[float, str]](), False
        buffer = b""
        for moment, piece in self.pieces:
            *events, buffer = (buffer + piece).replace(b"\r\n", b"\n").split(protocol.between)
            for event in events:
                text, last = protocol.read(event)
                ended = ended or last
                if text:
                    found.append((moment, text))
        if buffer.strip() or not ended:
            raise ValueError(f"the stream ended early, with {buffer[-200:]!r}")
        return found

    def whole(self, speaks: Speaks) -> str:
        """Return the text of an answer in one piece."""
        body = b"".join(piece for _, piece in self.pieces)
        if self.status != 200:  # noqa: PLR2004
            raise ValueError(f"status {self.status}: {body[:200]!r}")
        answer = json.loads(body)
        if speaks == "openai":
            return answer["choices"][0]["message"]["content"]
        return content(answer["output"])


# --- scenarios -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """So many callers, each asking so many times for so many tokens, one every ``pace`` milliseconds."""

    name: str
    callers: int
    tokens: int
    pace: int
    asks: int = 1
    stream: bool = True
    within: float = 120.0
    apart: float = 0.0
    """Milliseconds between the first requests of two callers; 0: all ask in one moment, and wait for each other."""

    def tell(self) -> str:
        """Return it in words."""
        kind = f"{self.tokens} tokens" + (f", one every {self.pace} ms" if self.pace else "")
        how = "streamed" if self.stream else "in one piece"
        when = f", {self.apart:g} ms apart" if self.apart else ""
        return f"{self.callers} callers{when}, {self.asks} requests each for {kind}, {how}"


@dataclass
class Outcome:
    """What came of a scenario. Times in seconds."""

    tokens: int = 0
    requests: int = 0
    failures: list[str] = field(default_factory=list[str])
    first: list[float] = field(default_factory=list[float])
    """From the request to the first piece of text (or the whole answer)."""
    gaps: list[float] = field(default_factory=list[float])
    """Between two pieces of a stream."""
    wall: float = 0.0


async def run(target: Target, scenario: Scenario, around: Callable[[Awaitable[None]], Awaitable[None]]) -> Outcome:
    """Run a scenario and check every answer.

    Args:
        target: Whom to ask.
        scenario: What to ask.
        around: Awaits the part that counts, and measures around it.
    """
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    for _ in range(scenario.callers):
        _, protocol = await loop.create_connection(Connection, "127.0.0.1", target.port)
        connections.append(protocol)
    got: list[tuple[int, Got | BaseException]] = []

    async def call(caller: int) -> None:
        await asyncio.sleep(caller * scenario.apart / 1e3)
        for turn in range(scenario.asks):
            seed = caller * 7 + turn
            request = target.request(seed, scenario.tokens, scenario.pace, stream=scenario.stream)
            try:
                got.append((seed, await connections[caller].ask(request, scenario.within)))
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                got.append((seed, error))
                return

    async def everybody() -> None:
        await asyncio.gather(*(call(caller) for caller in range(scenario.callers)))

    began = time.perf_counter()
    await around(everybody())
    outcome = Outcome(wall=time.perf_counter() - began)
    for connection in connections:
        connection.transport.close()
    for seed, answer in got:
        outcome.requests += 1
        try:
            _judge(outcome, target, scenario, seed, answer)
        except ValueError as error:
            outcome.failures.append(str(error)[:300])
    return outcome


def _judge(outcome: Outcome, target: Target, scenario: Scenario, seed: int, answer: Got | BaseException) -> None:
    if isinstance(answer, BaseException):
        raise ValueError(repr(answer))  # noqa: TRY004 -- it is counted with the wrong answers
    expected = text_of(seed, scenario.tokens)
    if not scenario.stream:
        if answer.whole(target.speaks) != "".join(expected):
            raise ValueError(f"another text: {answer.whole(target.speaks)[:100]!r}")
        outcome.tokens += len(expected)
        outcome.first.append(answer.pieces[-1][0] - answer.began)
        return
    moments = answer.moments(target.speaks)
    if [text for _, text in moments] != expected:
        raise ValueError(f"another text: {[text for _, text in moments][:20]!r}")
    outcome.tokens += len(expected)
    outcome.first.append(moments[0][0] - answer.began)
    times = [moment for moment, _ in moments]
    outcome.gaps.extend(later - earlier for earlier, later in itertools.pairwise(times))
