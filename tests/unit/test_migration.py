"""Two backends for one model: who answers, who gets a copy, and what is told of both."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from prometheus_client import CollectorRegistry

from app.chains import EngineAccess, build_chain
from app.engines.migration import MigratingTransport, OtherBackend, Shadows
from app.engines.table import ServerTable
from app.errors import EngineDied, EngineUnreachable, ServiceError
from app.memory.session import current_session
from app.server import create_app
from app.telemetry.migration_metrics import MigrationMetrics
from tests.unit.scripted import (
    MODEL,
    REGISTRY,
    ScriptedEngine,
    ScriptedLauncher,
    Stream,
    answer,
    caller,
    chunk,
    running,
    says,
    server,
    settings,
    status,
)
from vllm_launcher.registry import load_registry
from vllm_launcher.registry.entries import Migration

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

URL = "http://engine.invalid/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "top_k": 3, "temperature": 0.5}


class Told:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self.first: list[float | None] = []

    def ended(  # noqa: PLR0913 -- as ``app.engines.migration.Meter``
        self, model: str, backend: Any, *, role: Any, outcome: Any, first: float | None, seconds: float
    ) -> None:
        """Note it."""
        assert model == "tiny"
        assert seconds >= 0
        self.heard.append((backend, role, outcome))
        self.first.append(first)


class Both:
    """A model with two scripted backends."""

    def __init__(
        self,
        ours: Callable[[Any], Any] | None = None,
        other: Callable[[Any], Any] | None = None,
        *,
        most: int = 4,
        chance: float = 0.5,
        **migration: Any,
    ) -> None:
        self.ours, self.other, self.told = (
            ScriptedEngine(ours or says("ours")),
            ScriptedEngine(other or says("other")),
            Told(),
        )
        self.shadows = Shadows(most, 5.0, self.told)
        told = Migration(url="https://old.example/api/v1/", **migration)
        backend = OtherBackend(told, migration.get("api_key_env") and "secret", self.other)
        self.transport = MigratingTransport("tiny", self.ours, backend, self.shadows, lambda: chance)

    async def ask(self, session: str | None = None, url: str = URL, **fields: Any) -> str:
        """Ask, and return the answer's text."""
        current_session.set(session)
        async with httpx2.AsyncClient(transport=self.transport) as client:
            response = await client.post(url, json={**BODY, **fields}, headers={"authorization": "Bearer ours"})
        return response.text


def counts(both: Both) -> tuple[int, int]:
    """How many requests each backend has seen: ours, the other."""
    return len(both.ours.requests), len(both.other.requests)


# --- shares --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "chance", "backend"), [(0, 0.0, "ours"), (1, 0.99, "other"), (0.3, 0.29, "other"), (0.3, 0.3, "ours")]
)
async def test_a_share_of_the_requests_is_answered_by_the_other_backend(
    share: float, chance: float, backend: str
) -> None:
    """None at 0, all at 1."""
    both = Both(share=share, chance=chance)
    assert backend in await both.ask()
    assert both.told.heard == [(backend, "answer", "complete")]


async def test_a_session_keeps_its_backend_and_moves_once_as_the_share_grows() -> None:
    """Whatever chance says, and in every process alike."""
    sessions = [f"session {number}" for number in range(200)]
    before: set[str] = set()
    for share in (0.0, 0.25, 0.5, 1.0):
        chosen: set[str] = set()
        for chance in (0.0, 0.999):
            both = Both(share=share, chance=chance)
            chosen = {session for session in sessions if "other" in await both.ask(session)}
            assert abs(len(chosen) - share * len(sessions)) < 25
        assert before <= chosen
        before = chosen


async def test_the_other_backend_is_asked_in_its_own_terms() -> None:
    """Its address, its key, its name for the model; ours never leave."""
    both = Both(share=1, model="old", api_key_env="OLD_KEY")
    await both.ask()
    assert both.other.urls == ["https://old.example/api/v1/chat/completions"]
    assert both.other.requests == [{**BODY, "model": "old"}]
    rewritten = both.transport._other.rewrite(  # pyright: ignore[reportPrivateUsage]
        httpx2.Request("POST", URL, headers={"authorization": "Bearer ours"}), json.dumps(BODY).encode()
    )
    assert rewritten.headers["authorization"] == "Bearer secret"
    assert rewritten.headers["host"] == "old.example"


async def test_vllms_own_fields_may_be_left_out() -> None:
    """For servers that refuse what they do not know."""
    both = Both(share=1, vllm_fields=False)
    await both.ask()
    assert "top_k" not in both.other.requests[0]
    assert both.other.requests[0]["temperature"] == 0.5


