"""LangServe's routes with its faults mended, in front of an engine that follows a script."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.protocols.langserve.events import mend
from app.server import create_app
from tests.unit.scripted import (
    MODEL,
    SOON,
    Exchange,
    ScriptedEngine,
    ScriptedLauncher,
    Stage,
    Stream,
    answer,
    caller,
    chunk,
    events,
    limits,
    refusal,
    running,
    says,
    served,
    server,
    settings,
    status,
    until,
)

QUESTION = {"messages": [{"role": "user", "content": "Where is Paris?"}]}
NOTHING: Mapping[str, Any] = {"messages": []}
TOO_LONG = "This model's maximum context length is 2048 tokens. However, your prompt contains 9000."
STREAMS = ("stream", "stream_log", "stream_events")

pytestmark = [  # langserve's own
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute"),
]


@pytest.fixture(scope="module", params=["sdk", "short", "fast"])
async def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The app, on every way to the engine there is."""
    return Stage(tmp_path_factory.mktemp("app"), way=request.param)


def text_of(streamed: list[tuple[str, Any]]) -> str:
    """Return the text of a /stream's data events."""
    return "".join(data["content"] for name, data in streamed if name == "data")


# --- answers -------------------------------------------------------------------------------


async def test_an_openai_dict_is_an_input(stage: Stage) -> None:
    """The role goes through to the engine; plain LangServe answers 500."""
    engine = ScriptedEngine(says("In France."))
    async with stage.client(engine) as client:
        response = await client.post(f"/{MODEL}/invoke", json={"input": QUESTION})
    assert response.status_code == 200
    assert response.json()["output"]["content"] == "In France."
    assert engine.requests[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is Paris?"},
    ]


@pytest.mark.parametrize(
    "value",
    [
        "Where is Paris?",
        {"input": "Where is Paris?"},
        {"messages": [["user", "Where is Paris?"]]},
        {"messages": [{"type": "human", "content": "Where is Paris?"}]},
    ],
)
async def test_every_form_of_the_input_asks_the_same(stage: Stage, value: Any) -> None:
    """Strings, pairs, LangChain's dicts and OpenAI's are one."""
    engine = ScriptedEngine(says("In France."))
    async with stage.client(engine) as client:
        response = await client.post(f"/{MODEL}/invoke", json={"input": value})
    assert response.status_code == 200
    assert engine.requests[0]["messages"][-1] == {"role": "user", "content": "Where is Paris?"}


async def test_sampling_of_the_registry_holds_until_a_request_changes_it(stage: Stage) -> None:
    """A request's configurable fields reach the engine."""
    engine = ScriptedEngine(says("x"))
    config = {"configurable": {"temperature": 0, "seed": 7}}
    async with stage.client(engine) as client:
        await client.post(f"/{MODEL}/invoke", json={"input": QUESTION})
        await client.post(f"/{MODEL}/invoke", json={"input": QUESTION, "config": config})
        await client.post(f"/{MODEL}/invoke", json={"input": QUESTION, "config": None})
    assert [request["temperature"] for request in engine.requests] == [0.5, 0, 0.5]
    assert engine.requests[1]["seed"] == 7


async def test_requests_go_to_the_server_that_is_ready_now(stage: Stage) -> None:
    """A server that came back on another port needs no new chain."""
    engine = ScriptedEngine(says("x"))
    async with stage.app(engine) as app:
        for port in (41003, 41004):
            app.state.table.update(status(server(endpoint=f"http://127.0.0.1:{port}")))
            exchange = Exchange(app, f"/{MODEL}/invoke", {"input": QUESTION})
            assert await exchange.start() == 200
            await exchange.end()
    assert [httpx2.URL(url).port for url in engine.urls] == [41003, 41004]
    assert engine.urls[0].endswith("/v1/chat/completions")


