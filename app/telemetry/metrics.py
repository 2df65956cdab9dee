"""What Prometheus gets to know, by model and protocol. Values only: no prompt, no key, no address becomes a label.

Observing costs one look-up of the labels' children for each request; a token costs nothing here.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.engines.table import ServerTable
from app.guard.admission import Admission
from app.guard.call import Call
from app.telemetry.sharing import summed
from app.workers.worker import ALONE, Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NAMESPACE = "langserve_vllm"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
FINISHES = ("stop", "length", "tool_calls", "abort")
"""Why engines end answers, as they say; anything else counts as ``other``, so that no engine can make a label."""
LINES = (
    ("queue_waiting", "Requests in line."),
    ("queue_running", "Requests at the engine."),
    ("queue_places", "Requests that may be at the engine."),
)
LINES_EVERY = 1.0
"""Seconds between two looks of a worker at its lines; whoever is read looks then too."""
STATES = ("absent", "fetching", "starting", "warming", "ready", "asleep", "draining", "stopped", "failed")


disable_created_metrics()  # a time beside every series, which Prometheus does not use


class Children(NamedTuple):
    """The measures of one model and protocol, their labels bound."""

    active: Gauge
    first_token: Histogram
    token: Histogram
    prompt_tokens: Counter
    completion_tokens: Counter

    def end(self, tokens: tuple[int, int]) -> None:
        """An engine's answer is over; ``tokens`` of prompt and answer."""
        self.active.dec()
        self.prompt_tokens.inc(tokens[0])
        self.completion_tokens.inc(tokens[1])

    def end_stream(self, waited: float | None, spoke: float, tokens: int) -> None:
        """It was a stream: seconds to its first token (None: not the request's first), and from there to its last."""
        if waited is not None:
            self.first_token.observe(waited)
        if tokens > 1:
            self.token.observe(spoke / (tokens - 1))


class Metrics:
    """The measures of one app.

    Args:
        models: The ids that may become labels now; requests for any other count under none.
        worker: Which of several workers counts; what is read is the sum of all.
    """

    def __init__(self, models: Callable[[], Iterable[str]], worker: Worker = ALONE) -> None:
        self._worker = worker
        self._now: _Now | None = None
        self.registry = CollectorRegistry(auto_describe=True)
        self._models = models
        both = ("model", "protocol")
        self._requests = self._counter("requests", "Requests that have ended.", (*both, "outcome"))
        self._errors = self._counter("errors", "Requests that ended in an error, by its type.", (*both, "kind"))
        self._finishes = self._counter("finishes", "Answers that have ended, by their reason.", (*both, "reason"))
        self._seconds = self._histogram("request_seconds", "From the head to the end of the answer.", both)
        self._first_token = self._histogram("time_to_first_token_seconds", "From the head to the first token.", both)
        self._token = self._histogram(
            "time_per_output_token_seconds", "Between two tokens of a stream, on average.", both, TOKEN_SECONDS
        )
        self._tokens = self._counter("tokens", "Tokens as the engines count them.", (*both, "kind"))
        self._active = self._gauge("active_streams", "Answers of engines under way.", both)
        self._queue = self._histogram("queue_seconds", "In line for a place at the engine.", ("model",))
        self._bound = lru_cache(maxsize=1024)(self._bind)
        bound = lru_cache(maxsize=1024)  # Prometheus's own look-up of labels takes longer than all the counting
        self._request = bound(self._requests.labels)
        self._finish = bound(self._finishes.labels)
        self._second = bound(self._seconds.labels)
        self._wait = bound(self._queue.labels)
        self._lines = None if worker.is_alone else [self._gauge(name, told, ("model",)) for name, told in LINES]

    def _gauge(self, name: str, told: str, labels: tuple[str, ...]) -> Gauge:
        # livesum: of several workers, the sum of those that live
        return Gauge(name, told, labels, namespace=NAMESPACE, registry=self.registry, multiprocess_mode="livesum")

    def _counter(self, name: str, told: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, told, labels, namespace=NAMESPACE, registry=self.registry)

    def _histogram(
        self, name: str, told: str, labels: tuple[str, ...], buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return Histogram(name, told, labels, namespace=NAMESPACE, registry=self.registry, buckets=buckets)

    def _bind(self, model: str, protocol: str) -> Children:
        both = (model, protocol)
        return Children(
            self._active.labels(*both),
            self._first_token.labels(*both),
            self._token.labels(*both),
            self._tokens.labels(*both, "prompt"),
            self._tokens.labels(*both, "completion"),
        )

    def _label(self, call: Call) -> tuple[str, str]:
        return (call.model if call.model in self._models() else "", call.protocol)

    # --- what happens ------------------------------------------------------------------------

    def ended(self, call: Call, outcome: str, seconds: float) -> None:
        """A request is over: ``complete``, ``error`` or ``left``."""
        both = self._label(call)
        self._request(*both, outcome).inc()
        self._second(*both).observe(seconds)
        if call.finish is not None:
            self._finish(*both, call.finish if call.finish in FINISHES else "other").inc()
        if outcome == "error":
            self._errors.labels(*both, call.error or "unknown").inc()

    def begin(self, call: Call) -> "Children":
        """An engine begins to answer; the labels of its end are those of its beginning."""
        bound = self._bound(*self._label(call))
        bound.active.inc()
        return bound

    def queued(self, model: str, seconds: float) -> None:
        """A request got its place at an engine."""
        self._wait(model).observe(seconds)

    # --- what is read ------------------------------------------------------------------------

    def watch(self, table: ServerTable, admission: Admission) -> None:
        """Tell the servers' states and the lines' lengths too, as they are when somebody reads."""
        self._now = _Now(table, admission)
        if self._worker.is_alone:
            self.registry.register(self._now)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        if self._worker.is_alone or self._now is None:
            return generate_latest(self.registry)
        self._note_lines(self._now)
        registry = summed(self._worker)
        registry.register(_States(self._now))
        return generate_latest(registry)

    async def tell_lines(self) -> None:
        """Let the other workers know how long this one's lines are, until cancelled."""
        while True:
            await asyncio.sleep(LINES_EVERY)
            if self._now is not None:
                self._note_lines(self._now)

    def _note_lines(self, now: "_Now") -> None:
        for gauge, family in zip(self._lines or (), now.lines(), strict=False):
            for sample in family.samples:
                gauge.labels(**sample.labels).set(sample.value)


class _Now(Collector):
    """What is looked up when the metrics are read."""

    def __init__(self, table: ServerTable, admission: Admission) -> None:
        self._table = table
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        """Read the table and the lines."""
        return self.state(), *self.lines()

    def state(self) -> Metric:
        """Every worker knows the same."""
        state = GaugeMetricFamily(
            f"{NAMESPACE}_server_state", "1 for the state a server is in.", None, ["model", "state"]
        )
        for model in self._table.models:
            server = self._table.server(model)
            for name in STATES:
                state.add_metric([model, name], float(server is not None and server.state == name))
        return state

    def lines(self) -> Sequence[Metric]:
        """Read this worker's: as ``LINES``."""
        waiting, running, places = (
            GaugeMetricFamily(f"{NAMESPACE}_{name}", told, None, ["model"]) for name, told in LINES
        )
        for model, line in self._admission.lines.items():
            waiting.add_metric([model], line.waiting)
            running.add_metric([model], line.running)
            places.add_metric([model], line.places)
        return waiting, running, places


class _States(Collector):
    """The servers' states alone."""

    def __init__(self, now: _Now) -> None:
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Read the table."""
        return (self._now.state(),)
