"""The guard in front of HTTP: keys, browsers, what is refused and how, what is measured and noted."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from app.errors import NotAllowed, Unauthorized
from app.guard.guarding import NoKeysError
from app.guard.owner import current_owner
from app.server import create_app
from tests.unit.scripted import (
    MODEL,
    Exchange,
    ScriptedEngine,
    ScriptedLauncher,
    Stream,
    caller,
    chunk,
    running,
    says,
    server,
    settings,
)
from vllm_launcher.keys import KeyStore

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

QUESTION = {"input": "Hi"}
INVOKE = f"/{MODEL}/invoke"


@dataclass
class Guarded:
    """An app that asks for keys, and what stands around it."""

    app: Any
    client: httpx.AsyncClient
    keys: KeyStore
    engine: ScriptedEngine
    folder: Path

    def key(self, **limits: Any) -> dict[str, str]:
        """The header with a new key."""
        return {"authorization": f"Bearer {self.keys.create('alice', **limits)[1]}"}

    def audit(self) -> list[Mapping[str, Any]]:
        """What was noted; ends the log."""
        self.app.state.guarding.audit.close()
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]


@asynccontextmanager
async def guarded(folder: Path, reply: Any = None, *, keys: bool = True, **fields: Any) -> AsyncGenerator[Guarded]:
    """Run an app that asks for keys."""
    engine = ScriptedEngine(reply or says("Hello"))
    told = {"keys": folder / "keys.sqlite", "require_keys": keys, "audit_log": folder / "audit.jsonl", **fields}
    app = create_app(settings(folder, **told), launcher=ScriptedLauncher(server()), connections=engine)
    with KeyStore.opened(folder / "keys.sqlite") as store:
        async with running(app), caller(app) as client:
            yield Guarded(app, client, store, engine, folder)


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Guarded]:
    """An app that asks for keys, for many tests: making one takes a while."""
    async with guarded(tmp_path_factory.mktemp("guarded")) as made:
        yield made


@pytest.fixture
async def service(shared: Guarded) -> AsyncGenerator[Guarded]:
    """The app, with a client and an engine that remember nothing."""
    shared.engine.requests.clear()
    async with caller(shared.app) as client:
        yield replace(shared, client=client)


def constant(answer: Any) -> Callable[[Mapping[str, Any]], Any]:
    """A reply that is always the same."""
    return lambda _body: answer


def kind(response: httpx.Response) -> str:
    """The type of a response's error."""
    return response.json()["error"]["type"]


# --- keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in (INVOKE, "/logout")),
        *(("GET", path) for path in ("/models", "/docs", "/openapi.json", "/metrics", "/nothing")),
        *(("GET", f"/{MODEL}/{path}") for path in ("input_schema", "playground/")),
    ],
)
async def test_without_a_key_nothing_is_answered(service: Guarded, method: str, path: str) -> None:
    """Not even whether it exists."""
    response = await service.client.request(method, path, json=QUESTION if method == "POST" else None)
    assert (response.status_code, kind(response)) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert service.engine.requests == []


@pytest.mark.parametrize("path", ["/health", "/ready", "/login", "/static/home.css"])
async def test_what_tells_nothing_is_answered_without_a_key(service: Guarded, path: str) -> None:
    """Whether the service lives, and the way to show a key."""
    assert (await service.client.get(path)).status_code == 200