async def test_no_chunk_is_dropped(stage: Stage) -> None:
    """Every chunk of the engine is one data event, the first one included."""
    pieces = [f"{number} " for number in range(50)]
    async with stage.client(ScriptedEngine(says(*pieces))) as client:
        response = await client.post(f"/{MODEL}/stream", json={"input": QUESTION})
    streamed = events(response.text)
    assert streamed[0][0] == "metadata"
    assert streamed[-1][0] == "end"
    assert [data["content"] for name, data in streamed if name == "data" and data["content"]] == pieces


async def test_tokens_arrive_while_the_engine_still_works(stage: Stage) -> None:
    """The first one is out before the second one exists."""
    more = asyncio.Event()
    stream = Stream([chunk("first"), more, chunk("second"), chunk("", "stop"), "[DONE]"])
    async with stage.app(ScriptedEngine(lambda _: stream)) as app:
        exchange = Exchange(app, f"/{MODEL}/stream", {"input": QUESTION})
        assert await exchange.start() == 200
        assert "second" not in await exchange.until("first")
        more.set()
        await exchange.until("event: end")
        await exchange.end()


@pytest.mark.parametrize("route", STREAMS)
async def test_every_stream_carries_the_whole_text_and_ends(stage: Stage, route: str) -> None:
    """Through the chat playground's prefix and a config hash too."""
    async with stage.client(ScriptedEngine(says("Par", "is"))) as client:
        for prefix in (f"/{MODEL}", f"/{MODEL}/chat", f"/{MODEL}/c/N4XyA"):
            response = await client.post(f"{prefix}/{route}", json={"input": QUESTION})
            assert response.headers["content-type"].startswith("text/event-stream"), response.text
            streamed = events(response.text)
            assert streamed[-1][0] == "end"
            assert "Par" in response.text
            assert "error" not in [name for name, _ in streamed]


# --- errors before the first chunk ---------------------------------------------------------


@pytest.mark.parametrize("route", ["invoke", *STREAMS])
@pytest.mark.parametrize(
    ("reply", "code", "kind"),
    [
        ((400, refusal(TOO_LONG, code=400, param="input_tokens")), 400, "context_too_long"),
        ((400, refusal("top_k must be -1 or more.", code=400, param="top_k")), 400, "refused"),
        ((429, refusal("queue full", code=429)), 429, "engine_busy"),
        ((500, refusal("Traceback /root/x.py", code=500)), 502, "engine_failed"),
        (httpx2.ConnectError("127.0.0.1:41003 refused"), 502, "engine_unreachable"),
        (httpx2.ReadError("reset"), 502, "engine_unreachable"),
        (httpx2.ReadTimeout("silent"), 504, "engine_timeout"),
    ],
)
async def test_an_error_before_the_first_chunk_has_a_status(
    stage: Stage, route: str, reply: Any, code: int, kind: str
) -> None:
    """Plain LangServe answers invoke with 500 and streams with 200."""
    async with stage.client(ScriptedEngine(lambda _: reply)) as client:
        response = await client.post(f"/{MODEL}/{route}", json={"input": QUESTION})
    assert response.status_code == code
    assert response.json()["error"]["type"] == kind
    assert "41003" not in response.text
    assert "/root" not in response.text


async def test_context_too_long_is_told_in_the_engines_words(stage: Stage) -> None:
    """The sentence says how many tokens fit."""
    async with stage.client(ScriptedEngine(lambda _: (400, refusal(TOO_LONG, code=400)))) as client:
        response = await client.post(f"/{MODEL}/invoke", json={"input": QUESTION})
    assert response.json()["error"]["message"] == TOO_LONG


async def test_a_busy_engine_says_when_to_come_back(stage: Stage) -> None:
    """429 carries Retry-After."""
    async with stage.client(ScriptedEngine(lambda _: (429, refusal("full", code=429)))) as client:
        response = await client.post(f"/{MODEL}/invoke", json={"input": QUESTION})
    assert int(response.headers["retry-after"]) >= 1


async def test_an_error_in_place_of_the_first_chunk_has_a_status_too(stage: Stage) -> None:
    """The engine answered 200, and its core was dead already."""
    dead = {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}
    async with stage.client(ScriptedEngine(lambda _: Stream([dead, "[DONE]"]))) as client:
        response = await client.post(f"/{MODEL}/stream", json={"input": QUESTION})
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "engine_died"


