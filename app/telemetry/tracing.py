"""What LangChain tells of its runs, for OpenTelemetry. Off unless its variables name a collector.

The handlers come to a run by a context variable that LangChain looks at once when a run is configured. Where none is
set no run has one, chains take their short way, and a token costs nothing. LangSmith needs nothing of ours: LangChain
traces to it by itself where its variables are set.

Names follow OpenTelemetry's semantic conventions for generative AI (gen_ai.*), version 1.37.
"""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook
from opentelemetry.metrics import MeterProvider
from opentelemetry.propagate import extract
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from typing_extensions import override

from app.guard.call import current_call

listeners: ContextVar[BaseCallbackHandler | None] = ContextVar("listeners", default=None)
"""The handler of the request under way."""
register_configure_hook(
    cast("ContextVar[BaseCallbackHandler | BaseCallbackManager | None]", listeners), inheritable=True
)

PROVIDER = "vllm"


@dataclass
class _Run:
    span: Span
    began: float
    model: str
    first: float | None = None


class GenAiSpans(AsyncCallbackHandler):
    """A span and measures for each call of a chat model; prompts and answers are left out.

    Args:
        tracers: Where spans go.
        meters: Where measures go.
        headers: Of the request: ``traceparent`` makes its span the parent.
    """

    run_inline = True

    def __init__(
        self, tracers: TracerProvider, meters: MeterProvider, headers: Mapping[str, str] | None = None
    ) -> None:
        self._tracer = tracers.get_tracer("langserve-vllm")
        meter = meters.get_meter("langserve-vllm")
        self._duration = meter.create_histogram("gen_ai.client.operation.duration", "s")
        self._first = meter.create_histogram("gen_ai.server.time_to_first_token", "s")
        self._usage = meter.create_histogram("gen_ai.client.token.usage", "{token}")
        self._parent = extract(headers or {})
        self._runs: dict[UUID, _Run] = {}

    def of(self, headers: Mapping[str, str]) -> "GenAiSpans":
        """Return the handler of one request, which shares everything but the parent and the runs."""
        made = GenAiSpans.__new__(GenAiSpans)
        made.__dict__.update({**self.__dict__, "_parent": extract(headers), "_runs": {}})
        return made

    @override
    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Open a span."""
        call = current_call.get()
        asked: Mapping[str, Any] = kwargs.get("invocation_params") or {}
        model = (call.model if call else "") or str(asked.get("model") or "")
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
            "langchain.run_id": str(run_id),
            **{
                f"gen_ai.request.{name}": asked[name]
                for name in ("temperature", "top_p", "max_tokens", "seed")
                if asked.get(name) is not None
            },
        }
        if call is not None:
            attributes |= {"langserve_vllm.request_id": call.request_id, "langserve_vllm.protocol": call.protocol}
        span = self._tracer.start_span(f"chat {model}", self._parent, SpanKind.CLIENT, attributes)
        self._runs[run_id] = _Run(span, time.perf_counter(), model)

    @override
    async def on_llm_new_token(self, token: str | list[str | dict[str, Any]], *, run_id: UUID, **kwargs: Any) -> None:
        """Note when the first one comes."""
        run = self._runs.get(run_id)
        if run is not None and run.first is None:
            run.first = time.perf_counter()

    @override
    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Close the span with what the answer was."""
        run = self._runs.pop(run_id, None)
        message = message_of(response)
        if run is None:
            return
        if message is None:
            self._close(run)
            return
        usage = message.usage_metadata
        run.span.set_attribute("gen_ai.response.model", str(message.response_metadata.get("model_name") or run.model))
        run.span.set_attribute("gen_ai.response.id", str(message.response_metadata.get("id") or message.id or ""))
        if finish := message.response_metadata.get("finish_reason"):
            run.span.set_attribute("gen_ai.response.finish_reasons", [str(finish)])
        if usage is not None:
            run.span.set_attribute("gen_ai.usage.input_tokens", usage["input_tokens"])
            run.span.set_attribute("gen_ai.usage.output_tokens", usage["output_tokens"])
            for kind, tokens in (("input", usage["input_tokens"]), ("output", usage["output_tokens"])):
                self._usage.record(tokens, {**self._labels(run), "gen_ai.token.type": kind})
        self._close(run)

    @override
    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Close the span with the error's kind; its text may hold a part of the prompt."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            run.span.set_attribute("error.type", type(error).__name__)
            run.span.set_status(Status(StatusCode.ERROR))
            self._close(run, {"error.type": type(error).__name__})

    def _close(self, run: _Run, more: Mapping[str, str] | None = None) -> None:
        labels = {**self._labels(run), **(more or {})}
        if run.first is not None:
            waited = run.first - run.began
            run.span.set_attribute("gen_ai.response.time_to_first_token", waited)
            self._first.record(waited, labels)
        self._duration.record(time.perf_counter() - run.began, labels)
        run.span.end()

    def _labels(self, run: _Run) -> dict[str, str]:
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": run.model,
        }


def message_of(response: LLMResult) -> AIMessage | None:
    """Return the answer of a chat model's run."""
    generations: Sequence[Any] = response.generations[0] if response.generations else ()
    first = generations[0] if generations else None
    return first.message if isinstance(first, ChatGeneration) and isinstance(first.message, AIMessage) else None