async def test_a_picture_is_shown_to_who_has_its_address(tmp_path: Path) -> None:
    """Its name is the secret; nothing else below ``/pictures/`` is answered, and nothing can be done to it."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    name = f"{'a' * 32}.png"
    (pictures / name).write_bytes(b"PNG")
    async with guarded(tmp_path, pictures=pictures) as service:
        shown = await service.client.get(f"/pictures/{name}")
        assert (shown.status_code, shown.content) == (200, b"PNG")
        assert (await service.client.get(f"/pictures/{'b' * 32}.png")).status_code == 404
        for other in ("a.png", "", f"{name}/invoke", "../models", "input_schema"):
            assert (await service.client.get(f"/pictures/{other}")).status_code == 401
        assert (await service.client.delete(f"/pictures/{name}")).status_code == 405


async def test_not_ready_names_no_model_without_a_key(tmp_path: Path) -> None:
    """A load balancer needs the status alone."""
    fields = {"keys": tmp_path / "keys.sqlite", "require_keys": True}
    launcher = ScriptedLauncher(server("fetching"))
    app = create_app(settings(tmp_path, **fields), launcher=launcher, connections=ScriptedEngine(says("x")))
    with KeyStore.opened(tmp_path / "keys.sqlite") as keys:
        async with running(app), caller(app) as client:
            response = await client.get("/ready")
            assert (response.status_code, response.json()["models"]) == (503, [])
            known = {"x-api-key": keys.create("a")[1]}
            assert (await client.get("/ready", headers=known)).json()["models"][0]["id"] == MODEL


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_key_opens_by_either_header(service: Guarded, header: str) -> None:
    """OpenAI's way and Anthropic's."""
    _, text = service.keys.create("alice")
    value = f"Bearer {text}" if header == "authorization" else text
    response = await service.client.post(INVOKE, json=QUESTION, headers={header: value})
    assert response.json()["output"]["content"] == "Hello"


async def test_a_revoked_key_opens_nothing_any_more(service: Guarded) -> None:
    """Without a restart."""
    key, text = service.keys.create("alice")
    assert (await service.client.get("/models", headers={"x-api-key": text})).status_code == 200
    service.keys.revoke(key.id)
    response = await service.client.get("/models", headers={"x-api-key": text})
    assert (response.status_code, kind(response)) == (401, "unauthorized")


async def test_a_key_for_other_models_is_refused_everywhere(service: Guarded) -> None:
    """Calls, schemas, pages and lists."""
    other = service.key(models=("other",))
    for method, path in (("POST", INVOKE), ("GET", f"/{MODEL}/input_schema"), ("GET", f"/{MODEL}/playground/")):
        response = await service.client.request(
            method, path, json=QUESTION if method == "POST" else None, headers=other
        )
        assert (response.status_code, kind(response)) == (403, "not_allowed")
    assert (await service.client.get("/models", headers=other)).json() == []
    assert "Tiny" not in (await service.client.get("/", headers=other)).text
    assert service.engine.requests == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_whatever_protocol_asks_for_a_model_its_key_is_looked_at(service: Guarded, path: str) -> None:
    """Where the model stands in the body, the last look is where its server is asked for."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    refused = await service.client.post(path, json=body, headers=service.key(models=("other",)))
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert service.engine.requests == []
    assert (await service.client.post(path, json=body, headers=service.key(models=(MODEL,)))).status_code == 200
    listed = await service.client.get("/v1/models", headers=service.key(models=("other",)))
    assert listed.json()["data"] == []
    missing = {**body, "model": "tinny"}
    told = await service.client.post(path, json=missing, headers=service.key(models=("other",)))
    assert MODEL not in told.json()["error"]["message"].replace("tinny", "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", {"error": {"type": "authentication_error", "code": "unauthorized"}}),
        ("/v1/messages", {"type": "error", "error": {"type": "authentication_error"}}),
        ("/generate", {"error_type": "validation"}),
        (INVOKE, {"error": {"type": "unauthorized"}}),
    ],
)
async def test_every_protocol_is_refused_in_its_own_words(
    service: Guarded, path: str, expected: Mapping[str, Any]
) -> None:
    """A client raises its own authentication error."""
    response = await service.client.post(path, json={})
    assert response.status_code == 401
    body = response.json()
    for name, value in expected.items():
        assert value.items() <= body[name].items() if isinstance(value, dict) else body[name] == value


async def test_the_owner_of_a_request_is_its_key(tmp_path: Path) -> None:
    """For whatever is kept per owner, down to the engine; nothing is left of it afterwards."""
    owners: list[str] = []

    def reply(body: Mapping[str, Any]) -> Any:
        owners.append(current_owner.get())
        return says("x")(body)

    async with guarded(tmp_path, reply) as service:
        key, text = service.keys.create("alice")
        await service.client.post(INVOKE, json=QUESTION, headers={"x-api-key": text})
        await service.client.post(f"/{MODEL}/stream", json=QUESTION, headers={"x-api-key": text})
    assert owners == [key.id, key.id]
    assert current_owner.get() == ""


def test_an_app_that_needs_keys_and_has_no_file_of_them_is_not_made(tmp_path: Path) -> None:
    """It would be open."""
    with pytest.raises(NoKeysError):
        create_app(settings(tmp_path, host="0.0.0.0"))


# --- limits --------------------------------------------------------------------------------