async def test_what_no_model_computes_stays_with_our_engine() -> None:
    """Counting tokens, say."""
    both = Both(share=1, shadow=1)
    await both.ask(url="http://engine.invalid/tokenize")
    await both.shadows.settle()
    assert counts(both) == (1, 0)
    assert both.told.heard == []


@pytest.mark.parametrize(
    ("reply", "error"),
    [(httpx2.ConnectError("no"), EngineUnreachable), (Stream([chunk("a"), httpx2.ReadError("cut")]), EngineDied)],
)
async def test_its_failures_are_those_of_an_engine(reply: Any, error: type[ServiceError]) -> None:
    """With their names, before the answer and in it; nothing is asked twice."""
    both = Both(other=lambda _: reply, share=1)
    with pytest.raises(error):
        await both.ask(stream=True)
    assert counts(both) == (0, 1)
    assert both.told.heard == [("other", "answer", "error")]


# --- copies --------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "answers", "copied"), [(0, "ours", "other"), (1, "other", "ours")])
async def test_a_copy_goes_to_whoever_does_not_answer(share: float, answers: str, copied: str) -> None:
    """And is read to its end."""
    both = Both(share=share, shadow=1)
    assert answers in await both.ask()
    await both.shadows.settle()
    assert sorted(both.told.heard) == sorted([(answers, "answer", "complete"), (copied, "shadow", "complete")])
    assert counts(both) == (1, 1)
    assert all(first is not None for first in both.told.first)


@pytest.mark.parametrize(
    "reply", [httpx2.ConnectError("no"), (500, {}), Stream([httpx2.ReadError("cut")]), ValueError("?")]
)
async def test_a_copy_that_fails_changes_nothing_but_the_count(reply: Any) -> None:
    """The answer is whole."""
    both = Both(other=lambda _: reply, shadow=1)
    assert "ours" in await both.ask()
    await both.shadows.settle()
    assert ("other", "shadow", "error") in both.told.heard
    assert ("ours", "answer", "complete") in both.told.heard


async def test_a_slow_copy_holds_nobody_up_and_too_many_are_dropped() -> None:
    """Counted, not queued."""
    gate = asyncio.Event()

    async def slow(_: Any) -> Any:
        await gate.wait()
        return 200, answer("late")

    both = Both(other=slow, shadow=1, most=2)
    for _ in range(5):
        assert "ours" in await both.ask()
    dropped = both.told.heard.count(("other", "shadow", "dropped"))
    assert (dropped, both.told.heard.count(("ours", "answer", "complete"))) == (3, 5)
    gate.set()
    await both.shadows.settle()
    assert both.told.heard.count(("other", "shadow", "complete")) == 2


async def test_copies_end_with_the_app() -> None:
    """However far they are."""
    begun = asyncio.Event()

    class Endless(Stream):
        """Says when somebody reads it."""

        async def __aiter__(self) -> AsyncIterator[bytes]:
            begun.set()
            await asyncio.Event().wait()
            yield b""

    stream = Endless([])
    both = Both(other=lambda _: stream, shadow=1)
    await both.ask()
    async with asyncio.timeout(20):
        await begun.wait()
        await both.shadows.aclose()
    assert stream.closed.is_set()
    assert ("other", "shadow", "left") in both.told.heard


async def test_an_answer_that_is_left_is_told_as_left() -> None:
    """Whoever asked has gone; the connection is closed."""
    stream = Stream([chunk("a"), asyncio.Event()])
    both = Both(ours=lambda _: stream)
    async with (
        httpx2.AsyncClient(transport=both.transport) as client,
        client.stream("POST", URL, json=BODY) as response,
    ):
        await anext(aiter(response.aiter_bytes()))
    assert stream.closed.is_set()
    assert both.told.heard == [("ours", "answer", "left")]


async def test_an_error_inside_a_stream_is_an_error() -> None:
    """Vllm sends one under HTTP 200."""
    both = Both(ours=lambda _: Stream([chunk("a"), {"error": {"message": "died"}}]))
    await both.ask(stream=True)
    assert both.told.heard == [("ours", "answer", "error")]


# --- metrics -------------------------------------------------------------------------------


def test_metrics_set_both_backends_side_by_side() -> None:
    """Counts by outcome; times of what is complete."""
    registry = CollectorRegistry()
    metrics = MigrationMetrics(registry)
    metrics.ended("m", "ours", role="answer", outcome="complete", first=0.2, seconds=2.0)
    metrics.ended("m", "other", role="shadow", outcome="error", first=None, seconds=9.0)

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"langserve_vllm_migration_{name}", {"model": "m", **labels})

    ours, other = {"backend": "ours", "role": "answer"}, {"backend": "other", "role": "shadow"}
    assert read("requests_total", **ours, outcome="complete") == 1
    assert read("requests_total", **other, outcome="error") == 1
    assert (read("seconds_sum", **ours), read("first_seconds_sum", **ours)) == (2.0, 0.2)
    assert read("seconds_count", **other) is None


