"""What ``vllm bench serve`` measured, directly and through the app, as tables. Pure: values in, text out."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Way = Literal["direct", "chain", "raw"]
WAYS: tuple[Way, ...] = ("direct", "chain", "raw")
MEBI = 2**20


class BenchError(Exception):
    """A run that measured something else than it should have; the message says what."""


@dataclass(frozen=True)
class Result:
    """One run of ``vllm bench serve``. Times in milliseconds."""

    requests: int
    tokens: int
    """That the engine made, of all answers."""
    seconds: float
    speed: float
    """Tokens a second, all streams together."""
    first: float
    """Median time to the first token."""
    between: float
    """Median time between two tokens of a stream, by stream."""


def read_result(text: str, requests: int, tokens: int) -> Result:
    """Return a run's result.

    Args:
        text: The file that ``--save-result`` wrote (``vllm/benchmarks/serve.py``).
        requests: That were asked.
        tokens: Of each answer.

    Raises:
        BenchError: Some answers failed, or were longer or shorter than asked for.
    """
    told: dict[str, Any] = json.loads(text)
    if told["failed"] or told["completed"] != requests:
        raise BenchError(f"{told['completed']} of {requests} requests were answered, {told['failed']} failed")
    if told["total_output_tokens"] != requests * tokens:
        raise BenchError(f"{told['total_output_tokens']} tokens came, {requests * tokens} were asked for")
    return Result(
        requests=requests,
        tokens=told["total_output_tokens"],
        seconds=told["duration"],
        speed=told["output_throughput"],
        first=told["median_ttft_ms"],
        between=told["median_tpot_ms"],
    )


@dataclass
class Runs:
    """One way to ask at one number of streams, a value per run."""

    results: list[Result] = field(default_factory=list[Result])
    cpu: list[float] = field(default_factory=list[float])
    """Of the app, microseconds per token."""

    @property
    def speed(self) -> float:
        """Median tokens a second."""
        return statistics.median(result.speed for result in self.results)


Compared = Mapping[int, Mapping[Way, Runs]]
"""By the number of streams."""


@dataclass(frozen=True)
class Pipeline:
    """What a transformers pipeline did at one number of requests at once."""

    speed: float
    """Tokens a second."""
    memory: int
    """Bytes, the most."""


def order(rounds: int) -> list[Way]:
    """Return the ways in the order of their turns, there and back: what gets slower meanwhile favours nobody."""
    return [*WAYS, *reversed(WAYS)] * rounds


def ratio_table(compared: Compared) -> str:
    """Return what goes through the app beside what the engine does alone."""
    heads = ("streams", "direct, tokens/s", "direct against itself", "chain: ratio", "app CPU, µs a token")
    heads = (*heads, "raw: ratio", "app CPU, µs a token", "first token, ms: direct, chain, raw")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for streams, ways in compared.items():
        direct = ways["direct"]
        firsts = (f"{statistics.median(result.first for result in ways[way].results):.0f}" for way in WAYS)
        cells = (
            str(streams),
            f"{direct.speed:.0f}",
            spread([result.speed / direct.speed for result in direct.results]),
            *(
                cell
                for way in WAYS[1:]
                for cell in (ratio(direct, ways[way]), f"{statistics.median(ways[way].cpu):.0f}")
            ),
            ", ".join(firsts),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def ratio(direct: Runs, through: Runs) -> str:
    """Return the ratio of the medians, with the range of all pairs of runs."""
    pairs = [there.speed / here.speed for here in direct.results for there in through.results]
    return f"{through.speed / direct.speed:.2f} ({spread(pairs)})"


def spread(values: Sequence[float]) -> str:
    """Return the range of some ratios."""
    return f"{min(values):.2f} to {max(values):.2f}"


def pipeline_table(compared: Compared, engine: Mapping[int, int], pipeline: Mapping[int, Pipeline]) -> str:
    """Return vLLM with the app in front beside the pipeline. ``engine``: vLLM's bytes of memory, by streams."""
    heads = ("streams", "pipeline, tokens/s", "vLLM through the app, tokens/s", "times as many")
    heads = (*heads, "pipeline, MiB", "vLLM, MiB")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for streams, one in pipeline.items():
        through = compared[streams]["chain"].speed
        memory = f"{engine[streams] / MEBI:.0f}" if streams in engine else "not known"
        cells = (str(streams), f"{one.speed:.1f}", f"{through:.1f}", f"{through / one.speed:.1f}")
        rows.append(f"| {' | '.join((*cells, f'{one.memory / MEBI:.0f}', memory))} |")
    return "\n".join(rows)