async def test_a_whole_answer_that_the_engine_gave_up_is_an_error(stage: Stage) -> None:
    """A vLLM that shuts down answers what it has begun with HTTP 200 and the finish reason "abort"."""
    said = answer("half an ans")
    said["choices"][0]["finish_reason"] = "abort"
    async with stage.client(ScriptedEngine(lambda _: (200, said))) as client:
        response = await client.post(f"/{MODEL}/invoke", json={"input": QUESTION})
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "engine_died"


# --- errors after the first chunk ----------------------------------------------------------


@pytest.mark.parametrize("route", STREAMS)
@pytest.mark.parametrize(
    ("ending", "code", "kind"),
    [
        ([{"error": {"message": "EngineCore died", "code": 500}}, "[DONE]"], 502, "engine_died"),
        ([httpx2.RemoteProtocolError("incomplete chunked read")], 502, "engine_died"),
        ([httpx2.ReadTimeout("silent")], 504, "engine_timeout"),
        (["[DONE]"], 502, "engine_died"),
        ([], 502, "engine_died"),
        ([chunk("", "abort"), "[DONE]"], 502, "engine_died"),
        (["no json"], 500, "internal_error"),
    ],
)
async def test_an_error_after_the_first_chunk_is_one_typed_event(
    stage: Stage, route: str, ending: list[Any], code: int, kind: str
) -> None:
    """What came before it arrived; nothing follows it; a stream without a finish is not taken for a whole one."""
    engine = ScriptedEngine(lambda _: Stream([chunk("half an ans"), *ending]))
    async with stage.client(engine) as client:
        response = await client.post(f"/{MODEL}/{route}", json={"input": QUESTION})
    assert response.status_code == 200
    assert "half an ans" in response.text
    *_, (name, error) = events(response.text)
    assert name == "error"
    assert (error["status_code"], error["type"]) == (code, kind)
    assert [event for event, _ in events(response.text)].count("error") == 1


async def test_a_server_that_goes_silent_and_away_ends_its_streams(stage: Stage) -> None:
    """An engine told to end may keep its streams open without a word; the launcher knows that it has gone."""
    stream = Stream([chunk("half"), asyncio.Event()])
    launcher = ScriptedLauncher(server())
    async with stage.app(ScriptedEngine(lambda _: stream), launcher) as app:
        exchange = Exchange(app, f"/{MODEL}/stream", {"input": QUESTION})
        await exchange.start()
        await exchange.until("half")
        launcher.say(server("starting", restarts=1))
        assert "engine_died" in await exchange.until("event: error")
        await exchange.end()


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": {"messages": [{"role": "usr", "content": "x"}]}}, "input.messages.0"),
        ({"input": {"messages": []}}, "input.messages"),
        ({"input": {"messages": [{"type": "human"}]}}, "input.messages.0"),
        ({"input": 7}, "input"),
        ({"input": None}, "input"),
        ({}, "input"),
        ([], "body"),
        ("text", "body"),
        ({"input": QUESTION, "config": []}, "config"),
        ({"input": QUESTION, "config": {"configurable": {"temperature": "hot"}}}, "config.configurable.temperature"),
        ({"input": QUESTION, "config": {"configurable": {"temperature": 9}}}, "config.configurable.temperature"),
    ],
)
@pytest.mark.parametrize("route", ["invoke", *STREAMS])
async def test_a_bad_input_is_told_with_its_place(stage: Stage, route: str, body: Any, param: str) -> None:
    """422 names where in the body it is, and the engine never hears of it."""
    engine = ScriptedEngine(says("x"))
    async with stage.client(engine) as client:
        response = await client.post(f"/{MODEL}/{route}", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["error"]["param"].startswith(param)
    assert engine.requests == []


@pytest.mark.parametrize("route", ["stream_log", "stream_events"])
async def test_a_bad_filter_is_told_with_its_name(stage: Stage, route: str) -> None:
    """The streams of steps take filters."""
    async with stage.client(ScriptedEngine(says("x"))) as client:
        response = await client.post(f"/{MODEL}/{route}", json={"input": QUESTION, "include_names": 7})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "include_names")