# --- the whole app ---------------------------------------------------------------------------


class Wires(httpx2.AsyncBaseTransport):
    """The connections: to our engine, or to the other backend, by their address."""

    def __init__(self) -> None:
        self.ours, self.other = ScriptedEngine(says("ours")), ScriptedEngine(says("other"))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it there; a conversation's tokens are counted by our engine."""
        if request.url.path == "/tokenize":
            assert request.url.host != "old.example"
            return httpx2.Response(200, json={"count": 3, "max_model_len": 4096, "tokens": [1, 2, 3]})
        engine = self.other if request.url.host == "old.example" else self.ours
        return await engine.handle_async_request(request)


def registry_with(folder: Path, migration: Any) -> None:
    """Write the list of models with this migration."""
    (entry,) = REGISTRY["models"]
    settings(folder, {"models": [{**entry, "migration": migration}]})


async def text_of(client: httpx.AsyncClient, path: str = f"/{MODEL}/invoke", **config: Any) -> str:
    """Ask the model by LangServe's protocol."""
    body = {"input": "Hi", "config": {"configurable": config}}
    return (await client.post(path, json=body)).json()["output"]["content"]


async def pieces(stream: AsyncIterator[Any]) -> str:
    """Every piece of a stream as one text."""
    return "".join([str(piece.content) async for piece in stream])


async def test_a_share_is_changed_without_a_restart(tmp_path: Path) -> None:
    """An edit of models.json counts from the next request on."""
    wires, launcher = Wires(), ScriptedLauncher(server())
    told = settings(tmp_path)
    registry_with(tmp_path, {"url": "http://old.example/v1", "share": 1})
    app = create_app(told, launcher=launcher, connections=wires)
    async with running(app), caller(app) as client:
        assert await text_of(client) == "other"
        registry_with(tmp_path, {"url": "http://old.example/v1", "share": 0})
        app.state.table.update(status(server()).model_copy(update={"generation": 1}))
        async with asyncio.timeout(20):
            while await text_of(client) != "ours":
                await app.state.table.changed(within=0.1)


async def test_a_session_keeps_its_backend_in_every_protocol(tmp_path: Path) -> None:
    """By LangServe's config, by OpenAI's and KServe's header."""
    wires = Wires()
    told = settings(tmp_path)
    registry_with(tmp_path, {"url": "http://old.example/v1", "share": 0.5})
    app = create_app(told, launcher=ScriptedLauncher(server()), connections=wires)
    question = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    async with running(app), caller(app) as client:
        for number in range(12):
            headers, seen = {"x-session-id": f"s{number}"}, set[str]()
            for _ in range(2):
                chat = await client.post("/v1/chat/completions", json=question, headers=headers)
                seen.add(chat.json()["choices"][0]["message"]["content"])
                prompt = {"text_input": "Hi", "exclude_input_in_output": True}
                generated = await client.post(f"/v2/models/{MODEL}/generate", json=prompt, headers=headers)
                seen.add(generated.json()["text_output"])
                seen.add(await text_of(client, session_id=f"s{number}"))
            assert len(seen) == 1, f"s{number} moved: {seen}"
        assert wires.ours.requests
        assert wires.other.requests


async def test_a_stream_comes_from_the_backend_that_answers(tmp_path: Path) -> None:
    """In pieces, as the engine's own."""
    wires = Wires()
    settings(tmp_path)
    registry_with(tmp_path, {"url": "http://old.example/v1", "share": 1, "shadow": 1})
    registry = load_registry(tmp_path / "models.json")
    table = ServerTable(None, (MODEL,))
    table.update(status(server()))
    shadows = Shadows(4, 5.0)
    access = EngineAccess(table, wires, httpx2.Timeout(5), registry=registry, shadows=shadows)
    chain = build_chain(registry.models[0], access)
    assert await pieces(chain.astream("Hi")) == "other"
    await shadows.settle()
    assert (len(wires.ours.requests), len(wires.other.requests)) == (1, 1)


async def test_a_model_that_does_not_move_has_nothing_of_this_on_its_way(tmp_path: Path) -> None:
    """Neither a transport more, nor the long way."""
    settings(tmp_path)
    registry = load_registry(tmp_path / "models.json")
    access = EngineAccess(
        ServerTable(None, (MODEL,)), Wires(), httpx2.Timeout(5), registry=registry, shadows=Shadows(1, 1.0)
    )
    async with access.client(MODEL) as client:
        assert "Migrating" not in repr(client._transport)  # pyright: ignore[reportPrivateUsage]
