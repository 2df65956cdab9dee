"""Forward progress: whether a ready server still computes. Pure: samples in, verdicts out.

vLLM's /health stays 200 on a hung engine. What cannot lie is a counter of tokens: while requests are being
computed, one of them moves. An idle engine moves none, and its gauges may be old (they are set by the engine's
own steps), so after a long silence one token is asked for.
"""

from dataclasses import dataclass
from typing import Literal

from vllm_launcher.keeping.metrics import Sample

Verdict = Literal["fine", "probe", "stalled", "silent"]
"""fine; ask it for one token; requests under way and nothing moves; it does not even answer."""


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    poll: float = 5.0
    """Between two samples."""
    answer: float = 5.0
    """For an answer that needs no computing."""
    stalled: float = 120.0
    """With requests under way and no counter moving. The longest step of a large model on a CPU must fit."""
    slow: float = 1800.0
    """The same where only whole requests are counted: a picture of many steps."""
    silent: float = 60.0
    """Without an answer to /metrics or /health."""
    idle: float | None = 300.0
    """Idle time after which one token is asked for; None: never."""
    probe: float = 120.0
    """For that token."""


class StallWatch:
    """Fed with a sample (None: no answer) now and then, says what to make of it."""

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self._answered = now
        self._progressed = now
        self._moved: float | None = None
        self._idle = now

    def observe(self, sample: Sample | None, now: float) -> Verdict:
        """The verdict at ``now`` (seconds, monotonic)."""
        if sample is None:
            return "silent" if now - self._answered >= self._patience.silent else "fine"
        self._answered = now
        if sample.moved is None:
            return "fine"
        if sample.moved != self._moved:
            self._moved, self._progressed = sample.moved, now
        if sample.busy:
            # Counted from the request's arrival too: after an idle hour the counters have stood still for an hour.
            still = now - max(self._progressed, self._idle)
            limit = self._patience.slow if sample.slow else self._patience.stalled
            return "stalled" if still >= limit else "fine"
        self._idle = now
        idle = self._patience.idle
        return "probe" if idle is not None and now - self._progressed >= idle else "fine"
