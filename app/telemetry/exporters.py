"""OpenTelemetry's exporters, as its own variables (``OTEL_*``) tell; nothing where they name no collector."""

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from app.telemetry.tracing import GenAiSpans


class Telemetry:
    """Spans and measures on their way to a collector. They are sent by threads of the exporters' own, in batches.

    Args:
        instance: Tells this process's measures from those of others like it.
    """

    def __init__(self, instance: str | None = None) -> None:
        told = {SERVICE_NAME: "langserve-vllm", **({SERVICE_INSTANCE_ID: instance} if instance else {})}
        resource = Resource.create(told)
        self._tracers = TracerProvider(resource=resource)
        self._tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource)
        self.spans = GenAiSpans(self._tracers, self._meters)

    def close(self) -> None:
        """Send what waits. Blocks until it is sent, or given up."""
        self._tracers.shutdown()
        self._meters.shutdown()