async def test_one_request_too_many_gets_429(service: Guarded) -> None:
    """With the time to wait, and the engine is not asked; pages do not count."""
    alice = service.key(requests_per_minute=1)
    assert (await service.client.post(INVOKE, json=QUESTION, headers=alice)).status_code == 200
    response = await service.client.post(INVOKE, json=QUESTION, headers=alice)
    assert (response.status_code, kind(response)) == (429, "over_limit")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert (await service.client.get("/models", headers=alice)).status_code == 200
    assert len(service.engine.requests) == 1


async def test_tokens_are_counted_as_the_engine_counts_them(service: Guarded) -> None:
    """Prompt and answer of an invoke: 5 in the script."""
    alice = service.key(tokens_per_minute=4)
    assert (await service.client.post(INVOKE, json=QUESTION, headers=alice)).status_code == 200
    response = await service.client.post(INVOKE, json=QUESTION, headers=alice)
    assert (response.status_code, kind(response)) == (429, "over_limit")


async def test_a_stream_that_is_left_early_counts_what_came(tmp_path: Path) -> None:
    """Its usage never arrives: the pieces count as tokens, and the prompt by its size."""
    stream = Stream([chunk("a"), chunk("b"), chunk("c"), asyncio.Event()])
    async with guarded(tmp_path, constant(stream)) as service:
        exchange = Exchange(service.app, f"/{MODEL}/stream", QUESTION, service.key(tokens_per_minute=1000))
        await exchange.start()
        await exchange.until('"c"')
        exchange.leave()
        await exchange.end()
        (noted,) = service.audit()
    assert (noted["outcome"], noted["completion_tokens"], noted["status"]) == ("left", 3, 499)


async def test_requests_at_once_are_limited(tmp_path: Path) -> None:
    """A place is free again when a stream ends."""
    go = asyncio.Event()
    streams = iter([Stream([chunk("a"), go, chunk("b", "stop"), "[DONE]"])])

    def reply(body: Mapping[str, Any]) -> Any:
        return next(streams, None) or says("x")(body)

    async with guarded(tmp_path, reply) as service:
        alice = service.key(streams=1)
        exchange = Exchange(service.app, f"/{MODEL}/stream", QUESTION, alice)
        await exchange.start()
        await exchange.until('"a"')
        response = await service.client.post(INVOKE, json=QUESTION, headers=alice)
        assert (response.status_code, kind(response)) == (429, "over_limit")
        go.set()
        await exchange.end()
        assert (await service.client.post(INVOKE, json=QUESTION, headers=alice)).status_code == 200


