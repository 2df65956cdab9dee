"""``python -m bench.soak --url http://...``: many streams over mixed protocols at once, until time is up.

Every stream has to end in its protocol's own last event or in an error that has a name; anything else is cut off, and
the exit status 1. With the app's ``--pid`` its memory is read before, meanwhile and afterwards.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import grpc.aio

from bench.cpu import Meter, family, memory_bytes
from bench.wires import HTTP, Seen, stream_grpc

GRPC = "gRPC"
PAUSE = 1.0
"""Seconds that a caller waits after an error before it asks again."""


@dataclass(frozen=True)
class Soak:
    """What is asked: ``streams`` at once for ``seconds``, ``tokens`` each; none may take longer than ``within``."""

    url: str
    grpc: str | None
    model: str = "smollm2"
    streams: int = 200
    seconds: float = 120.0
    tokens: int = 24
    within: float = 300.0


@dataclass
class Tally:
    """What came of one protocol's streams."""

    complete: int = 0
    pieces: int = 0
    first: list[float] = field(default_factory=list[float])
    """Seconds to each stream's first piece."""
    errors: Counter[str] = field(default_factory=Counter[str])
    cut: Counter[str] = field(default_factory=Counter[str])

    @property
    def streams(self) -> int:
        """All there were."""
        return self.complete + self.errors.total() + self.cut.total()


class Callers:
    """Ask again and again, each by one protocol, and judge every stream."""

    def __init__(self, soak: Soak, session: aiohttp.ClientSession, channel: grpc.aio.Channel | None) -> None:
        self._soak = soak
        self._session = session
        self._channel = channel
        self._number = itertools.count()
        names = [*HTTP, *([GRPC] if channel else [])]
        self.tallies: Mapping[str, Tally] = {name: Tally() for name in names}

    async def run(self) -> None:
        """Let all of them ask until time is up, and every stream come to its end."""
        until = time.monotonic() + self._soak.seconds
        names = itertools.islice(itertools.cycle(self.tallies), self._soak.streams)
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._call(name, until))

    async def _call(self, name: str, until: float) -> None:
        tally = self.tallies[name]
        while time.monotonic() < until:
            failed = tally.errors.total() + tally.cut.total()
            try:
                async with asyncio.timeout(self._soak.within):
                    await self._one(name, tally)
            except (aiohttp.ClientError, grpc.aio.AioRpcError, OSError, ValueError, KeyError, TypeError) as error:
                tally.cut[f"{type(error).__name__}: {str(error)[:100]}"] += 1
            if tally.errors.total() + tally.cut.total() > failed:
                await asyncio.sleep(PAUSE)

    async def _one(self, name: str, tally: Tally) -> None:
        """Ask once; the last event that counts says how it ended, and nothing may follow it."""
        began, last, pieces = time.monotonic(), Seen("other"), 0
        async with contextlib.aclosing(self._ask(name)) as events:
            async for seen in events:
                if last.kind in ("end", "error") and seen.kind != "other":
                    raise ValueError(f"{seen.kind} after {last.kind}")
                if seen.kind == "piece" and not pieces:
                    tally.first.append(time.monotonic() - began)
                pieces += seen.kind == "piece"
                last = seen if seen.kind != "other" else last
        tally.pieces += pieces
        if last.kind == "error":
            tally.errors[last.name] += 1
        elif last.kind == "end":
            tally.complete += 1
        else:
            raise ValueError(f"no end after {pieces} pieces")

    def _ask(self, name: str) -> AsyncGenerator[Seen, None]:
        soak = self._soak
        asked = soak.model, f"Question {next(self._number)}: tell me about lighthouses.", soak.tokens
        if name == GRPC:
            return stream_grpc(cast("grpc.aio.Channel", self._channel), asked)
        return HTTP[name].stream(self._session, soak.url, asked)


# --- measuring and telling ---------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Of the app, in bytes (PSS)."""

    before: int
    peak: int
    after: int


async def run(soak: Soak, pid: int | None, calm: float = 0) -> tuple[Mapping[str, Tally], Memory | None]:
    """Soak; a stream of each protocol goes before, so that what is made once is there when memory is first read.

    Args:
        soak: What is asked.
        pid: Of the app.
        calm: Seconds between the last stream and the reading of the memory that is left.
    """
    async with contextlib.AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        channel: Any = await stack.enter_async_context(grpc.aio.insecure_channel(soak.grpc)) if soak.grpc else None
        warm = Soak(soak.url, soak.grpc, soak.model, streams=7, seconds=0.01, tokens=4)
        await Callers(warm, session, channel).run()
        callers = Callers(soak, session, channel)
        if pid is None:
            await callers.run()
            return callers.tallies, None
        before, meter = memory_bytes(family(pid)), Meter(family(pid))
        with meter.running():
            await callers.run()
    await asyncio.sleep(calm)
    return callers.tallies, Memory(before, meter.memory, memory_bytes(family(pid)))


def table(tallies: Mapping[str, Tally]) -> str:
    """Return the table for people, in Markdown."""
    lines = ["| protocol | streams | complete | pieces | first piece, median s | named errors | cut off |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, tally in tallies.items():
        errors = ", ".join(f"{count} x {kind}" for kind, count in tally.errors.most_common()) or "0"
        first = f"{sorted(tally.first)[len(tally.first) // 2]:.1f}" if tally.first else "-"
        counts = f"{tally.streams} | {tally.complete} | {tally.pieces} | {first}"
        lines.append(f"| {name} | {counts} | {errors} | {tally.cut.total()} |")
    return "\n".join(lines)


def main() -> None:
    """Soak and tell; 1 where a stream was cut off or a protocol had no complete one."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--url", required=True, help="of the app, for example http://127.0.0.1:8000")
    parser.add_argument("--grpc", help="HOST:PORT of its gRPC; without it no stream goes by gRPC")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--streams", type=int, default=200, help="at once")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--tokens", type=int, default=24, help="at most, of each answer")
    parser.add_argument("--pid", type=int, help="of the app, whose memory is read")
    parser.add_argument("--calm", type=float, default=10.0, help="seconds before its memory is read once more")
    asked = parser.parse_args()
    soak = Soak(asked.url.rstrip("/"), asked.grpc, asked.model, asked.streams, asked.seconds, asked.tokens)
    began = time.monotonic()
    tallies, memory = asyncio.run(run(soak, asked.pid, asked.calm))
    print(f"{soak.streams} streams at once for {soak.seconds:.0f} s, {time.monotonic() - began:.0f} s in all\n")
    print(table(tallies))
    for name, tally in tallies.items():
        for why, count in tally.cut.items():
            print(f"cut off: {name}: {count} x {why}")
    if memory:
        told = [f"{part / 2**20:.0f}" for part in (memory.before, memory.peak, memory.after)]
        print("\nMemory of the app, PSS in MiB: before {}, peak {}, after {}".format(*told))
    sys.exit(any(tally.cut or not tally.complete for tally in tallies.values()))


if __name__ == "__main__":
    main()
