"""Every protocol's stream says, byte for byte, the same on the short way as on LangChain's."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from chat_vllm import ChatVLLM

from tests.unit.engine_streams import CORPUS, REFUSALS, WHOLE, logprobs, said, whole
from tests.unit.scripted import MODEL, SOON, Exchange, ScriptedEngine, Stage, Stream, caller

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

QUESTION = [{"role": "user", "content": "Where is Paris?"}]
VARIES = re.compile(
    r'(?<="id":")(chatcmpl-|cmpl-|msg_)[0-9a-f]{32}|(?<="created":)\d+|(?<="created_at":")[^"]+'
    r'|(?<="total_duration":)\d+|(?<="prompt_eval_duration":)\d+|(?<="eval_duration":)\d+'
)
"""Ids and times."""


@dataclass(frozen=True)
class Wire:
    """One protocol: where it streams, and what it is asked there."""

    path: str
    body: Mapping[str, Any]


ADD: dict[str, Any] = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
CACHED = {"cache_control": {"type": "ephemeral"}}

WIRES = {
    "OpenAI, as vLLM's benchmark asks": Wire(
        "/v1/chat/completions",
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Where is Paris?"}]}],
            "max_completion_tokens": 32,
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "OpenAI, as an agent asks": Wire(
        "/v1/chat/completions",
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": [{"type": "text", "text": "One and"}, {"type": "text", "text": "two?"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "3"}]},
            ],
            "tools": [{"type": "function", "function": ADD}],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "stream": True,
            "user": "somebody",
        },
    ),
    "Anthropic, as an agent asks": Wire(
        "/v1/messages",
        {
            "model": MODEL,
            "max_tokens": 9,
            "system": [{"type": "text", "text": "Be brief.", **CACHED}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "One and two?", **CACHED}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Let me see."},
                        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "3"}]}
                    ],
                },
            ],
            "tools": [{"name": "add", "description": "Adds.", "input_schema": ADD["parameters"]}],
            "tool_choice": {"type": "auto"},
            "metadata": {"user_id": "somebody"},
            "stream": True,
        },
    ),
    "OpenAI": Wire("/v1/chat/completions", {"model": MODEL, "messages": QUESTION, "stream": True}),
    "OpenAI, with usage": Wire(
        "/v1/chat/completions",
        {"model": MODEL, "messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "OpenAI's completions": Wire(
        "/v1/completions",
        {"model": MODEL, "prompt": "Hi", "stream": True, "stream_options": {"include_usage": True}},
    ),
    "Anthropic": Wire("/v1/messages", {"model": MODEL, "messages": QUESTION, "max_tokens": 9, "stream": True}),
    "Ollama's chat": Wire("/api/chat", {"model": MODEL, "messages": QUESTION}),
    "Ollama's generate": Wire("/api/generate", {"model": MODEL, "prompt": "Hi"}),
    "TGI": Wire(f"/models/{MODEL}/generate_stream", {"inputs": "Hi", "parameters": {"return_full_text": True}}),
    "KServe": Wire(f"/v2/models/{MODEL}/generate_stream", {"text_input": "Hi"}),
    "KServe, with everything": Wire(
        f"/v2/models/{MODEL}/generate_stream",
        {
            "text_input": "Hi",
            "parameters": {"return_finish_reason": True, "return_cumulative_logprob": True},
            "id": "7",
        },
    ),
    "OpenAI, raw": Wire("/v1/chat/completions", {"model": f"{MODEL}:raw", "messages": QUESTION, "stream": True}),
    "Ollama, raw": Wire("/api/chat", {"model": f"{MODEL}:raw", "messages": QUESTION}),
}


def token(text: str, number: int, *, shown: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return an event with a token's number and likelihood, as TGI's questions ask for them."""
    event = said(content=text, logprobs=logprobs(text if shown is None else shown), **fields)
    event["choices"][0]["token_ids"] = [number]
    return event


TOKENS: Mapping[str, Any] = {
    "tokens": [
        said(role="assistant", content=""),
        token("In", 5),
        token(" France", 6),
        said("stop", content=""),
        "[DONE]",
    ],
    "half characters": [
        token("", 5, shown="\ufffd"),
        token("é", 6, shown="\ufffd"),
        said("stop", content=""),
        "[DONE]",
    ],
    "a token of another text": [token("In", 5, shown="in"), token("", 6, shown=""), said("stop", content=""), "[DONE]"],
    "tokens that end it": [token("In", 5), token(" a", 6, finish="length"), "[DONE]"],
    "two tokens at once": [
        {**(two := token("In", 5)), "choices": [{**two["choices"][0], "token_ids": [5, 6]}]},
        token("x", 7),
        said("stop", content=""),
        "[DONE]",
    ],
    "tokens of a thought": [token("In", 5, reasoning="In"), token("x", 7), said("stop", content=""), "[DONE]"],
    "an unknown field": [token("In", 5, more={"surprise": 1}), token("x", 7), said("stop", content=""), "[DONE]"],
    "line ends of others": [
        *(said(content=text) for text in ("a", "\x85", "\u2028b", "c\u2029", "東\u2028")),
        said("stop", content=""),
        "[DONE]",
    ],
    "half a character": [
        said(content="a"),
        said(content="\ud83d"),
        said(content="b"),
        said("stop", content=""),
        "[DONE]",
    ],
}
ALL = {**CORPUS, **TOKENS}