async def test_a_full_line_at_the_engine_gets_429(tmp_path: Path) -> None:
    """With Retry-After, at once."""
    go = asyncio.Event()

    async def wait(body: Mapping[str, Any]) -> Any:
        await go.wait()
        return says("x")(body)

    few = {"engine_sequences": 1, "engine_oversubscription": 1}
    async with guarded(tmp_path, wait, keys=False, limits={"queue": 1}, **few) as service:
        asked = [asyncio.create_task(service.client.post(INVOKE, json=QUESTION)) for _ in range(3)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = (task.result() for task in done)
        assert (refused.status_code, kind(refused)) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        go.set()
        assert sorted(response.status_code for response in await asyncio.gather(*asked)) == [200, 200, 429]
    assert service.engine.most == 1


async def test_an_answer_beyond_its_size_ends_in_an_error_event(tmp_path: Path) -> None:
    """A stream says so; it is not cut silently."""
    stream = Stream([*(chunk("word " * 50) for _ in range(50)), chunk("", "stop"), "[DONE]"])
    async with guarded(tmp_path, constant(stream), keys=False, limits={"response_bytes": 5000}) as service:
        text = (await service.client.post(f"/{MODEL}/stream", json=QUESTION)).text
        assert '"type": "too_large"' in text.rsplit("event: error", 1)[1]
        assert len(text) < 10_000


# --- browsers ------------------------------------------------------------------------------


async def test_a_page_sends_people_to_where_they_can_show_a_key(service: Guarded) -> None:
    """And back to where they wanted to go."""
    response = await service.client.get(f"/{MODEL}/playground/?a=b", headers={"accept": "text/html"})
    assert response.status_code == 303
    assert response.headers["location"] == f"/login?next=%2F{MODEL}%2Fplayground%2F%3Fa%3Db"


async def sign_in(service: Guarded, key: str, wanted: str = "/") -> httpx.Response:
    """Send the login page's form."""
    return await service.client.post("/login", data={"key": key, "next": wanted})


async def test_a_browser_shows_its_key_once(service: Guarded) -> None:
    """The cookie is for this service alone, no script reads it, and it is not the key."""
    _, text = service.keys.create("alice")
    response = await sign_in(service, text, "/docs")
    assert (response.status_code, response.headers["location"]) == (303, "/docs")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert text.split("_", 2)[2] not in cookie
    assert (await service.client.get(f"/{MODEL}/playground/")).status_code == 200
    assert (await service.client.post(INVOKE, json=QUESTION)).status_code == 200
    assert "Sign out" in (await service.client.get("/")).text


async def test_under_https_the_cookie_is_sent_by_https_alone(service: Guarded) -> None:
    """Secure."""
    _, text = service.keys.create("alice")
    service.client.base_url = httpx.URL("https://test")
    assert "Secure" in (await sign_in(service, text)).headers["set-cookie"]


async def test_signing_out_ends_the_session(service: Guarded) -> None:
    """On the server too: a copied cookie is worth nothing."""
    _, text = service.keys.create("alice")
    await sign_in(service, text)
    copied = dict(service.client.cookies)
    assert (await service.client.post("/logout")).status_code == 303
    service.client.cookies.update(copied)
    assert (await service.client.get("/models")).status_code == 401


@pytest.mark.parametrize("key", ["", "lsv_000000000000_" + "x" * 43, "<script>"])
async def test_a_wrong_key_is_told_on_the_page(service: Guarded, key: str) -> None:
    """Without echoing it."""
    response = await sign_in(service, key)
    assert response.status_code == 401
    assert "not known" in response.text
    assert "set-cookie" not in response.headers
    assert not key or key not in response.text


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "", "javascript:x", "/a\r\nb: c"],
)
async def test_signing_in_leads_nowhere_else(service: Guarded, wanted: str) -> None:
    """No open redirect."""
    _, text = service.keys.create("alice")
    assert (await sign_in(service, text, wanted)).headers["location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://test", "sec-fetch-site": "cross-site"},
        {"origin": "http://test:81"},
        {"origin": "http://other.test", "sec-fetch-site": "same-site"},
    ],
)
async def test_a_page_of_another_site_cannot_ask(service: Guarded, headers: dict[str, str]) -> None:
    """With whatever cookie its browser holds."""
    _, text = service.keys.create("alice")
    await sign_in(service, text)
    response = await service.client.post(INVOKE, json=QUESTION, headers=headers)
    assert (response.status_code, kind(response)) == (403, "not_allowed")
    assert service.engine.requests == []


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://test"}, {"origin": "https://proxied", "sec-fetch-site": "same-origin"}]
)
async def test_its_own_pages_and_programs_can_ask(tmp_path: Path, headers: dict[str, str]) -> None:
    """A program sends no origin at all."""
    async with guarded(tmp_path, keys=False) as service:
        assert (await service.client.post(INVOKE, json=QUESTION, headers=headers)).status_code == 200


async def test_a_name_that_is_not_ours_is_refused_where_no_key_is_asked_for(tmp_path: Path) -> None:
    """A page that lets its own name lead to this machine (DNS rebinding) would read every answer."""
    async with guarded(tmp_path, keys=False, hosts=()) as service:
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
            assert (await service.client.get("/models", headers={"host": host})).status_code == 200
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "["):
            response = await service.client.get("/models", headers={"host": host})
            assert (response.status_code, kind(response)) == (403, "not_allowed")


async def test_other_origins_are_let_in_by_name(tmp_path: Path) -> None:
    """CORS is off unless they are named; what is refused carries the headers too, for a page to read why."""
    origin = {"origin": "https://app.example"}
    wish = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with guarded(tmp_path, keys=False) as service:
        assert (await service.client.options(INVOKE, headers=wish)).headers.get("access-control-allow-origin") is None
    async with guarded(tmp_path, cors_origins=("https://app.example",)) as service:
        asked = await service.client.options(INVOKE, headers=wish)
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        refused = await service.client.post(INVOKE, json=QUESTION, headers=origin)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")
        allowed = await service.client.post(INVOKE, json=QUESTION, headers={**origin, **service.key()})
        assert allowed.status_code == 200
        other = await service.client.post(INVOKE, json=QUESTION, headers={"origin": "https://evil.example"})
        assert other.status_code == 403


# --- ids, notes and measures ---------------------------------------------------------------