@pytest.mark.parametrize("route", ["invoke", "input_schema", "playground/"])
async def test_a_broken_share_link_is_refused(stage: Stage, route: str) -> None:
    """Its hash holds no configuration."""
    async with stage.client(ScriptedEngine(says("x"))) as client:
        path = f"/{MODEL}/c/nonsense/{route}"
        response = await (client.post(path, json={"input": QUESTION}) if route == "invoke" else client.get(path))
    assert (response.status_code, response.json()["error"]["type"]) == (400, "refused")


async def test_a_body_that_is_no_json_is_told_with_its_position(stage: Stage) -> None:
    """Line and column."""
    async with stage.client(ScriptedEngine(says("x"))) as client:
        response = await client.post(f"/{MODEL}/invoke", content=b'{"input":\n "x",}')
    assert response.status_code == 422
    assert "line 2, column 6" in response.json()["error"]["message"]


async def test_a_large_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """With a Content-Length and without one."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with served(tmp_path, ScriptedEngine(says("x")), limits=limits(body_bytes=1000)) as client:
        for content in (b" " * 1001, pieces()):
            response = await client.post(f"/{MODEL}/invoke", content=content)
            assert response.status_code == 413
            assert response.json()["error"]["type"] == "too_large"


async def test_a_body_that_never_ends_is_given_up(tmp_path: Path) -> None:
    """A caller who sends slower than the limit holds nothing for ever."""

    async def drip() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with served(tmp_path, ScriptedEngine(says("x")), limits=limits(body_seconds=0)) as client:
        response = await client.post(f"/{MODEL}/invoke", content=drip())
    assert response.status_code == 408


async def test_messages_are_counted(tmp_path: Path) -> None:
    """In both forms of a conversation."""
    messages = [{"role": "user", "content": "x"}] * 3
    async with served(tmp_path, ScriptedEngine(says("x")), limits=limits(messages=2)) as client:
        for value in (messages, {"messages": messages}):
            response = await client.post(f"/{MODEL}/invoke", json={"input": value})
            assert response.status_code == 413


async def test_an_unknown_model_is_told_the_near_one(stage: Stage) -> None:
    """A typing mistake is the usual reason."""
    async with stage.client(ScriptedEngine(says("x"))) as client:
        response = await client.post("/tini/invoke", json={"input": QUESTION})
        nowhere = await client.get(f"/{MODEL}/nowhere")
        wrong = await client.get(f"/{MODEL}/invoke")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "unknown_model"
    assert MODEL in response.json()["error"]["hint"]
    assert nowhere.json()["error"]["type"] == "unknown_route"
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "wrong_method")


# --- readiness -----------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["invoke", "batch", *STREAMS])
async def test_a_model_that_loads_answers_503_with_its_phase(stage: Stage, route: str) -> None:
    """And Retry-After, and how far it is."""
    launcher = ScriptedLauncher(server("starting", phase="loading weights"))
    async with stage.client(ScriptedEngine(says("x")), launcher) as client:
        response = await client.post(f"/{MODEL}/{route}", json={"input": QUESTION, "inputs": [QUESTION]})
    error = response.json()["error"]
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert (error["type"], error["state"], error["phase"]) == ("model_not_ready", "starting", "loading weights")
    assert launcher.asked == [MODEL]


async def test_prefer_wait_waits_for_the_model(stage: Stage) -> None:
    """The request is answered when the model is ready, within the time it chose."""
    launcher = ScriptedLauncher(server("starting"))
    async with stage.client(ScriptedEngine(says("here")), launcher) as client:
        waiting = asyncio.create_task(
            client.post(f"/{MODEL}/invoke", json={"input": QUESTION}, headers={"Prefer": "wait=60"})
        )
        await launcher.asked_once.wait()
        launcher.say(server())
        response = await waiting
    assert response.json()["output"]["content"] == "here"


async def test_the_longest_wait_is_the_services_to_choose(tmp_path: Path) -> None:
    """A caller cannot hold a connection for a day."""
    app = create_app(
        settings(tmp_path, wait_ready_max=0),
        launcher=ScriptedLauncher(server("starting")),
        connections=ScriptedEngine(says("x")),
    )
    async with running(app), caller(app) as client:
        response = await client.post(f"/{MODEL}/invoke", json={"input": QUESTION}, headers={"Prefer": "wait=86400"})
    assert response.status_code == 503


async def test_looking_at_pages_never_starts_a_model(stage: Stage) -> None:
    """Schemas, playgrounds and a bad input ask the launcher for nothing."""
    launcher = ScriptedLauncher(server("absent"))
    pages = ("input_schema", "output_schema", "config_schema", "playground/", "chat/playground/", "chat/input_schema")
    async with stage.client(ScriptedEngine(says("x")), launcher) as client:
        for page in pages:
            response = await client.get(f"/{MODEL}/{page}")
            assert response.status_code == 200, page
        await client.post(f"/{MODEL}/invoke", json={"input": 7})
    assert launcher.asked == []


async def test_without_a_launcher_requests_say_so(stage: Stage) -> None:
    """503, not a hang."""
    launcher = ScriptedLauncher(server())
    async with stage.app(ScriptedEngine(says("x")), launcher) as app, caller(app) as client:
        launcher.vanish()
        await until(app, reachable=False)
        response = await client.post(f"/{MODEL}/invoke", json={"input": QUESTION})
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "launcher_gone"


# --- batches -------------------------------------------------------------------------------


def echo(body: Mapping[str, Any]) -> Any:
    """Answer with the last message, and refuse the word 'bad'."""
    text = body["messages"][-1]["content"]
    return (400, refusal(TOO_LONG, code=400)) if text == "bad" else (200, answer(text))


async def test_a_batch_keeps_its_order_and_langserves_shape(stage: Stage) -> None:
    """Outputs, run ids and metadata, one for each input."""
    async with stage.client(ScriptedEngine(echo)) as client:
        body = (await client.post(f"/{MODEL}/batch", json={"inputs": ["a", "b", "c"]})).json()
    assert [output["content"] for output in body["output"]] == ["a", "b", "c"]
    assert body["metadata"]["run_ids"] == [response["run_id"] for response in body["metadata"]["responses"]]
    assert len(set(body["metadata"]["run_ids"])) == 3


async def test_each_input_may_have_its_own_config(stage: Stage) -> None:
    """A list of configs, one for each; another number is refused."""
    engine = ScriptedEngine(echo)
    configs = [{"configurable": {"seed": 1}}, {"configurable": {"seed": 2}}]
    async with stage.client(engine) as client:
        await client.post(f"/{MODEL}/batch", json={"inputs": ["a", "b"], "config": configs})
        response = await client.post(f"/{MODEL}/batch", json={"inputs": ["a"], "config": configs})
    assert {request["seed"] for request in engine.requests} == {1, 2}
    assert (response.status_code, response.json()["error"]["param"]) == (422, "config")


async def test_a_batch_is_computed_a_few_at_a_time(tmp_path: Path) -> None:
    """Concurrency is bounded and used."""
    full = asyncio.Event()

    async def slow(body: Mapping[str, Any]) -> Any:
        if engine.running == 3:
            full.set()
        await full.wait()
        for _ in range(50):  # for one that is too many
            await asyncio.sleep(0)
        return echo(body)

    engine = ScriptedEngine(slow)
    async with served(tmp_path, engine, limits=limits(batch_concurrency=3)) as client, asyncio.timeout(SOON):
        await client.post(f"/{MODEL}/batch", json={"inputs": ["x"] * 20})
    assert len(engine.requests) == 20
    assert engine.most == 3


async def test_a_batch_beyond_the_limit_is_refused_whole(tmp_path: Path) -> None:
    """Plain LangServe takes five thousand."""
    engine = ScriptedEngine(echo)
    async with served(tmp_path, engine, limits=limits(batch_size=2)) as client:
        response = await client.post(f"/{MODEL}/batch", json={"inputs": ["x"] * 3})
    assert response.status_code == 413
    assert engine.requests == []


async def test_one_bad_input_fails_the_batch_with_its_place(stage: Stage) -> None:
    """Before anything is computed."""
    engine, inputs = ScriptedEngine(echo), ["a", NOTHING]
    async with stage.client(engine) as client:
        response = await client.post(f"/{MODEL}/batch", json={"inputs": inputs})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "inputs.1.messages")
    assert engine.requests == []


async def test_one_refused_input_fails_the_batch_with_its_status(stage: Stage) -> None:
    """The first error is the batch's, and the others are cancelled."""
    async with stage.client(ScriptedEngine(echo)) as client:
        response = await client.post(f"/{MODEL}/batch", json={"inputs": ["a", "bad", "c"]})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "context_too_long")


