"""What Prometheus gets to know of two backends of one model, side by side."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.engines.migration import Backend, Outcome, Role

LABELS = ("model", "backend", "role")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class MigrationMetrics:
    """Counts and times of both backends; ``role`` tells answers from shadow copies.

    Args:
        registry: Where they are read.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "langserve_vllm_migration_requests",
            "Requests and copies that have ended, by backend: ours or the other.",
            (*LABELS, "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "langserve_vllm_migration_seconds",
            "From sending a request to the end of its answer.",
            LABELS,
            registry=registry,
            buckets=SECONDS,
        )
        self._first = Histogram(
            "langserve_vllm_migration_first_seconds",
            "From sending a request to the first piece of its answer.",
            LABELS,
            registry=registry,
            buckets=SECONDS,
        )

    def ended(  # noqa: PLR0913 -- as ``app.engines.migration.Meter``
        self, model: str, backend: Backend, *, role: Role, outcome: Outcome, first: float | None, seconds: float
    ) -> None:
        """A request or a copy is over; only one that is complete has a time."""
        self._requests.labels(model, backend, role, outcome).inc()
        if outcome == "complete":
            self._seconds.labels(model, backend, role).observe(seconds)
            if first is not None:
                self._first.labels(model, backend, role).observe(first)
