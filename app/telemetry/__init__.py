"""What the app tells of itself: Prometheus' metrics and OpenTelemetry's traces. Values and names, never content.

::

    metrics.py            by model and protocol
    engine_metrics.py     the engines' own beside them
    migration_metrics.py  two backends of one model, side by side
    page.py               where Prometheus reads
    tracing.py            what LangChain tells of its runs, for OpenTelemetry
    exporters.py          OpenTelemetry's exporters, as its own variables tell
"""