@pytest.fixture(scope="module")
async def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """The app by both ways."""
    return {way: Stage(tmp_path_factory.mktemp(way), way=way) for way in ("short", "fast")}


async def told(stage: Stage, wire: Wire, reply: Any) -> tuple[int, str, str]:
    """Return the status, the kind and the whole of an answer, with ids and times made equal."""
    async with stage.client(ScriptedEngine(lambda _: reply())) as client:
        response = await client.post(wire.path, json=wire.body)
    return response.status_code, response.headers["content-type"], VARIES.sub("X", response.text)


@pytest.mark.parametrize("cut", [0, 1, 7])
@pytest.mark.parametrize("wire", WIRES)
async def test_both_ways_stream_the_same_bytes(stages: dict[str, Stage], wire: str, cut: int) -> None:
    """Whatever the engine sends, and in whatever pieces it arrives."""
    stages["fast"].network.cut = stages["short"].network.cut = cut
    for name, steps in ALL.items():
        answers = {way: await told(stage, WIRES[wire], lambda s=steps: Stream(s)) for way, stage in stages.items()}
        assert answers["fast"] == answers["short"], name


ASKED_WHOLE = {
    **{name: wire for name, wire in WIRES.items() if "raw" not in name},
    "OpenAI, two answers": Wire("/v1/chat/completions", {"model": MODEL, "messages": QUESTION, "n": 2, "seed": 7}),
}


def in_one_piece(wire: Wire) -> Wire:
    """Return the same question, answered in one piece."""
    body = {name: value for name, value in wire.body.items() if name not in ("stream", "stream_options")}
    if wire.path.startswith("/api"):
        body["stream"] = False
    return Wire(wire.path.replace("generate_stream", "generate"), body)


