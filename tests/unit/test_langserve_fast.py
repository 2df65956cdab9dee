"""The fast path says, byte for byte, what LangChain says on the general one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from chat_vllm import ChatVLLM, chat_prompt, configurable
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tracers.context import collect_runs

from app.engines.connection import Answer, Connections
from app.streams.known_chain import recognise
from tests.unit.engine_streams import CORPUS, DEAD, HEAD, REFUSALS, USAGE, WHOLE, whole
from tests.unit.memory_network import MemoryNetwork
from tests.unit.scripted import MODEL, ScriptedEngine, Stage, Stream, says

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

QUESTION = {"messages": [{"role": "user", "content": "Where is Paris?"}]}
IDS = re.compile(r"lc_run--[0-9a-f-]{36}(-0)?|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
async def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """The app by every way to the engine."""
    return {way: Stage(tmp_path_factory.mktemp(way), way=way) for way in ("sdk", "short", "fast")}


async def told(stage: Stage, reply: Any, body: Any, route: str = "stream") -> tuple[int, str]:
    """Return the status and the whole answer, with ids made equal."""
    async with stage.client(ScriptedEngine(lambda _: reply())) as client:
        response = await client.post(f"/{MODEL}/{route}", json=body)
    return response.status_code, IDS.sub("ID", response.text)


@pytest.mark.parametrize("cut", [0, 1, 7, 300])
@pytest.mark.parametrize("name", CORPUS)
async def test_every_way_streams_the_same_bytes(stages: dict[str, Stage], name: str, cut: int) -> None:
    """Whatever the engine sends, and in whatever pieces it arrives."""
    answers: dict[str, tuple[int, str]] = {}
    for way, stage in stages.items():
        stage.network.cut = cut
        answers[way] = await told(stage, lambda: Stream(CORPUS[name]), {"input": QUESTION})
    assert answers["fast"] == answers["short"] == answers["sdk"]
    begins = isinstance(CORPUS[name][0], dict) and CORPUS[name][0] is not DEAD if CORPUS[name] else False
    assert (answers["fast"][0] == 200) is begins


@pytest.mark.parametrize("route", ["stream", "invoke"])
@pytest.mark.parametrize("name", REFUSALS)
async def test_every_way_tells_a_refusal_alike(stages: dict[str, Stage], name: str, route: str) -> None:
    """Status, kind and words of the engine's errors do not depend on the way they came."""
    answers = {
        way: await told(stage, lambda: REFUSALS[name], {"input": QUESTION}, route) for way, stage in stages.items()
    }
    assert answers["fast"] == answers["short"] == answers["sdk"]
    assert answers["fast"][0] >= 400


@pytest.mark.parametrize("name", WHOLE)
async def test_every_way_answers_whole_with_the_same_bytes(stages: dict[str, Stage], name: str) -> None:
    """Answers in one piece are equal too, with log probabilities and usage."""
    body = whole(WHOLE[name])
    answers = {
        way: await told(stage, lambda: (200, body), {"input": QUESTION}, "invoke") for way, stage in stages.items()
    }
    assert answers["fast"] == answers["short"] == answers["sdk"]
    assert answers["fast"][0] == 200


@pytest.mark.parametrize("body", [{"object": "list"}, {"choices": []}, []])
async def test_what_is_no_answer_is_told_alike(stages: dict[str, Stage], body: Any) -> None:
    """Another kind of server at the engine's address."""
    answers = {
        way: await told(stage, lambda: (200, body), {"input": QUESTION}, "invoke") for way, stage in stages.items()
    }
    assert answers["fast"] == answers["short"] == answers["sdk"]


