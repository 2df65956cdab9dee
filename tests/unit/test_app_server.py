"""The app as a whole: status routes, /docs, headers, and what it says when it cannot be built."""

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.chains import ChainError
from app.server import create_app
from app.settings import Settings, read_secret
from app.streams.sse import Event
from tests.unit.scripted import (
    MODEL,
    REGISTRY,
    Exchange,
    ScriptedEngine,
    ScriptedLauncher,
    Stage,
    caller,
    events,
    running,
    says,
    server,
    settings,
    until,
)
from vllm_launcher.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The app."""
    return Stage(tmp_path_factory.mktemp("app"))


@pytest.fixture
async def client(stage: Stage) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the app with a ready model."""
    async with stage.client(ScriptedEngine(says("x"))) as client:
        yield client


async def test_alive_says_nothing_of_models(stage: Stage) -> None:
    """A service whose models load is alive."""
    async with stage.client(ScriptedEngine(says("x")), ScriptedLauncher(server("fetching"))) as client:
        response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready_when_every_startup_model_is(client: httpx.AsyncClient) -> None:
    """Ready means that its server has just generated a token."""
    response = await client.get("/ready")
    assert (response.status_code, response.json()["status"]) == (200, "ready")


@pytest.mark.parametrize("state", ["absent", "fetching", "starting", "warming", "failed"])
async def test_not_ready_lists_the_others(stage: Stage, state: Any) -> None:
    """With their states, so that who waits knows for what."""
    async with stage.client(ScriptedEngine(says("x")), ScriptedLauncher(server(state, restarts=1))) as client:
        response = await client.get("/ready")
    assert response.status_code == 503
    assert [(model["id"], model["state"]) for model in response.json()["models"]] == [(MODEL, state)]
    assert int(response.headers["retry-after"]) > 0


async def test_models_tell_phase_and_progress(stage: Stage) -> None:
    """As the launcher says them, with the share done."""
    progress = Progress(phase="downloading weights", done=25, total=100, unit="bytes")
    launcher = ScriptedLauncher(server("fetching", phase="downloading weights", progress=progress))
    async with stage.client(ScriptedEngine(says("x")), launcher) as client:
        (model,) = (await client.get("/models")).json()
    assert (model["id"], model["display_name"], model["task"]) == (MODEL, "Tiny", "chat")
    assert (model["state"], model["phase"], model["ready"]) == ("fetching", "downloading weights", False)
    assert model["progress"]["fraction"] == 0.25


async def test_no_status_tells_an_address_or_a_path(stage: Stage) -> None:
    """Neither of a ready model nor in a failed one's reason."""
    failed = server(
        "failed", reason="FileNotFoundError: /root/x/y.gguf at http://127.0.0.1:41003", hint="see /var/log/z"
    )
    for shown in (server(), failed):
        async with stage.client(ScriptedEngine(says("x")), ScriptedLauncher(shown)) as client:
            text = (await client.get("/models")).text
        assert not re.search(r"127\.0\.0\.1|41003|/root|/var", text)


async def test_every_link_of_a_model_leads_somewhere(client: httpx.AsyncClient) -> None:
    """GET or POST, but never 404."""
    (model,) = (await client.get("/models")).json()
    for name, link in model["links"].items():
        response = await client.get(f"/{link.partition('#')[0]}")
        assert response.status_code in (200, 405), name


async def test_states_are_unreachable_without_a_launcher(stage: Stage) -> None:
    """Nobody knows them then."""
    launcher = ScriptedLauncher(server())
    async with stage.app(ScriptedEngine(says("x")), launcher) as app, caller(app) as client:
        launcher.vanish()
        await until(app, reachable=False)
        assert (await client.get("/models")).json()[0]["state"] == "unreachable"
        assert (await client.get("/ready")).status_code == 503


async def test_an_app_without_a_control_socket_still_answers(tmp_path: Path) -> None:
    """It serves its pages and says that nothing is reachable."""
    app = create_app(settings(tmp_path))
    async with app.router.lifespan_context(app), caller(app) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/models")).json()[0]["state"] == "unreachable"
        response = await client.post(f"/{MODEL}/invoke", json={"input": "x"})
        assert response.json()["error"]["type"] == "launcher_gone"


async def test_model_events_follow_the_states_until_the_end_begins(tmp_path: Path) -> None:
    """One event now, one after a change, and an end that uses up nobody's time of grace."""
    launcher = ScriptedLauncher(server("warming"))
    app = create_app(settings(tmp_path, drain=3600), launcher=launcher, connections=ScriptedEngine(says("x")))
    async with running(app):
        exchange = Exchange(app, "/models/events")
        assert await exchange.start() == 200
        ((name, (model,)),) = events(await exchange.piece())
        assert (name, model["state"]) == ("models", "warming")
        launcher.say(server())
        ((name, (model,)),) = events(await exchange.piece())
        assert (name, model["state"]) == ("models", "ready")
        app.state.shutdown.begin()
        assert events(await exchange.piece()) == [("end", None)]
        await exchange.end()