async def test_a_requests_id_goes_in_out_and_to_the_engine(tmp_path: Path) -> None:
    """The engine gets it with something behind: it refuses an id that is under way, and callers send any."""
    engine = NotingEngine()
    app = create_app(settings(tmp_path), launcher=ScriptedLauncher(server()), connections=engine)
    async with running(app), caller(app) as client:
        response = await client.post(INVOKE, json=QUESTION, headers={"x-request-id": "trace-7"})
        assert response.headers["x-request-id"] == "trace-7"
        await client.post(INVOKE, json=QUESTION, headers={"x-request-id": "trace-7"})
        odd = await client.post(INVOKE, json=QUESTION, headers={"x-request-id": 'a b"<' + "x" * 99})
    assert len(odd.headers["x-request-id"]) == 24
    one, two, three = engine.ids
    assert one.startswith("trace-7-")
    assert two.startswith("trace-7-")
    assert len({one, two, three}) == 3
    assert three.startswith(odd.headers["x-request-id"])


class NotingEngine(ScriptedEngine):
    """Notes the ids of requests."""

    def __init__(self) -> None:
        super().__init__(says("x"))
        self.ids: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Note it, then answer."""
        self.ids.append(request.headers["x-request-id"])
        return await super().handle_async_request(request)


async def test_the_audit_log_tells_who_asked_what_and_how_it_ended(tmp_path: Path) -> None:
    """And nothing of what was said; pages are not noted, refusals are."""
    async with guarded(tmp_path) as service:
        await check_notes(service)


async def check_notes(service: Guarded) -> None:
    """Ask in several ways, and read what was noted."""
    key, text = service.keys.create("alice")
    known = {"x-api-key": text, "x-request-id": "r1"}
    await service.client.post(INVOKE, json={"input": "a secret question"}, headers=known)
    await service.client.post(INVOKE, json={"input": 5}, headers={"x-api-key": text})
    await service.client.get("/models", headers={"x-api-key": text})
    await service.client.post(INVOKE, json=QUESTION)
    answered, wrong, refused = service.audit()
    expected = {"request_id": "r1", "key": key.id, "key_name": "alice", "protocol": "langserve", "model": MODEL}
    expected |= {"status": 200, "outcome": "complete", "finish": "stop", "prompt_tokens": 3, "completion_tokens": 2}
    assert expected.items() <= answered.items()
    assert (wrong["status"], wrong["error"], wrong["outcome"]) == (422, "invalid_input", "error")
    assert (refused["status"], refused["error"], refused["key"]) == (401, "unauthorized", None)
    written = (service.folder / "audit.jsonl").read_text()
    assert "secret" not in written
    assert "Hello" not in written
    assert (service.folder / "audit.jsonl").stat().st_mode & 0o777 == 0o600


async def test_metrics_tell_requests_tokens_and_errors_by_model_and_protocol(tmp_path: Path) -> None:
    """As Prometheus reads them; a key that was not made for it does not open them."""
    async with guarded(tmp_path) as service:
        await check_measures(service)


async def check_measures(service: Guarded) -> None:
    """Ask in several ways, and read what was measured."""
    alice, prometheus = service.key(), service.key(metrics=True)
    await service.client.post(INVOKE, json=QUESTION, headers=alice)
    await service.client.post(f"/{MODEL}/stream", json=QUESTION, headers=alice)
    await service.client.post(INVOKE, json={}, headers=alice)
    assert (await service.client.get("/metrics", headers=alice)).status_code == 403
    text = (await service.client.get("/metrics", headers=prometheus)).text
    both = f'model="{MODEL}",protocol="langserve"'
    assert f'langserve_vllm_requests_total{{model="{MODEL}",outcome="complete",protocol="langserve"}} 2.0' in text
    assert f'langserve_vllm_errors_total{{kind="invalid_input",{both}}} 1.0' in text
    assert f'langserve_vllm_tokens_total{{kind="prompt",{both}}} 3.0' in text
    assert f'langserve_vllm_finishes_total{{{both},reason="stop"}} 2.0' in text
    assert f"langserve_vllm_time_to_first_token_seconds_count{{{both}}} 1.0" in text
    assert f"langserve_vllm_active_streams{{{both}}} 0.0" in text
    assert f'langserve_vllm_server_state{{model="{MODEL}",state="ready"}} 1.0' in text


async def test_metrics_can_be_switched_off(tmp_path: Path) -> None:
    """Nothing is measured then."""
    async with guarded(tmp_path, keys=False, metrics=False) as service:
        assert (await service.client.post(INVOKE, json=QUESTION)).status_code == 200
        assert (await service.client.get("/metrics")).status_code == 404


async def test_a_probe_that_hears_not_yet_is_no_error(tmp_path: Path) -> None:
    """Of the service, of KServe's, of one model: load balancers ask all the time, and nothing failed."""
    fields = {"audit_log": tmp_path / "audit.jsonl"}
    app = create_app(
        settings(tmp_path, **fields),
        launcher=ScriptedLauncher(server("starting")),
        connections=ScriptedEngine(says("x")),
    )
    async with running(app), caller(app) as client:
        for path in ("/ready", "/v2/health/ready", f"/v2/models/{MODEL}/ready", f"/models/{MODEL}/health"):
            assert (await client.get(path)).status_code == 503
        text = (await client.get("/metrics")).text
    app.state.guarding.audit.close()
    assert "langserve_vllm_errors_total{" not in text
    assert 'langserve_vllm_requests_total{model="",outcome="complete",protocol="kserve"} 2.0' in text
    assert not (tmp_path / "audit.jsonl").exists()