ASKED: dict[str, Any] = {
    "nothing": {},
    "sampling": {"temperature": 0.1, "max_tokens": 3, "stop": ["x"], "seed": 7},
    "tools": {"tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}], "tool_choice": "auto"},
    "a schema": {"response_format": {"title": "t", "type": "object", "properties": {}}},
    "thinking": {"thinking": False, "logprobs": True, "top_logprobs": 2},
    "out of range": {"temperature": 9},
}


@pytest.mark.parametrize("route", ["stream", "invoke"])
@pytest.mark.parametrize("name", ASKED)
async def test_every_way_asks_the_engine_for_the_same(stages: dict[str, Stage], name: str, route: str) -> None:
    """The request's body is LangChain's own on every way: system prompt, sampling, tools, schemas."""
    asked: dict[str, Any] = {}
    for way, stage in stages.items():
        engine = ScriptedEngine(says("In France."))
        async with stage.client(engine) as client:
            body = {"input": QUESTION, "config": {"configurable": ASKED[name]}}
            response = await client.post(f"/{MODEL}/{route}", json=body)
        asked[way] = (response.status_code, engine.requests)
    assert asked["fast"] == asked["short"] == asked["sdk"]


# --- conversations ---------------------------------------------------------------------------

TIMES = re.compile(r"""[a-z_]+_at":[^,}]*""")


async def remembered(stage: Stage, name: str, replies: Sequence[Any], route: str) -> tuple[list[Any], str, list[Any]]:
    """Return every answer of a conversation, what is kept of it, and what the engine was asked."""
    given = iter(replies)

    def reply(_body: Any) -> Any:
        if engine.urls[-1].endswith("/tokenize"):
            return 200, {"count": 10, "max_model_len": 2048, "tokens": []}
        return next(given)

    engine = ScriptedEngine(reply)
    answers: list[Any] = []
    async with stage.client(engine) as client:
        for turn, _ in enumerate(replies):
            body = {
                "input": {"messages": [{"role": "user", "content": f"Question {turn}"}]},
                "config": {"configurable": {"session_id": name}},
            }
            response = await client.post(f"/{MODEL}/{route}", json=body)
            answers.append((response.status_code, IDS.sub("ID", response.text)))
        kept = await client.get(f"/sessions/{MODEL}/{name}/export")
    return answers, TIMES.sub("TIME", IDS.sub("ID", kept.text)), engine.requests


@pytest.mark.parametrize("name", CORPUS)
async def test_every_way_keeps_the_same_conversation(stages: dict[str, Stage], name: str) -> None:
    """Whole answers are kept, others are not, and the next question goes on from there."""
    session = re.sub(r"\W", "-", name)
    told = {
        way: await remembered(stage, session, [Stream(CORPUS[name]), Stream(CORPUS["text"])], "stream")
        for way, stage in stages.items()
    }
    assert told["fast"] == told["short"] == told["sdk"]
    assert any(status == 200 for status, _ in told["fast"][0])


@pytest.mark.parametrize("name", WHOLE)
async def test_every_way_keeps_whole_answers_alike(stages: dict[str, Stage], name: str) -> None:
    """``invoke`` is part of a conversation too."""
    session = "whole-" + re.sub(r"\W", "-", name)
    choice = {"index": 0, "message": {"role": "assistant", **WHOLE[name]}, "logprobs": None, "finish_reason": "stop"}
    body = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE["usage"]}
    told = {
        way: await remembered(stage, session, [(200, body), (200, body)], "invoke") for way, stage in stages.items()
    }
    assert told["fast"] == told["short"] == told["sdk"]
    assert told["fast"][0][1][0] == 200


# --- what is recognised --------------------------------------------------------------------

LLM: Any = ChatVLLM(model="m")
PROMPT: Any = chat_prompt("Be brief.")


@pytest.mark.parametrize(
    ("chain", "known"),
    [
        (PROMPT | LLM, True),
        (PROMPT | configurable(LLM), True),
        (PROMPT | configurable(LLM) | StrOutputParser(), True),
        (PROMPT | configurable(LLM).bind(stop=["x"]), True),
        ((PROMPT | LLM).with_types(output_type=str), True),
        (LLM, False),
        (PROMPT | LLM | JsonOutputParser(), False),
        (PROMPT | RunnableLambda(len) | LLM, False),
        (PROMPT | LLM.with_config(tags=["mine"]), False),
        (PROMPT | LLM.with_retry(), False),
        ((PROMPT | LLM).with_config(callbacks=[]), False),
    ],
)
def test_only_chains_of_the_known_kind_are_recognised(chain: Runnable[Any, Any], known: bool) -> None:  # noqa: FBT001
    """Prompts, the chat model, perhaps a string parser; anything else is LangChain's to run."""
    assert (recognise(chain) is not None) is known