async def test_docs_list_every_route_with_a_summary_and_one_tag_a_model(client: httpx.AsyncClient) -> None:
    """Bodies, answers and errors included."""
    document = (await client.get("/openapi.json")).json()
    paths: dict[str, Any] = document["paths"]
    routes = ("invoke", "batch", "stream", "stream_log", "stream_events")
    schemas = ("input_schema", "output_schema", "config_schema")
    assert {f"/{MODEL}/{name}" for name in (*routes, *schemas)} <= paths.keys()
    assert {"/health", "/ready", "/models", "/models/events"} <= paths.keys()
    assert [tag["name"] for tag in document["tags"]] == ["status", "sessions", MODEL]
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["summary"], path
            assert len(operation["tags"]) == 1, path
    for name in routes:
        operation = paths[f"/{MODEL}/{name}"]["post"]
        assert operation["requestBody"]["content"]["application/json"]["example"]
        assert "default" in operation["responses"]
        assert [parameter["name"] for parameter in operation["parameters"]] == ["Prefer"]


async def test_every_reference_of_the_document_resolves(client: httpx.AsyncClient) -> None:
    """A reader of /docs would see an error in its place."""
    document = (await client.get("/openapi.json")).json()
    for reference in set(re.findall(r'"\$ref": "(#[^"]+)"', json.dumps(document))):
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step.replace("~1", "/").replace("~0", "~")]


async def test_the_documents_example_is_a_good_request(client: httpx.AsyncClient) -> None:
    """Whoever presses "Try it out" gets an answer."""
    document = (await client.get("/openapi.json")).json()
    for name in ("invoke", "batch"):
        body = document["paths"][f"/{MODEL}/{name}"]["post"]["requestBody"]["content"]["application/json"]["example"]
        response = await client.post(f"/{MODEL}/{name}", json=body)
        assert response.status_code == 200, name


@pytest.mark.parametrize("path", ["/", "/health", "/docs", f"/{MODEL}/playground/", "/nowhere/invoke"])
async def test_every_answer_carries_security_headers(client: httpx.AsyncClient, path: str) -> None:
    """Errors too."""
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


async def test_another_site_cannot_read_an_answer(client: httpx.AsyncClient) -> None:
    """CORS is off: a preflight is not granted."""
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = await client.options(f"/{MODEL}/invoke", headers=headers)
    assert response.status_code == 405
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["../server.py", "..%2f..%2fserver.py", "assets", "%00", "assets/../../x"])
async def test_the_playground_serves_nothing_but_its_files(client: httpx.AsyncClient, path: str) -> None:
    """No file outside, no folder, no 500."""
    response = await client.get(f"/{MODEL}/playground/{path}")
    assert response.status_code == 404


async def test_the_playgrounds_page_finds_its_files(client: httpx.AsyncClient) -> None:
    """Both pages, below their own paths."""
    for page in (f"/{MODEL}/playground/", f"/{MODEL}/chat/playground/"):
        html = (await client.get(page)).text
        (script,) = re.findall(r'src="([^"]+\.js)"', html)
        assert script.startswith(page)
        assert (await client.get(script)).headers["content-type"].startswith("application/javascript")


async def test_the_connections_are_closed_with_the_app(stage: Stage) -> None:
    """And not before."""
    engine = ScriptedEngine(says("x"))
    async with stage.client(engine):
        assert not engine.closed
    assert engine.closed


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({"package": "no_such_package"}, "no_such_package"),
        ({"package": "json"}, "has no build_chain"),
        ({"package": "smollm2_chat", "system_prompt": "You are {name}."}, "name"),
    ],
)
def test_a_chain_that_cannot_be_built_is_told_with_its_model(
    tmp_path: Path, chain: dict[str, str], message: str
) -> None:
    """At the start, not at the first request."""
    told = settings(tmp_path, {"models": [{**REGISTRY["models"][0], "chain": chain}]})
    with pytest.raises(ChainError, match=message):
        create_app(told)


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat names, and limits below theirs."""
    monkeypatch.setenv("LANGSERVE_VLLM_PORT", "8123")
    monkeypatch.setenv("LANGSERVE_VLLM_LIMITS__BATCH_SIZE", "5")
    monkeypatch.setenv("SOME_KEY", "k")
    told = Settings()
    assert (told.port, told.limits.batch_size, told.limits.json_depth) == (8123, 5, 64)
    assert (read_secret("SOME_KEY"), read_secret("NO_SUCH_KEY")) == ("k", None)


def test_an_event_of_many_lines_stays_one_event() -> None:
    """A line end inside the data must not end the frame."""
    assert Event("data", "a\nb\r\nc").encode() == b"event: data\r\ndata: a\r\ndata: b\r\ndata: c\r\n\r\n"
    assert Event("end").encode() == b"event: end\r\n\r\n"
