"""The engines' own metrics, beside ours: read from each ready server, labelled with its model, bounded."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

import httpx2
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from app.engines.table import Endpoint

PREFIXES = ("vllm:", "vllm_omni:")
"""What engines measure of their work; their Python process's own numbers stay away."""
MOST_BYTES = 4 * 1024 * 1024
SECONDS = 2.0


async def read_engines(endpoints: Sequence[Endpoint], connections: httpx2.AsyncBaseTransport) -> bytes:
    """Return the metrics of all these servers in Prometheus's text format; one that does not answer is left out."""
    texts = await asyncio.gather(*(_read(endpoint, connections) for endpoint in endpoints))
    pages = [(endpoint.model, text) for endpoint, text in zip(endpoints, texts, strict=True) if text]
    return await asyncio.to_thread(merge, pages) if pages else b""


async def _read(endpoint: Endpoint, connections: httpx2.AsyncBaseTransport) -> str:
    request = httpx2.Request("GET", f"{endpoint.url.rstrip('/')}/metrics", headers={"Accept": "text/plain"})
    request.extensions["timeout"] = httpx2.Timeout(SECONDS).as_dict()
    with contextlib.suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(SECONDS):
            response = await connections.handle_async_request(request)
            try:
                return await _text(response) if response.status_code == 200 else ""  # noqa: PLR2004 -- HTTP's own number
            finally:
                await response.aclose()
    return ""


async def _text(response: httpx2.Response) -> str:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MOST_BYTES:
            return ""
    return content.decode(errors="replace")


def merge(pages: Iterable[tuple[str, str]]) -> bytes:
    """Return several servers' pages as one: each family once, its samples labelled with their model."""
    families: dict[str, Metric] = {}
    for model, text in pages:
        with contextlib.suppress(ValueError):  # no server of vLLM's, if it has no such page
            for family in text_string_to_metric_families(text):
                if family.name.startswith(PREFIXES):
                    merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    samples = (sample for sample in family.samples if not sample.name.endswith("_created"))
                    merged.samples += [_labelled(sample, model) for sample in samples]
    registry = CollectorRegistry()
    registry.register(_Fixed(families.values()))
    return generate_latest(registry)


def _labelled(sample: Sample, model: str) -> Sample:
    return sample._replace(labels={"model": model, **sample.labels})


class _Fixed(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._families
