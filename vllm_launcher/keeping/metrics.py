"""What a server's /metrics tell: Prometheus text in, one sample out. Pure.

Names as in vLLM (``vllm:``) and vLLM-Omni (``vllm_omni:``), whose image servers count pictures and no tokens.
The engines of one server are added up.
"""

from dataclasses import dataclass

STEPS = ("generation_tokens_total", "prompt_tokens_total", "iteration_tokens_total_count")
"""Each grows while an engine computes."""
FINISHED = ("request_success_total", "requests_success_total")


@dataclass(frozen=True)
class Sample:
    """A server as of one look."""

    busy: bool
    """Requests are under way."""
    moved: float | None
    """A number that grows with every step; None where there is none."""
    slow: bool = False
    """It grows with whole requests only: a picture, which may take minutes."""
    requests: int | None = None
    """Under way, waiting ones included."""
    tokens: float | None = None
    """Generated so far."""
    cache_usage: float | None = None
    """Part of the KV cache that is in use: 0 to 1."""
    handled: float | None = None
    """Grows with every request."""
    probed: bool = False
    """What moved since the last sample was a question of ours."""


def read_metrics(text: str) -> Sample:
    """Read /metrics. What is not vLLM's gives a sample that knows nothing."""
    values = _read(text)
    running, waiting = values.get("num_requests_running"), values.get("num_requests_waiting")
    requests = int((running or 0) + (waiting or 0))
    steps = [values[name] for name in STEPS if name in values]
    finished = [values[name] for name in FINISHED if name in values]
    pictures = "requests_success_total" in values and not sum(steps)
    return Sample(
        busy=requests > 0,
        moved=sum(finished) if pictures else sum(steps) if steps else None,
        slow=pictures,
        requests=None if running is None else requests,
        tokens=values.get("generation_tokens_total"),
        cache_usage=values.get("kv_cache_usage_perc"),
        handled=sum(finished) + sum(steps) if finished or steps else None,
    )


def _read(text: str) -> dict[str, float]:
    """Values by name without prefix, summed over the labels."""
    totals: dict[str, float] = {}
    for line in text.splitlines():
        prefix, colon, rest = line.partition(":")
        if colon and prefix in ("vllm", "vllm_omni"):
            name = rest.partition("{")[0].partition(" ")[0]
            totals[name] = totals.get(name, 0.0) + float(line.rpartition(" ")[2])
    return totals
