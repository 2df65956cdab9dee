"""A chain that remembers, over LangServe, in front of an engine that follows a script."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from app.guard.owner import current_owner
from app.server import create_app
from tests.unit.memory_network import MemoryNetwork
from tests.unit.scripted import (
    MODEL,
    REGISTRY,
    Exchange,
    ScriptedEngine,
    ScriptedLauncher,
    Stream,
    answer,
    caller,
    chunk,
    events,
    running,
    server,
    settings,
)

pytestmark = [  # langserve's own
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute"),
]
CONTEXT = 1000
Reply = Callable[[Mapping[str, Any]], Any]


def answer_as_usual(_body: Mapping[str, Any]) -> None:
    """No script."""


def fail(body: Mapping[str, Any]) -> Any:
    """Break a stream in its middle; refuse the rest."""
    return Stream([chunk("half"), httpx2.ReadError("gone")]) if body.get("stream") else (500, {"error": {}})


class TalkingEngine(ScriptedEngine):
    """Answers what it was asked last, and counts a token a character. ``script`` may answer otherwise."""

    def __init__(self, script: Reply = answer_as_usual, *, counts: bool = True) -> None:
        super().__init__(self.talk)
        self.script = script
        self.counts = counts

    def talk(self, body: Mapping[str, Any]) -> Any:
        """Answer as vLLM does."""
        if self.urls[-1].endswith("/tokenize"):
            if not self.counts:
                return 404, {"error": {"message": "Not Found", "code": 404}}
            return 200, {"count": len("".join(texts(body))), "max_model_len": CONTEXT, "tokens": []}
        scripted = self.script(body)
        if scripted is not None:
            return scripted
        said = f"You said {texts(body)[-1]}."
        if not body.get("stream"):
            return 200, answer(said)
        return Stream([chunk(said[:4]), chunk(said[4:]), chunk("", "stop"), "[DONE]"])

    @property
    def asked(self) -> list[list[str]]:
        """The texts of every conversation that was to be answered."""
        return [texts(body) for body in self.answered]

    @property
    def answered(self) -> list[Mapping[str, Any]]:
        """The bodies of these requests."""
        bodies = zip(self.requests, self.urls, strict=True)
        return [body for body, url in bodies if not url.endswith("/tokenize")]


def texts(body: Mapping[str, Any]) -> list[str]:
    """The texts of a request's messages."""
    return [message["content"] or "" for message in body["messages"]]