@pytest.mark.parametrize(
    ("extra", "headers"),
    [({"kwargs": {"return_exceptions": True}}, {}), ({}, {"Prefer": "wait=5, return-exceptions"})],
)
async def test_each_input_may_fail_alone(stage: Stage, extra: dict[str, Any], headers: dict[str, str]) -> None:
    """Asked for in the body or, as RemoteRunnable can, in a header."""
    inputs = ["a", "bad", NOTHING, "d"]
    async with stage.client(ScriptedEngine(echo)) as client:
        response = await client.post(f"/{MODEL}/batch", json={"inputs": inputs, **extra}, headers=headers)
    first, refused, invalid, last = response.json()["output"]
    assert (first["content"], last["content"]) == ("a", "d")
    assert (refused["error"]["type"], refused["error"]["status_code"]) == ("context_too_long", 400)
    assert (invalid["error"]["param"], invalid["error"]["status_code"]) == ("inputs.2.messages", 422)
    assert response.json()["metadata"]["run_ids"][1] is None
    assert response.headers["preference-applied"] == "return-exceptions"


async def test_an_empty_batch_is_empty(stage: Stage) -> None:
    """As LangServe has it."""
    async with stage.client(ScriptedEngine(echo)) as client:
        response = await client.post(f"/{MODEL}/batch", json={"inputs": []})
    assert response.json() == {"output": [], "metadata": {"responses": [], "run_ids": []}}