async def test_a_refused_request_is_noted_with_its_model(tmp_path: Path) -> None:
    """Where the path names it, or the body was read before the refusal: 401, 403 and 429."""
    async with guarded(tmp_path) as service:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        other, once, prometheus = (
            service.key(**limits) for limits in ({"models": ("other",)}, {"requests_per_minute": 1}, {"metrics": True})
        )
        await service.client.post(INVOKE, json=QUESTION)
        await service.client.post(INVOKE, json=QUESTION, headers=other)
        await service.client.post("/v1/chat/completions", json=body, headers=other)
        for _ in range(2):
            await service.client.post(f"/v2/models/{MODEL}/generate", json={"text_input": "Hi"}, headers=once)
        text = (await service.client.get("/metrics", headers=prometheus)).text
        noted = [(line["model"], line["status"]) for line in service.audit()]
    assert noted == [(MODEL, status) for status in (401, 403, 403, 200, 429)]
    assert f'langserve_vllm_errors_total{{kind="not_allowed",model="{MODEL}",protocol="openai"}} 1.0' in text
    assert f'langserve_vllm_errors_total{{kind="over_limit",model="{MODEL}",protocol="kserve"}} 1.0' in text


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_an_error_is_counted_by_its_type_wherever_it_comes(tmp_path: Path, way: str) -> None:
    """Before the answer and in the middle of a stream that began with 200."""
    broken = Stream([chunk("a"), httpx2.ReadError("gone")])
    answers: dict[str, Any] = {"invoke": httpx2.ReadError("gone"), "stream": broken}
    async with guarded(tmp_path, constant(answers[way]), keys=False) as service:
        await service.client.post(f"/{MODEL}/{way}", json=QUESTION)
        text = (await service.client.get("/metrics")).text
        (noted,) = service.audit()
    kind = {"invoke": "engine_unreachable", "stream": "engine_died"}[way]
    assert f'langserve_vllm_errors_total{{kind="{kind}",model="{MODEL}",protocol="langserve"}} 1.0' in text
    assert (noted["outcome"], noted["error"]) == ("error", kind)


# --- gRPC ----------------------------------------------------------------------------------


async def test_grpc_comes_by_the_same_gate(tmp_path: Path) -> None:
    """Its metadata holds the key; models, limits and notes are the same."""
    async with guarded(tmp_path) as service:
        gate, (key, text) = service.app.state.guarding.gate, service.keys.create("alice", models=("other",))
        method = "/inference.GRPCInferenceService/ModelInfer"
        with pytest.raises(Unauthorized):
            await gate.enter_grpc(method, {"authorization": "Bearer nothing", "trace-bin": b"x"})
        call = await gate.enter_grpc(method, {"authorization": f"Bearer {text}", "x-request-id": "g1"})
        assert call.key == key
        with pytest.raises(NotAllowed):
            async with gate.pass_through(call, counts=True):
                await service.app.state.table.ensure_ready(MODEL, 0)
        refused, failed = service.audit()
    assert (refused["error"], refused["route"], refused["protocol"]) == ("unauthorized", method, "grpc")
    assert (failed["error"], failed["request_id"], failed["key"]) == ("not_allowed", "g1", key.id)
