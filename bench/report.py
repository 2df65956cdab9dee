"""What was measured, as a table for docs/performance.md and as a page with plots."""

import html
import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

COLUMNS = (
    *("A: CPU µs a token", "B: CPU µs a token", "whole: CPU ms", "first token: + ms", "of 32, p95: + ms"),
    *("A: gap p99, ms", "B: memory, MiB", "failures"),
)
PROTOCOL_MARKS = ("<!-- bench-protocols: begin -->", "<!-- bench-protocols: end -->")
STREAMS = {"L16": 16, "L200": 200, "L": 1000}
"""Scenarios that differ in nothing but their number of streams."""
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass
class Figures:
    """One peer in one scenario, a value per round."""

    cpu: list[float] = field(default_factory=list[float])
    """Microseconds per token; of answers in one piece: milliseconds per request."""
    first: list[float] = field(default_factory=list[float])
    """Median time to the first token (or the whole answer), milliseconds."""
    first95: list[float] = field(default_factory=list[float])
    """95th percentile, milliseconds."""
    gap99: list[float] = field(default_factory=list[float])
    """99th percentile between two pieces, milliseconds."""
    memory: list[float] = field(default_factory=list[float])
    """MiB, the most."""
    tokens: int = 0
    failures: int = 0
    complaints: list[str] = field(default_factory=list[str])


Table = dict[str, dict[str, Figures]]


@dataclass(frozen=True)
class Measured:
    """Everything that one run of the benchmark found."""

    table: Table
    """By peer, then by scenario; the peer ``direct`` is the engine alone."""
    names: dict[str, str]
    """Of the peers, for people."""
    speeds: list[tuple[float, float]]
    """Seconds of CPU and of the clock that one fixed piece of work took, again and again: the machine's noise."""
    scenarios: dict[str, str]
    """What they are, for people."""


def report(measured: Measured, root: Path, *, write: bool) -> None:
    """Print the table, write ``artifacts/bench/report.html`` and ``.json``, and docs/performance.md where asked to."""
    text = markdown(measured)
    print(text)
    folder = root / "artifacts" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(asdict(measured), indent=1))
    (folder / "report.html").write_text(page(measured))
    print(f"{folder / 'report.html'}")
    if write:
        put_into(root / "docs" / "performance.md", text)


