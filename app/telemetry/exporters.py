"""OpenTelemetry's exporters, as its own variables (``OTEL_*``) tell; nothing where they name no collector."""

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from app.telemetry.tracing import GenAiSpans


class Telemetry:
    """Spans and measures on their way to a collector. They are sent by threads of the exporters' own, in batches."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_NAME: "langserve-vllm"})
        self._tracers = TracerProvider(resource=resource)
        self._tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource)
        self.spans = GenAiSpans(self._tracers, self._meters)

    def close(self) -> None:
        """Send what waits. Blocks until it is sent, or given up."""
        self._tracers.shutdown()
        self._meters.shutdown()