@pytest.mark.parametrize("inputs", ["abc", {"a": 1}, None, 7])
async def test_inputs_that_are_no_list_are_refused(stage: Stage, inputs: Any) -> None:
    """A string is not a list of letters."""
    async with stage.client(ScriptedEngine(echo)) as client:
        response = await client.post(f"/{MODEL}/batch", json={"inputs": inputs})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "inputs")


# --- leaving -------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["invoke", "batch"])
async def test_leaving_cancels_an_answer_in_one_piece(stage: Stage, route: str) -> None:
    """Plain LangServe computes it to the end for nobody."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_: Mapping[str, Any]) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    engine = ScriptedEngine(work)
    async with stage.app(engine) as app:
        exchange = Exchange(app, f"/{MODEL}/{route}", {"input": QUESTION, "inputs": [QUESTION]})
        await started.wait()
        exchange.leave()
        await exchange.end()
    assert cancelled.is_set()


@pytest.mark.parametrize("route", STREAMS)
@pytest.mark.parametrize("steps", [1, 200])
async def test_leaving_frees_the_engine(stage: Stage, route: str, steps: int) -> None:
    """While the engine thinks, and while the caller does not read what it has said."""
    stream = Stream([*(chunk("token ") for _ in range(steps)), asyncio.Event()])
    async with stage.app(ScriptedEngine(lambda _: stream)) as app:
        exchange = Exchange(app, f"/{MODEL}/{route}", {"input": QUESTION})
        await exchange.start()
        await exchange.until("token")
        exchange.leave()
        await exchange.end()
        async with asyncio.timeout(SOON):
            await stream.closed.wait()


async def test_a_generator_that_refuses_to_be_closed_is_ended_all_the_same() -> None:
    """LangServe's answer GeneratorExit with an error event, which Python forbids."""

    async def stubborn() -> AsyncGenerator[Mapping[str, Any], None]:
        try:
            while True:
                yield {"event": "data", "data": "{}"}
        except BaseException:
            yield {"event": "error", "data": "{}"}
            raise

    inner = stubborn()
    outer = mend(inner)
    await anext(outer)
    await outer.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(inner)


