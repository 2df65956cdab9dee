"""``python -m bench``: what each layer costs, interleaved A B B A; see ``--help``."""

import argparse
import contextlib
import os
import resource
import statistics
from collections.abc import Iterable
from typing import Any

from bench.cpu import Meter, pin, speed_of_this_moment
from bench.interruption import run_until_told
from bench.load import Outcome, Scenario, Target, run
from bench.peers import BY_PROTOCOL, ROOT, Running, known, run_engine, run_peer, spoken_by
from bench.report import Figures, Measured, Table, report, report_protocols
from bench.workers import report_workers, scale

SCENARIOS = {
    "A": Scenario("A", callers=16, tokens=128, pace=20),
    "B": Scenario("B", callers=200, tokens=128, pace=50),
    "whole": Scenario("whole", callers=4, tokens=40, pace=0, asks=40, stream=False),
    "first": Scenario("first", callers=1, tokens=3, pace=0, asks=100),
    "first32": Scenario("first32", callers=32, tokens=26, pace=20, asks=4, apart=17),
    "smoke": Scenario("smoke", callers=3, tokens=20, pace=2, asks=2),
    "L16": Scenario("L16", callers=16, tokens=32, pace=100),
    "L200": Scenario("L200", callers=200, tokens=32, pace=100),
    "L": Scenario("L", callers=1000, tokens=32, pace=100),
}
"""A and B: paced streams. whole: answers in one piece. first, first32: time to the first token. L16, L200 and L: the
same for 16, 200 and 1,000 callers, so that a token's cost at each can be compared."""
USUAL = ("A", "B", "whole", "first", "first32")
LINEAR = ("L16", "L200", "L")
FEW = ("ours", "aiohttp")
"""Who is measured at a thousand streams, where nothing else is asked for: it takes a quarter of a minute each."""


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


async def compare(names: list[str], scenarios: list[Scenario], rounds: int, linear: list[Scenario]) -> Measured:
    """Measure all, forwards and backwards in turn; the engine itself comes first, as what everything is added to.

    ``linear`` is measured after everything else, of few: a thousand streams leave memory taken.
    """
    core, others = cores()
    pin([os.getpid()], others)
    table: Table = {name: {s.name: Figures() for s in [*scenarios, *linear]} for name in ["direct", *names]}
    speeds: list[tuple[float, float]] = []
    peers = known()
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(run_engine(others[0]))
        direct = Running(peers["aiohttp"], Target(int(engine.rsplit(":", 1)[1]), "openai"), [])
        running = {"direct": direct}
        for name in names:
            peer = peers[name]
            if peer.host in running:
                running[name] = spoken_by(running[peer.host], peer)
                continue
            running[name] = await stack.enter_async_context(run_peer(name, peer, engine, core, others))
            print(f"{name}: up, pids {running[name].pids}", flush=True)

        async def in_turn(who: list[str], what: list[Scenario], turns: int) -> None:
            for turn in range(turns):
                for name, scenario in pairs(who, what, backwards=turn % 2 == 1):
                    speeds.append(speed_of_this_moment())
                    figures = table[name][scenario.name]
                    await measure(running[name], scenario, figures)
                    tell(turn, name, scenario, figures)

        await in_turn([*running], scenarios, rounds * 2)
        await in_turn([name for name in FEW if name in running], linear, 2)
    told = {scenario.name: scenario.tell() for scenario in [*scenarios, *linear]}
    return Measured(table, {name: peers[name].name for name in names}, speeds, told)


def pairs(who: list[str], what: list[Scenario], *, backwards: bool) -> Iterable[tuple[str, Scenario]]:
    """Return who is measured in what, one after the other."""
    return ((name, scenario) for name in (reversed(who) if backwards else who) for scenario in what)


def tell(turn: int, name: str, scenario: Scenario, figures: Figures) -> None:
    """Print how far it is."""
    cpu = f"{figures.cpu[-1]:.1f}" if figures.cpu else "-"
    print(f"round {turn} {name} {scenario.name}: {cpu} {figures.complaints[-1:] or ''}", flush=True)


def cores() -> tuple[int, list[int]]:
    """Return the core of the server that is measured, and those of everything else."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) == 1:
        print("One core for everything: latencies say little, CPU times of the servers still do.")
        return available[0], available
    return available[-1], available[:-1]


def raise_file_limit() -> None:
    """Take as many open files as the system allows, for us and those we start: a thousand streams are two thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--peers", default="ours,general,langserve,litellm,httpx,aiohttp,router", help="who, comma separated"
    )
    parser.add_argument(
        "--scenarios",
        help=f"of {', '.join(SCENARIOS)}; usually {', '.join(USUAL)}, and {', '.join(LINEAR)} of {', '.join(FEW)}",
    )
    parser.add_argument("--rounds", type=int, default=2, help="pairs of rounds, forwards and backwards (A B B A)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--by-protocol", action="store_true", help="measure ours in A over each protocol, both paths")
    parser.add_argument("--workers", help="how ours grows with its workers: their numbers, as 1,2,4")
    asked = parser.parse_args()
    raise_file_limit()
    if asked.workers:
        counts = [int(count) for count in asked.workers.split(",")]
        report_workers(run_until_told(scale(counts, asked.rounds)), ROOT, write=asked.write)
        return
    if asked.by_protocol:
        names = ["ours", "general", *BY_PROTOCOL]
        result = run_until_told(compare(names, [SCENARIOS["A"]], asked.rounds, []))
        report_protocols(result, ROOT, write=asked.write)
        return
    scenarios = [SCENARIOS[name] for name in (asked.scenarios.split(",") if asked.scenarios else USUAL)]
    linear = [] if asked.scenarios else [SCENARIOS[name] for name in LINEAR]
    result = run_until_told(compare(asked.peers.split(","), scenarios, asked.rounds, linear))
    report(result, ROOT, write=asked.write)


if __name__ == "__main__":
    main()
