"""``python -m bench --workers 1,2``: whether N workers pass on N times as much.

Each worker has a core of its own, as long as there are enough; the load and the stand-in engine have what is left, or
share all cores where nothing is. Then the answer is in the CPU time of a token: where workers waited for one another,
it would grow with their number. Streams are unpaced: the most that passes.
"""

import contextlib
import itertools
import os
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from bench.cpu import cpu_seconds, family, pin, speed_of_this_moment
from bench.load import Scenario, run
from bench.peers import Running, known, run_engine, run_peer
from bench.report import noise_of, put_into, short

MARKS = ("<!-- bench-workers: begin -->", "<!-- bench-workers: end -->")
NAMES = {"ours": "this project", "general": "this project, general path"}
ASKS = {"ours": 16, "general": 4}
"""By path, with its questions for each caller: enough for some seconds."""
CALLERS, TOKENS = 64, 128


@dataclass
class Scaled:
    """One path with so many workers: a value per round."""

    path: str
    workers: int
    rate: list[float] = field(default_factory=list[float])
    """Tokens a second."""
    server: list[float] = field(default_factory=list[float])
    """Its CPU microseconds a token."""
    beside: list[float] = field(default_factory=list[float])
    """CPU microseconds a token of load and engine."""
    busy: list[float] = field(default_factory=list[float])
    """Cores that everything together kept busy."""
    failures: int = 0


@dataclass(frozen=True)
class Scaling:
    """What was found."""

    cases: list[Scaled]
    cores: int
    speeds: list[tuple[float, float]]
    """See ``bench.report.Measured``."""


async def scale(counts: Sequence[int], rounds: int) -> Scaling:
    """Measure each path with each number of workers, forwards and backwards in turn."""
    available = sorted(os.sched_getaffinity(0))
    peers = known()
    speeds: list[tuple[float, float]] = []
    cases: list[tuple[Scaled, Running]] = []
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(run_engine(available[0]))
        load = family(os.getpid())
        for path, workers in itertools.product(ASKS, counts):
            peer = peers[path]
            peer = replace(peer, command=(*peer.command, "--workers", str(workers)))
            name = f"{path} with {workers}"
            running = await stack.enter_async_context(run_peer(name, peer, engine, available[-1], available))
            cases.append((Scaled(path, workers), running))
            print(f"{name}: up, pids {running.pids}", flush=True)
        for turn in range(rounds * 2):
            for scaled, running in reversed(cases) if turn % 2 else cases:
                speeds.append(speed_of_this_moment())
                await measure(scaled, running, load, available)
                print(f"round {turn} {scaled.path} with {scaled.workers}: {scaled.rate[-1]:,.0f} a second", flush=True)
    return Scaling([scaled for scaled, _ in cases], len(available), speeds)


async def measure(scaled: Scaled, running: Running, load: list[int], available: list[int]) -> None:
    """Run one round."""
    own = available[-scaled.workers :]
    pin(running.pids, own)
    pin(load, [core for core in available if core not in own] or available)
    server = beside = 0.0

    async def around(work: Awaitable[None]) -> None:
        nonlocal server, beside
        began = cpu_seconds(running.pids), cpu_seconds(load)
        await work
        server, beside = cpu_seconds(running.pids) - began[0], cpu_seconds(load) - began[1]

    scenario = Scenario("unpaced", callers=CALLERS, tokens=TOKENS, pace=0, asks=ASKS[scaled.path])
    outcome = await run(running.target, scenario, around)
    scaled.failures += len(outcome.failures)
    scaled.rate.append(outcome.tokens / outcome.wall)
    scaled.server.append(server * 1e6 / outcome.tokens)
    scaled.beside.append(beside * 1e6 / outcome.tokens)
    scaled.busy.append((server + beside) / outcome.wall)


def report_workers(found: Scaling, root: Path, *, write: bool) -> None:
    """Print the table, and put it into docs/performance.md where asked to."""
    text = markdown(found)
    print(text)
    if write:
        put_into(root / "docs" / "performance.md", text, MARKS)


def markdown(found: Scaling) -> str:
    """Return a row a path and number of workers: the best rate, the least CPU time (and the medians)."""
    heads = ("", "workers", "tokens a second", "server: CPU µs a token", "load and engine", "cores busy", "failures")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for scaled in found.cases:
        cells = (
            NAMES[scaled.path],
            str(scaled.workers),
            f"{max(scaled.rate):,.0f} ({median(scaled.rate):,.0f})",
            *(f"{short(min(values))} ({short(median(values))})" for values in (scaled.server, scaled.beside)),
            short(median(scaled.busy)),
            str(scaled.failures),
        )
        rows.append(f"| {' | '.join(cells)} |")
    told = (
        f"The best (median) of {len(found.cases[0].rate)} rounds, {CALLERS} callers, answers of {TOKENS} tokens as "
        f"fast as they go, on {found.cores} cores; a worker has one for itself while that leaves one for the load. "
        f"{noise_of(found.speeds)}"
    )
    return "\n".join([*rows, "", told, ""])