@asynccontextmanager
async def served(folder: Path, engine: ScriptedEngine, **entry: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an app whose conversations last as long as it does."""
    short = MemoryNetwork(engine).connections()
    app = create_app(told(folder, **entry), launcher=ScriptedLauncher(server()), connections=engine, short=short)
    async with running(app), caller(app) as client:
        yield client


def told(folder: Path, *, memory: Any = None, **sampling: Any) -> Any:
    """Settings with a registry whose model has this memory and this sampling."""
    registry = copy.deepcopy(REGISTRY)
    registry["models"][0]["sampling"] = sampling or {"max_tokens": 100}
    if memory is not None:
        registry["models"][0]["chain"]["memory"] = memory
    return settings(folder, registry)


async def say(client: httpx.AsyncClient, text: Any, session: str | None = "s1", route: str = "invoke") -> str:
    """Say something in a session; return the answer's text."""
    config = {"configurable": {"session_id": session}} if session is not None else {}
    response = await client.post(f"/{MODEL}/{route}", json={"input": text, "config": config})
    assert response.status_code == 200, response.text
    if route == "invoke":
        return response.json()["output"]["content"]
    return "".join(data["content"] for name, data in events(response.text) if name == "data")


async def read(client: httpx.AsyncClient, session: str = "s1") -> list[str]:
    """What is stored of a session."""
    response = await client.get(f"/sessions/{MODEL}/{session}")
    return [message["content"] for message in response.json()["messages"]] if response.status_code == 200 else []


@pytest.mark.parametrize("route", ["invoke", "stream"])
async def test_a_conversation_goes_on_where_it_ended(tmp_path: Path, route: str) -> None:
    """The model is asked with its system prompt, what was said before, and what is new."""
    engine = TalkingEngine()
    async with served(tmp_path, engine) as client:
        assert await say(client, "one", route=route) == "You said one."
        assert await say(client, "two", route=route) == "You said two."
        assert await say(client, "three", "s2", route=route) == "You said three."
        assert await read(client) == ["one", "You said one.", "two", "You said two."]
    assert engine.asked == [
        ["Be brief.", "one"],
        ["Be brief.", "one", "You said one.", "two"],
        ["Be brief.", "three"],
    ]


@pytest.mark.parametrize("session", [None, ""])
async def test_a_call_without_a_session_stands_alone(tmp_path: Path, session: str | None) -> None:
    """Nothing is recalled, counted or kept."""
    engine = TalkingEngine()
    async with served(tmp_path, engine) as client:
        await say(client, "one", session)
        await say(client, "two", session, route="stream")
        assert (await client.get("/sessions")).json() == {"sessions": []}
    assert engine.asked == [["Be brief.", "one"], ["Be brief.", "two"]]
    assert len(engine.requests) == 2


async def test_the_session_may_stand_in_the_input(tmp_path: Path) -> None:
    """For clients that cannot send a config; two that differ are refused."""
    async with served(tmp_path, TalkingEngine()) as client:
        await say(client, {"input": "one", "session_id": "s1"}, None)
        await say(client, {"messages": [["user", "two"]], "session_id": "s1"}, None, route="stream")
        assert len(await read(client)) == 4
        body = {"input": {"input": "x", "session_id": "s1"}, "config": {"configurable": {"session_id": "s2"}}}
        response = await client.post(f"/{MODEL}/invoke", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "session_id"


async def test_a_session_has_an_address(tmp_path: Path) -> None:
    """All routes and both playgrounds stand below it, for clients that know nothing of configs."""
    async with served(tmp_path, TalkingEngine()) as client:
        for number, route in enumerate(("invoke", "stream", "chat/s/s1/stream_log", "batch")):
            body: dict[str, Any] = {"input": str(number), "inputs": [str(number)]}
            path = route if "/" in route else f"s/s1/{route}"
            assert (await client.post(f"/{MODEL}/{path}", json=body)).status_code == 200
        assert [text for text in await read(client) if len(text) == 1] == ["0", "1", "2", "3"]
        for page in (f"/{MODEL}/s/s1/playground/", f"/{MODEL}/chat/s/s1/playground/"):
            assert (await client.get(page)).status_code == 200
        assert (await client.get(f"/{MODEL}/chat/s/s1/c/N4XyA/input_schema")).status_code == 200  # the page asks for it
        response = await client.post(f"/{MODEL}/s/a b/invoke", json={"input": "x"})
        assert response.status_code == 422


async def test_a_session_id_of_another_form_is_refused(tmp_path: Path) -> None:
    """Before anything is asked or kept."""
    engine = TalkingEngine()
    async with served(tmp_path, engine) as client:
        for wrong in ("a b", "x" * 129, "../etc", 7):
            body = {"input": "x", "config": {"configurable": {"session_id": wrong}}}
            response = await client.post(f"/{MODEL}/invoke", json=body)
            assert response.status_code == 422, response.text
            assert "session_id" in response.json()["error"]["param"]
    assert engine.requests == []


async def test_the_config_schema_offers_the_session(tmp_path: Path) -> None:
    """As a plain text, which the playground can show; the input looks as it did."""
    async with served(tmp_path, TalkingEngine()) as client:
        schema = (await client.get(f"/{MODEL}/config_schema")).json()
        inputs = (await client.get(f"/{MODEL}/input_schema")).json()
    fields = next(part for part in schema["$defs"].values() if "temperature" in part["properties"])["properties"]
    assert fields["session_id"]["type"] == "string"
    assert "default" not in fields["session_id"]
    assert list(inputs["properties"]) == ["messages"]


async def test_who_sends_the_conversation_along_does_not_double_it(tmp_path: Path) -> None:
    """As LangServe's chat playground does."""
    engine = TalkingEngine()
    async with served(tmp_path, engine) as client:
        await say(client, "one")
        history = [["user", "one"], ["ai", "You said one."], ["user", "two"]]
        await say(client, {"messages": history})
        assert await read(client) == ["one", "You said one.", "two", "You said two."]
    assert engine.asked[-1] == ["Be brief.", "one", "You said one.", "two"]


async def test_a_system_prompt_of_the_request_holds_for_the_session(tmp_path: Path) -> None:
    """It replaces the chain's, and later requests need not repeat it."""
    engine = TalkingEngine()
    async with served(tmp_path, engine) as client:
        await say(client, {"messages": [["system", "Be a cat."], ["user", "one"]]})
        await say(client, "two")
        await say(client, {"messages": [["system", "Be a dog."], ["user", "three"]]})
        await say(client, "four")
    assert [asked[0] for asked in engine.asked] == ["Be a cat.", "Be a cat.", "Be a dog.", "Be a dog."]
    assert [asked.count("Be a cat.") for asked in engine.asked] == [1, 1, 0, 0]


async def test_tools_and_their_results_go_on_in_a_session(tmp_path: Path) -> None:
    """The call is stored with its turn; the result that comes with the next request finds it."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

    def script(body: Mapping[str, Any]) -> Any:
        if body["messages"][-1]["role"] != "user":
            return None
        said = answer("")
        said["choices"][0] |= {"message": {"role": "assistant", "content": None, "tool_calls": [call]}}
        said["choices"][0]["finish_reason"] = "tool_calls"
        return 200, said

    engine = TalkingEngine(script)
    async with served(tmp_path, engine) as client:
        await say(client, "1+1?")
        assert (
            await say(client, {"messages": [{"role": "tool", "tool_call_id": "c1", "content": "2"}]}) == "You said 2."
        )
    asked = engine.answered[-1]["messages"]
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool"]
    assert asked[2]["tool_calls"][0]["id"] == "c1"


# --- what is not stored ------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["invoke", "stream"])
async def test_an_answer_that_failed_is_not_stored(tmp_path: Path, route: str) -> None:
    """In the middle or from the start: earlier turns stay, the failed one leaves nothing."""
    engine = TalkingEngine()
    async with served(tmp_path, engine) as client:
        await say(client, "one")
        engine.script = fail
        config = {"configurable": {"session_id": "s1"}}
        response = await client.post(f"/{MODEL}/{route}", json={"input": "two", "config": config})
        assert "error" in response.text
        assert await read(client) == ["one", "You said one."]
        engine.script = answer_as_usual
        await say(client, "three")
        assert await read(client) == ["one", "You said one.", "three", "You said three."]


async def test_a_client_that_leaves_leaves_no_half_turn_and_no_lock(tmp_path: Path) -> None:
    """The next request of the session is answered at once."""
    engine = TalkingEngine(lambda body: Stream([chunk("half"), asyncio.Event()]) if body.get("stream") else None)
    app = create_app(told(tmp_path), launcher=ScriptedLauncher(server()), connections=engine)
    async with running(app), caller(app) as client:
        body = {"input": "one", "config": {"configurable": {"session_id": "s1"}}}
        exchange = Exchange(app, f"/{MODEL}/stream", body)
        assert await exchange.start() == 200
        await exchange.until("half")
        exchange.leave()
        await exchange.end()
        assert await read(client) == []
        await say(client, "two")
        assert await read(client) == ["two", "You said two."]


async def test_the_end_of_a_stream_means_that_the_turn_is_stored(tmp_path: Path) -> None:
    """A session that is deleted while its answer comes ends in an error instead."""
    more = asyncio.Event()
    engine = TalkingEngine(
        lambda body: Stream([chunk("hal"), more, chunk("f", "stop"), "[DONE]"]) if body.get("stream") else None
    )
    app = create_app(told(tmp_path), launcher=ScriptedLauncher(server()), connections=engine)
    async with running(app), caller(app) as client:
        await say(client, "one")
        exchange = Exchange(app, f"/{MODEL}/stream", {"input": "two", "config": {"configurable": {"session_id": "s1"}}})
        assert await exchange.start() == 200
        await exchange.until("hal")
        assert (await client.delete(f"/sessions/{MODEL}/s1")).status_code == 204
        more.set()
        assert "session_changed" in await exchange.until("event: error")
        await exchange.end()
        assert await read(client) == []


# --- what fits -----------------------------------------------------------------------------------


async def test_the_oldest_turns_are_not_told_where_the_context_is_full(tmp_path: Path) -> None:
    """What the model is asked with and the answer it may give fit into its context; everything stays stored."""
    engine = TalkingEngine()
    async with served(tmp_path, engine, max_tokens=400) as client:
        for letter in "abcdef":
            await say(client, letter * 100)
        assert len(await read(client)) == 12
    last = engine.asked[-1]
    assert last[0] == "Be brief."
    assert last[-1] == "f" * 100
    assert [text[0] for text in last[1:]] == ["d", "Y", "e", "Y", "f"]
    assert len("".join(last)) <= CONTEXT - 400


async def test_a_turn_is_counted_once(tmp_path: Path) -> None:
    """However long the conversation: two counts for a new turn, one for a new prompt."""
    engine = TalkingEngine()
    async with served(tmp_path, engine) as client:
        for number in range(6):
            before = len(engine.requests)
            await say(client, str(number))
            assert len(engine.requests) - before == (4 if number else 3)


async def test_a_request_may_ask_for_a_longer_answer(tmp_path: Path) -> None:
    """Then less of the conversation fits."""
    engine = TalkingEngine()
    async with served(tmp_path, engine, max_tokens=10) as client:
        for letter in "abc":
            await say(client, letter * 100)
        config = {"configurable": {"session_id": "s1", "max_tokens": 900}}
        await client.post(f"/{MODEL}/invoke", json={"input": "short", "config": config})
    assert len(engine.asked[-2]) == 6
    assert engine.asked[-1] == ["Be brief.", "short"]


async def test_an_engine_that_does_not_count_is_told_everything(tmp_path: Path) -> None:
    """Nothing is made up: where neither it nor the registry names a context, the engine decides."""
    engine = TalkingEngine(counts=False)
    async with served(tmp_path, engine) as client:
        for letter in "abcdefghij":
            await say(client, letter * 100)
    assert len(engine.asked[-1]) == 20


async def test_old_turns_are_summarised_by_the_model(tmp_path: Path) -> None:
    """By policy: the summary stands below the system prompt, is written seldom, and tells of earlier ones."""

    def script(body: Mapping[str, Any]) -> Any:
        if not texts(body)[-1].startswith("Summarise"):
            return None
        number = len([asked for asked in engine.asked if asked[-1].startswith("Summarise")])
        return 200, answer(f"They said letters ({number}).")

    engine = TalkingEngine(script)
    async with served(tmp_path, engine, memory={"when_full": "summarise"}, max_tokens=200) as client:
        for letter in "abcdefghijkl":
            await say(client, letter * 60)
        stored = await read(client)
    summaries = [asked for asked in engine.asked if asked[-1].startswith("Summarise")]
    answers = [asked for asked in engine.asked if asked not in summaries]
    assert 1 < len(summaries) < 6
    assert "User: " + "a" * 60 in summaries[0][-1]
    assert "They said letters (1)." in summaries[1][-1]
    assert "They said letters" in answers[-1][0]
    assert answers[-1][0].startswith("Be brief.")
    assert answers[-1][-1] == "l" * 60
    assert len(stored) == 24
    assert not [text for text in stored if "They said" in text]


async def test_a_summary_that_fails_loses_nothing(tmp_path: Path) -> None:
    """The old turns are left out of the prompt, and stay stored."""

    def script(body: Mapping[str, Any]) -> Any:
        return (500, {"error": {}}) if texts(body)[-1].startswith("Summarise") else None

    async with served(tmp_path, TalkingEngine(script), memory={"when_full": "summarise"}, max_tokens=200) as client:
        for letter in "abcdefgh":
            await say(client, letter * 60)
        assert len(await read(client)) == 16


# --- for whom -----------------------------------------------------------------------------------


async def test_sessions_belong_to_who_made_them(tmp_path: Path) -> None:
    """Another owner's session of the same id is another one, and cannot be seen."""
    async with served(tmp_path, TalkingEngine()) as client:
        for owner in ("ada", "eve"):
            token = current_owner.set(owner)
            await say(client, f"I am {owner}")
            assert await read(client) == [f"I am {owner}", f"You said I am {owner}."]
            assert len((await client.get("/sessions")).json()["sessions"]) == 1
            current_owner.reset(token)
        assert await read(client) == []
        assert (await client.delete("/sessions")).json() == {"deleted": 0}


async def test_a_conversation_can_be_listed_read_exported_and_deleted(tmp_path: Path) -> None:
    """What is read is an input for any chain; what is exported is everything that is kept."""
    async with served(tmp_path, TalkingEngine()) as client:
        await say(client, "one")
        (listed,) = (await client.get("/sessions", params={"model": MODEL})).json()["sessions"]
        assert (listed["model"], listed["id"], listed["turns"]) == (MODEL, "s1", 1)
        assert listed["expires_at"] > listed["used_at"]
        messages = (await client.get(f"/sessions/{MODEL}/s1")).json()["messages"]
        assert messages[0] == {"role": "user", "content": "one"}
        await say(client, {"messages": [*messages, ["user", "again"]]}, None)
        export = await client.get(f"/sessions/{MODEL}/s1/export")
        assert export.headers["content-disposition"] == f'attachment; filename="{MODEL}-s1.json"'
        assert [message["type"] for message in export.json()["turns"][0]["messages"]] == ["human", "ai"]
        assert (await client.delete(f"/sessions/{MODEL}/s1")).status_code == 204
        for response in (await client.get(f"/sessions/{MODEL}/s1"), await client.delete(f"/sessions/{MODEL}/s1")):
            assert response.status_code == 404
            assert response.json()["error"]["type"] == "unknown_session"


async def test_a_model_may_have_no_memory(tmp_path: Path) -> None:
    """Then there is no session to ask for, and naming one in the input is an error."""
    async with served(tmp_path, TalkingEngine(), memory={"enabled": False}) as client:
        schema = (await client.get(f"/{MODEL}/config_schema")).text
        assert "session_id" not in schema
        response = await client.post(f"/{MODEL}/invoke", json={"input": {"input": "x", "session_id": "s1"}})
        assert response.status_code == 422