async def test_a_run_that_is_listened_to_is_langchains() -> None:
    """Tracers of the environment, of the request and of the model want to be told of every step."""
    engine = MemoryNetwork(ScriptedEngine(says())).connections()
    llm: Any = ChatVLLM(model="m", engine=engine)
    known, listened = recognise(PROMPT | llm), recognise(PROMPT | llm.model_copy(update={"callbacks": [Listener()]}))
    assert known is not None
    assert listened is not None
    value = {"messages": [("user", "hi")]}
    assert await known.prepare(value, {}) is not None
    assert await known.prepare(value, {"callbacks": [Listener()]}) is None
    assert await listened.prepare(value, {}) is None
    with collect_runs():
        assert await known.prepare(value, {}) is None


@pytest.mark.parametrize("name", [name for name in ASKED if name != "out of range"])
async def test_a_requests_options_stay_on_the_fast_path(name: str) -> None:
    """LangChain binds them to the model; a binding is only arguments."""
    llm: Any = ChatVLLM(model="m", engine=MemoryNetwork(ScriptedEngine(says())).connections())
    known = recognise(PROMPT | configurable(llm))
    assert known is not None
    assert await known.prepare({"messages": [("user", "hi")]}, {"configurable": ASKED[name]}) is not None


class Listener(BaseCallbackHandler):
    """Wants to be told."""


@pytest.mark.parametrize(
    "changed",
    [{"engine": None}, {"disable_streaming": True}, {"output_version": "v1"}, {"streaming": False}, {"cache": True}],
)
async def test_a_model_with_something_around_it_is_langchains(changed: dict[str, Any]) -> None:
    """Caches, rate limits and other outputs stand before or behind the request."""
    engine = MemoryNetwork(ScriptedEngine(says())).connections()
    fields: dict[str, Any] = {"model": "m", "engine": engine, **changed}
    known = recognise(PROMPT | ChatVLLM(**fields))
    assert known is not None
    assert await known.prepare({"messages": [("user", "hi")]}, {}) is None


class Way:
    """To a scripted engine."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send it there."""
        return await self._connections.post(f"http://127.0.0.1:1/v1{path}", body, headers)


PIXEL = "data:image/png;base64,AAAA"
PARTS: dict[str, list[Any]] = {
    "texts": [{"type": "text", "text": "Where is"}, "Paris?"],
    "a picture": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
    "a file": [{"type": "file", "file": {"file_id": "one"}}],
    "a picture in LangChain's form": [{"type": "image", "source_type": "url", "url": "http://localhost/a.png"}],
}


@pytest.mark.parametrize("name", PARTS)
async def test_a_content_in_parts_is_asked_for_alike(name: str) -> None:
    """Texts and pictures of OpenAI's form take the fast path; LangChain brings other parts into form on its own."""
    engine = ScriptedEngine(says("In France."))
    llm: Any = ChatVLLM(model="m", engine=Way(MemoryNetwork(engine).connections()))
    chain = PROMPT | configurable(llm)
    value = {"messages": [{"role": "user", "content": PARTS[name]}]}
    known = recognise(chain)
    assert known is not None
    asked = await known.prepare(value, {})
    assert (asked is not None) is (name in ("texts", "a picture"))
    if asked is None:
        return
    assert [piece async for piece in await asked.stream()]
    assert [chunk async for chunk in chain.astream(value)]
    of_the_fast_path, of_langchain = engine.requests
    assert of_the_fast_path == of_langchain