@pytest.mark.parametrize("wire", ASKED_WHOLE)
async def test_a_known_chain_answers_whole_without_langchains_run(
    stages: dict[str, Stage], wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the comparison below compares two ways."""
    run = AsyncMock(side_effect=RuntimeError)
    monkeypatch.setattr(ChatVLLM, "_agenerate", run)  # what LangChain's run calls
    asked, answered = in_one_piece(ASKED_WHOLE[wire]), dict[str, bool]()
    for way, stage in stages.items():
        async with stage.client(ScriptedEngine(lambda _: (200, whole(WHOLE["text"])))) as client:
            answered[way] = (await client.post(asked.path, json=asked.body)).status_code == 200
    assert answered == {"short": False, "fast": True}


@pytest.mark.parametrize("wire", ASKED_WHOLE)
async def test_both_ways_answer_whole_alike(stages: dict[str, Stage], wire: str) -> None:
    """The engine is asked for the same, and what it says in one piece, or why not, reads the same."""
    asked = in_one_piece(ASKED_WHOLE[wire])
    replies: dict[str, Any] = {
        **{name: (200, whole(message)) for name, message in WHOLE.items()},
        **REFUSALS,
        "none": (200, []),
    }
    for name, reply in replies.items():
        said: dict[str, Any] = {}
        for way, stage in stages.items():
            engine = ScriptedEngine(lambda _, r=reply: r)
            async with stage.client(engine) as client:
                response = await client.post(asked.path, json=asked.body)
            said[way] = response.status_code, VARIES.sub("X", response.text), engine.requests
        assert said["fast"] == said["short"], name
        assert (said["fast"][0] == 200) is (name in WHOLE), name


@pytest.mark.parametrize("wire", WIRES)
async def test_both_ways_tell_a_refusal_alike(stages: dict[str, Stage], wire: str) -> None:
    """Status, kind and words."""
    for name, reply in REFUSALS.items():
        answers = {way: await told(stage, WIRES[wire], lambda r=reply: r) for way, stage in stages.items()}
        assert answers["fast"] == answers["short"], name
        assert answers["fast"][0] >= 400


@pytest.mark.parametrize("wire", WIRES)
async def test_a_known_chain_is_pushed_through(stages: dict[str, Stage], wire: str) -> None:
    """No task pumps its events, as one does for everything else; so the comparisons above compare two ways."""
    pumped: dict[str, bool] = {}
    for way, stage in stages.items():

        def reply(way: str = way) -> Stream:
            pumped[way] = any(task.get_name() == "event pump" for task in asyncio.all_tasks())
            return Stream(CORPUS["text"])

        assert (await told(stage, WIRES[wire], reply))[0] == 200
    assert pumped == {"short": True, "fast": False}


# --- clients that leave, that read slowly, that come back -----------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_a_client_that_leaves_lets_the_engine_go(stages: dict[str, Stage], wire: str) -> None:
    """At once: nothing waits for the next piece."""
    stream = Stream([*(said(content=f"w{number}") for number in range(3)), asyncio.Event()])
    stages["fast"].network.cut = 0
    async with stages["fast"].app(ScriptedEngine(lambda _: stream)) as app:
        exchange = Exchange(app, WIRES[wire].path, WIRES[wire].body)
        assert await exchange.start() == 200
        await exchange.until("w1")
        exchange.leave()
        async with asyncio.timeout(SOON):
            await stream.closed.wait()
        await exchange.end()


@pytest.mark.parametrize("wire", WIRES)
async def test_a_client_that_reads_slowly_keeps_the_engine_waiting(stages: dict[str, Stage], wire: str) -> None:
    """Nothing more is read from the engine, and nothing is lost afterwards."""
    words = [f"w{number}." for number in range(1000)]
    stream = Stream([*(said(content=word + 200 * "x") for word in words), said("stop", content=""), "[DONE]"])
    stage = stages["fast"]
    stage.network.cut = 0
    async with stage.app(ScriptedEngine(lambda _: stream)) as app:
        exchange = Exchange(app, WIRES[wire].path, WIRES[wire].body, room=1)
        async with asyncio.timeout(SOON):
            while not stream.sent or stage.network.opened[-1].readable:  # noqa: ASYNC110 -- a transport has no event
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
        assert stream.sent < len(words) / 2
        assert await exchange.start() == 200
        text = ""
        while piece := await exchange.piece():
            text += piece
        await exchange.end()
    places = [text.index(word) for word in words]
    assert places == sorted(places)


@pytest.mark.parametrize("wire", ["OpenAI", "Anthropic", "Ollama's chat", "TGI", "KServe"])
async def test_a_conversation_is_kept_on_both_ways_alike(stages: dict[str, Stage], wire: str) -> None:
    """The second question brings the first one's answer with it."""
    asked: dict[str, Any] = {}
    for way, stage in stages.items():
        engine = ScriptedEngine(lambda _: Stream(CORPUS["text"]))
        headers = {"x-session-id": wire.replace("'", "-").replace(" ", "-")}
        async with stage.client(engine) as client:
            for _ in range(2):
                response = await client.post(WIRES[wire].path, json=WIRES[wire].body, headers=headers)
                assert response.status_code == 200
        asked[way] = [request["messages"] for request in engine.requests if request.get("stream")]
    assert asked["fast"] == asked["short"]
    assert [message["content"] for message in asked["fast"][1][-3:-1]] == [
        "Where is Paris?" if wire in {"OpenAI", "Anthropic", "Ollama's chat"} else "Hi",
        "In France.",
    ]


async def test_a_stream_in_lines_has_no_comments(tmp_path: Path) -> None:
    """JSON lines have no place for them, however long the silence."""
    go = asyncio.Event()
    stream = Stream([said(content="a"), go, said("stop", content=""), "[DONE]"])
    stage = Stage(tmp_path, way="fast", ping=0.01)
    async with stage.app(ScriptedEngine(lambda _: stream)) as app:
        quiet = Exchange(app, WIRES["Ollama's chat"].path, WIRES["Ollama's chat"].body)
        loud = Exchange(app, WIRES["OpenAI"].path, WIRES["OpenAI"].body)
        assert (await quiet.start(), await loud.start()) == (200, 200)
        await loud.until(": ping\r\n\r\n: ping")
        go.set()
        told = await quiet.until('"done":true')
        await loud.until("[DONE]")
        await quiet.end()
        await loud.end()
    assert "ping" not in told


# --- what is noted of them ------------------------------------------------------------------


TIMED = ("time", "request_id", "seconds", "queued_seconds", "first_token_seconds")


def counted(metrics: str) -> list[str]:
    """Return the lines that count requests and tokens, without times."""
    kinds = ("_total{", "_count{")
    return sorted(line for line in metrics.splitlines() if any(kind in line for kind in kinds) and "tiny" in line)


async def test_both_ways_are_noted_alike(tmp_path: Path) -> None:
    """Tokens, ends and errors, in the audit log and in the metrics."""
    noted: dict[str, tuple[list[Any], list[str]]] = {}
    names = ("text", "no usage", "an error in place of chunks", "an error between chunks")
    for way in ("short", "fast"):
        folder = tmp_path / way
        folder.mkdir()
        stage = Stage(folder, way=way, audit_log=folder / "audit.jsonl")
        steps = iter([*names] * len(WIRES))
        async with stage.app(ScriptedEngine(lambda _, steps=steps: Stream(CORPUS[next(steps)]))) as app:
            client = caller(app)
            for wire in WIRES.values():
                for _ in names:
                    await client.post(wire.path, json=wire.body)
            metrics = (await client.get("/metrics")).text
            app.state.guarding.audit.close()
        lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        for line in lines:
            line.update({timed: line[timed] is not None for timed in TIMED})
        noted[way] = (lines, counted(metrics))
    assert len(noted["fast"][0]) == len(WIRES) * len(names)
    assert noted["fast"] == noted["short"]
    assert noted["fast"][1]
