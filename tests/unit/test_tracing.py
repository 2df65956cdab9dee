"""Spans of chat models' calls, by OpenTelemetry's conventions; and nothing that listens where none are asked for."""

from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from langchain_core.callbacks import AsyncCallbackManager
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.server import create_app
from app.telemetry.tracing import GenAiSpans, listeners
from tests.unit.scripted import MODEL, ScriptedEngine, ScriptedLauncher, Stream, caller, chunk, running, says, server
from tests.unit.scripted import settings as settings_of

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

USAGE: dict[str, Any] = {
    **chunk("", None),
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """An app whose chat models are listened to."""

    def __init__(self, client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
        self.client = client
        self.engine = engine
        self.exported = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.exported))
        self.spans = GenAiSpans(tracers, MeterProvider([self.reader]))

    def measures(self) -> set[str]:
        """The names of what was measured."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture(scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Traced]:
    """The app."""
    engine = ScriptedEngine(says())
    folder: Path = tmp_path_factory.mktemp("traced")
    app = create_app(settings_of(folder), launcher=ScriptedLauncher(server()), connections=engine)
    async with running(app), caller(app) as client:
        made = Traced(client, engine)
        app.state.guarding.gate.spans = made.spans
        yield made


def answer_with(reply: Any) -> Callable[[Mapping[str, Any]], Any]:
    """A reply that is always the same."""
    return lambda _body: reply


async def ask(traced: Traced, path: str, body: dict[str, Any]) -> Any:
    """Ask, and return the one span of it."""
    traced.exported.clear()
    headers = {"traceparent": TRACE, "x-request-id": "r7"}
    await traced.client.post(path, json=body, headers=headers)
    (span,) = traced.exported.get_finished_spans()
    return span


@pytest.mark.parametrize("path", [f"/{MODEL}/stream", "/v1/chat/completions"])
async def test_a_stream_is_a_span_with_tokens_and_the_time_to_the_first(traced: Traced, path: str) -> None:
    """By whatever protocol; the caller's trace is its parent."""
    traced.engine.reply = answer_with(Stream([chunk("Hel"), chunk("lo", "stop"), USAGE, "[DONE]"]))
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "a secret"}], "stream": True}
    span = await ask(traced, path, chat if path.startswith("/v1") else {"input": "a secret"})
    assert span.name == f"chat {MODEL}"
    assert f"{span.parent.trace_id:032x}" == TRACE.split("-")[1]
    told = dict(span.attributes)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ("stop",),
        "langserve_vllm.request_id": "r7",
        "langserve_vllm.protocol": "openai" if path.startswith("/v1") else "langserve",
    }
    assert expected.items() <= told.items()
    assert told["gen_ai.response.time_to_first_token"] >= 0
    assert told["langchain.run_id"]
    assert "secret" not in str(told)
    assert {"gen_ai.client.operation.duration", "gen_ai.server.time_to_first_token"} <= traced.measures()


async def test_an_error_is_a_span_that_names_its_kind_alone(traced: Traced) -> None:
    """What the engine says may hold a part of the prompt."""
    traced.engine.reply = answer_with(httpx2.ReadError("a secret"))
    span = await ask(traced, f"/{MODEL}/invoke", {"input": "a secret"})
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"]
    assert "secret" not in str(dict(span.attributes)) + str(span.status.description) + str(span.events)


async def test_nothing_listens_where_nothing_is_asked_for(tmp_path: Path) -> None:
    """A run has no handler, so a token costs what it did before there were any."""
    handlers: list[Any] = []

    def reply(body: Any) -> Any:
        handlers.extend(AsyncCallbackManager.configure().handlers)
        handlers.extend(filter(None, [listeners.get()]))
        return says("x")(body)

    app = create_app(settings_of(tmp_path), launcher=ScriptedLauncher(server()), connections=ScriptedEngine(reply))
    async with running(app), caller(app) as client:
        assert (await client.post(f"/{MODEL}/invoke", json={"input": "Hi"})).status_code == 200
    assert handlers == []