def put_into(document: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Replace what stands between the two marks."""
    begin, end = marks
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def report_protocols(measured: Measured, root: Path, *, write: bool) -> None:
    """Print the table by protocol, and put it into docs/performance.md where asked to."""
    text = protocols_markdown(measured)
    print(text)
    if write:
        put_into(root / "docs" / "performance.md", text, PROTOCOL_MARKS)


def protocols_markdown(measured: Measured) -> str:
    """Return a row a protocol: what a token costs when it is pushed through, and on LangChain's way."""
    rows = ["| protocol | pushed through: CPU µs a token | general path | failures |", "|---|---|---|---|"]
    for key, name in measured.names.items():
        host = "general" if key == "ours" else f"general-{key}"
        if host in measured.table:
            pair = (measured.table[key], measured.table[host])
            failures = sum(found["A"].failures for found in pair)
            title = name.rpartition(", ")[2] if ", " in name else "LangServe"
            rows.append(f"| {title} | {spread(pair[0], 'A')} | {spread(pair[1], 'A')} | {failures} |")
    return "\n".join([*rows, "", noise(measured), "", f"A: {measured.scenarios['A']}", ""])


def markdown(measured: Measured) -> str:
    """Return the table: minimum (median) of the CPU figures, medians of the times, the most memory."""
    heads = ("", *COLUMNS)
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, name in measured.names.items():
        found = measured.table[key]
        cells = [
            *(spread(found, scenario) for scenario in ("A", "B", "whole")),
            added(measured, key, "first", "first"),
            added(measured, key, "first32", "first95"),
            middle(found, "A", "gap99"),
            most(found, "B"),
            str(sum(figures.failures for figures in found.values())),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    told = (f"- {name}: {told}" for name, told in measured.scenarios.items())
    return "\n".join([*rows, "", *linear(measured), noise(measured), "", *told, ""])


def linear(measured: Measured) -> list[str]:
    """Return the table of what a token costs at more and more streams; nothing where they were not measured."""
    columns = [(name, streams) for name, streams in STREAMS.items() if name in measured.scenarios]
    rows = [
        f"| {name} | {' | '.join(spread(measured.table[key], scenario) for scenario, _ in columns)} "
        f"| {most(measured.table[key], columns[-1][0])} |"
        for key, name in measured.names.items()
        if columns and measured.table[key][columns[-1][0]].cpu
    ]
    if not rows:
        return []
    heads = ("CPU µs a token at", *(f"{streams:,} streams" for _, streams in columns), "memory at the last, MiB")
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows, ""]


def spread(found: dict[str, Figures], scenario: str) -> str:
    """Return minimum and median of the CPU time."""
    values = found[scenario].cpu if scenario in found else []
    return f"{short(min(values))} ({short(statistics.median(values))})" if values else ""


def middle(found: dict[str, Figures], scenario: str, what: str) -> str:
    """Return the median of one kind of figure."""
    values: list[float] = getattr(found[scenario], what) if scenario in found else []
    return short(statistics.median(values)) if values else ""


def added(measured: Measured, key: str, scenario: str, what: str) -> str:
    """Return how much later the first token comes than from the engine alone."""
    alone = middle(measured.table["direct"], scenario, what)
    here = middle(measured.table[key], scenario, what)
    return f"{float(here) - float(alone):.2f}" if alone and here else ""


def most(found: dict[str, Figures], scenario: str) -> str:
    """Return the most memory of any round."""
    values = found[scenario].memory if scenario in found else []
    return f"{max(values):.0f}" if values else ""


def short(value: float) -> str:
    """Return a figure with about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def noise(measured: Measured) -> str:
    """Return how often was measured, and how evenly the machine ran."""
    return f"Minimum (median) of {rounds(measured)} rounds, interleaved A B B A. {noise_of(measured.speeds)}"


def noise_of(speeds: Sequence[tuple[float, float]]) -> str:
    """Return what the machine was and how evenly it ran; see ``Measured.speeds``."""
    took = [cpu for cpu, _ in speeds]
    waits = [max(0.0, 1 - cpu / clock) for cpu, clock in speeds]
    low, middle_, high = min(took), statistics.median(took), max(took)
    return (
        f"{platform.machine()}, Python {platform.python_version()}; one fixed piece of work took "
        f"{low * 1e3:.1f} to {high * 1e3:.1f} ms (median {middle_ * 1e3:.1f}) on this machine "
        f"meanwhile, and waited for a core for {statistics.mean(waits):.0%} of its time "
        f"({max(waits):.0%} at worst): so noisy it was."
    )


def rounds(measured: Measured) -> int:
    """Return how many values a figure has."""
    return max((len(figures.cpu) for found in measured.table.values() for figures in found.values()), default=0)


# --- the page --------------------------------------------------------------------------------


def page(measured: Measured) -> str:
    """Return the report as one HTML file."""
    plots = "".join(
        plot(measured, scenario, title)
        for scenario, title in (
            ("A", "CPU microseconds a token, 16 streams"),
            ("B", "CPU microseconds a token, 200 streams"),
            ("whole", "CPU milliseconds an answer in one piece"),
            *(
                (name, f"CPU microseconds a token, {streams:,} streams, one each 100 ms")
                for name, streams in STREAMS.items()
            ),
        )
    )
    style = "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto}pre{overflow:auto}text{font:13px system-ui}"
    table = html.escape(markdown(measured))
    return f"<!doctype html><meta charset=utf-8><title>bench</title><style>{style}</style>{plots}<pre>{table}</pre>"


def plot(measured: Measured, scenario: str, title: str) -> str:
    """Return a bar a peer, with a dot a round."""
    bars = [
        (name, measured.table[key][scenario].cpu)
        for key, name in measured.names.items()
        if scenario in measured.table[key]
    ]
    bars = sorted(((name, values) for name, values in bars if values), key=lambda bar: statistics.median(bar[1]))
    if not bars:
        return ""
    widest = max(max(values) for _, values in bars)
    rows = "".join(bar(index, name, values, 520 / widest) for index, (name, values) in enumerate(bars))
    return f"<h2>{title}</h2><svg width=900 height={len(bars) * 28 + 8}>{rows}</svg>"


def bar(index: int, name: str, values: Sequence[float], scale: float) -> str:
    """Return one peer's bar: its length is the median."""
    y, middle_ = index * 28 + 4, statistics.median(values)
    dots = "".join(f"<circle cx={300 + value * scale:.1f} cy={y + 10} r=3 fill='#0f172a' />" for value in values)
    return (
        f"<text x=290 y={y + 15} text-anchor=end>{html.escape(name)}</text>"
        f"<rect x=300 y={y} width={middle_ * scale:.1f} height=20 fill='#7dd3fc' />{dots}"
        f"<text x={308 + max(values) * scale:.1f} y={y + 15}>{short(middle_)}</text>"
    )
