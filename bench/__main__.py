"""``python -m bench``: what each layer costs, interleaved A B B A; see ``--help``."""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
from dataclasses import dataclass, field
from typing import Any

from bench.cpu import Meter, pin, speed_of_this_moment
from bench.load import Outcome, Scenario, Target, run
from bench.peers import ROOT, Running, known, run_engine, run_peer

SCENARIOS = {
    "A": Scenario("A", callers=16, tokens=150, pace=20),
    "B": Scenario("B", callers=200, tokens=60, pace=50),
    "whole": Scenario("whole", callers=4, tokens=40, pace=0, asks=40, stream=False),
    "first": Scenario("first", callers=1, tokens=3, pace=0, asks=100),
    "first32": Scenario("first32", callers=32, tokens=6, pace=20, asks=6),
    "L": Scenario("L", callers=1000, tokens=12, pace=250),
}
"""A and B: paced streams. whole: answers in one piece. first, first32: time to the first token. L: a thousand."""
USUAL = ("A", "B", "whole", "first", "first32")


@dataclass
class Figures:
    """One peer in one scenario, a value per round."""

    cpu: list[float] = field(default_factory=list[float])
    """Microseconds per token; of ``whole``: milliseconds per request."""
    first: list[float] = field(default_factory=list[float])
    """Median, milliseconds."""
    first95: list[float] = field(default_factory=list[float])
    gap99: list[float] = field(default_factory=list[float])
    """99th percentile between two pieces, milliseconds."""
    memory: list[float] = field(default_factory=list[float])
    """MiB, the most."""
    tokens: int = 0
    failures: int = 0
    complaints: list[str] = field(default_factory=list[str])


async def measure(running: Running, scenario: Scenario, figures: Figures) -> None:
    """Run one scenario against one peer."""
    meter = Meter(running.pids)

    async def around(work: Any) -> None:
        with meter.running():
            await work

    outcome = await run(running.target, scenario, around)
    note(figures, scenario, outcome, meter)


def note(figures: Figures, scenario: Scenario, outcome: Outcome, meter: Meter) -> None:
    """Add one round."""
    figures.failures += len(outcome.failures)
    figures.complaints.extend(outcome.failures[:1])
    figures.tokens += outcome.tokens
    if outcome.tokens:
        per = meter.cpu * 1e6 / outcome.tokens if scenario.stream else meter.cpu * 1e3 / outcome.requests
        figures.cpu.append(per)
    if outcome.first:
        ordered = sorted(outcome.first)
        figures.first.append(statistics.median(ordered) * 1e3)
        figures.first95.append(ordered[int(len(ordered) * 0.95)] * 1e3)
    if outcome.gaps:
        figures.gap99.append(sorted(outcome.gaps)[int(len(outcome.gaps) * 0.99)] * 1e3)
    if meter.memory:
        figures.memory.append(meter.memory / 2**20)


async def compare(names: list[str], scenarios: list[Scenario], rounds: int) -> dict[str, Any]:
    """Measure all, forwards and backwards in turn; the engine itself comes first, as what everything is added to."""
    core, others = cores()
    pin([os.getpid()], others)
    table: dict[str, dict[str, Figures]] = {name: {s.name: Figures() for s in scenarios} for name in ["direct", *names]}
    speeds: list[float] = []
    peers = known()
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(run_engine(others[0]))
        direct = Running(peers["aiohttp"], Target(int(engine.rsplit(":", 1)[1]), "openai"), [])
        running = {"direct": direct}
        for name in names:
            running[name] = await stack.enter_async_context(run_peer(name, peers[name], engine, core, others))
            print(f"{name}: up, pids {running[name].pids}", flush=True)
        for turn in range(rounds * 2):
            for name in [*running] if turn % 2 == 0 else reversed([*running]):
                for scenario in scenarios:
                    speeds.append(speed_of_this_moment())
                    figures = table[name][scenario.name]
                    await measure(running[name], scenario, figures)
                    said = f"{figures.cpu[-1]:.1f}" if figures.cpu else "-"
                    print(f"round {turn} {name} {scenario.name}: cpu {said} failures {figures.failures} {figures.complaints[-1:]}", flush=True)
    return {"table": table, "speeds": speeds, "names": {name: peers[name].name for name in names}}


def cores() -> tuple[int, list[int]]:
    """Return the core of the server that is measured, and those of everything else."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:  # noqa: PLR2004
        raise SystemExit("Two cores at least are needed: one for the server, one for engine and load.")
    return available[-1], available[:-1]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--peers", default="ours,general,langserve,litellm,httpx,aiohttp,router", help="who, comma separated")
    parser.add_argument("--scenarios", default=",".join(USUAL), help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of rounds, forwards and backwards (A B B A)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    asked = parser.parse_args()
    scenarios = [SCENARIOS[name] for name in asked.scenarios.split(",")]
    result = asyncio.run(compare(asked.peers.split(","), scenarios, asked.rounds))
    from bench.report import report  # noqa: PLC0415

    report(result, ROOT, write=asked.write)


if __name__ == "__main__":
    main()