async def test_leaving_before_the_first_chunk_frees_the_engine(stage: Stage) -> None:
    """The answer has not begun, and never will."""
    asked = asyncio.Event()
    stream = Stream([asyncio.Event()])

    def reply(_: Mapping[str, Any]) -> Stream:
        asked.set()
        return stream

    async with stage.app(ScriptedEngine(reply)) as app:
        exchange = Exchange(app, f"/{MODEL}/stream", {"input": QUESTION})
        await asked.wait()
        exchange.leave()
        await exchange.end()
        async with asyncio.timeout(SOON):
            await stream.closed.wait()


async def test_leaving_ends_the_wait_for_a_model(stage: Stage) -> None:
    """Nobody waits for nobody."""
    launcher = ScriptedLauncher(server("starting"))
    async with stage.app(ScriptedEngine(says("x")), launcher) as app:
        exchange = Exchange(app, f"/{MODEL}/invoke", {"input": QUESTION}, {"prefer": "wait=300"})
        await launcher.asked_once.wait()
        exchange.leave()
        await exchange.end()


# --- time ----------------------------------------------------------------------------------


async def test_a_stream_that_waits_long_begins_with_a_ping(tmp_path: Path) -> None:
    """After the hold the answer begins all the same, and comment lines keep the connection open."""
    go = asyncio.Event()
    stream = Stream([go, chunk("late"), chunk("", "stop"), "[DONE]"])
    engine = ScriptedEngine(lambda _: stream)
    app = create_app(
        settings(tmp_path, stream_hold=0.01, ping=0.01), launcher=ScriptedLauncher(server()), connections=engine
    )
    async with running(app):
        exchange = Exchange(app, f"/{MODEL}/stream", {"input": QUESTION})
        assert await exchange.start() == 200
        await exchange.until(": ping")
        go.set()
        assert "late" in await exchange.until("event: end")
        await exchange.end()


@pytest.mark.parametrize("route", STREAMS)
async def test_a_stream_is_told_of_the_shutdown(tmp_path: Path, route: str) -> None:
    """It ends in a named error, not in a cut."""
    stream = Stream([chunk("half"), asyncio.Event()])
    app = create_app(
        settings(tmp_path), launcher=ScriptedLauncher(server()), connections=ScriptedEngine(lambda _: stream)
    )
    async with running(app):
        exchange = Exchange(app, f"/{MODEL}/{route}", {"input": QUESTION})
        await exchange.start()
        await exchange.until("half")
        app.state.shutdown.begin()
        assert "shutting_down" in await exchange.until("event: error")
        await exchange.end()


async def test_nothing_new_starts_once_the_end_has_begun(tmp_path: Path) -> None:
    """A connection kept alive may still send requests."""
    app = create_app(
        settings(tmp_path, drain=60), launcher=ScriptedLauncher(server()), connections=ScriptedEngine(says("x"))
    )
    async with running(app):
        app.state.shutdown.begin()
        exchange = Exchange(app, f"/{MODEL}/invoke", {"input": QUESTION})
        assert await exchange.start() == 503
        assert json.loads(await exchange.piece())["error"]["type"] == "shutting_down"
        await exchange.end()


def test_streams_work_in_one_event_loop_after_another(tmp_path: Path) -> None:
    """sse-starlette keeps a process-global event of the first loop; nothing here waits for it."""

    async def once() -> str:
        async with served(tmp_path, ScriptedEngine(says("Par", "is"))) as client:
            return text_of(events((await client.post(f"/{MODEL}/stream", json={"input": QUESTION})).text))

    assert [asyncio.run(once()) for _ in range(3)] == ["Paris"] * 3
