"""Anthropic's messages in front of an engine that follows a script."""

import json
from typing import Any

import httpx2
import pytest

from tests.unit.offering import (
    CALLS,
    CITY,
    DRAWS,
    PICTURE,
    PIXEL,
    QUESTION,
    SEES,
    Offering,
    calling,
    delta,
    replies,
    streams,
    usage,
)
from tests.unit.scripted import MODEL, ScriptedEngine, ScriptedLauncher, answer, chunk, refusal, says, server

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "messages": QUESTION}
TOOL = {"name": "weather", "description": "Tells it.", "input_schema": CITY}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Offering:
    """The app."""
    return Offering(tmp_path_factory.mktemp("app"))


def events(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream: each name is its data's type."""
    frames = [dict(line.split(": ", 1) for line in frame.split("\r\n")) for frame in text.split("\r\n\r\n") if frame]
    told = [(frame["event"], json.loads(frame["data"])) for frame in frames]
    assert all(name == data["type"] for name, data in told)
    return told


async def test_a_message_is_answered_by_the_chain(stage: Offering) -> None:
    """With blocks, the reason of the end, and what Anthropic counts."""
    scripted = replies(answer("Here."))
    async with stage.client(scripted) as client:
        told = (await client.post("/v1/messages", json=ASKED)).json()
    assert scripted.requests[0]["messages"] == [{"role": "system", "content": "Be brief."}, *QUESTION]
    assert (told["type"], told["role"], told["model"]) == ("message", "assistant", MODEL)
    assert told["content"] == [{"type": "text", "text": "Here.", "citations": None}]
    assert (told["stop_reason"], told["stop_sequence"]) == ("end_turn", None)
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (3, 2)


async def test_the_requests_system_prompt_wins(stage: Offering) -> None:
    """As a text or as blocks."""
    scripted = replies(answer("x"))
    async with stage.client(scripted) as client:
        for system in ("Be kind.", [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]):
            await client.post("/v1/messages", json={**ASKED, "system": system})
    for sent in scripted.requests:
        assert sent["messages"][0] == {"role": "system", "content": "Be kind."}


async def test_a_conversation_of_every_block_reaches_the_engine(stage: Offering) -> None:
    """Thoughts, calls, their results, pictures and documents of text."""
    scripted = replies(answer("x"))
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    turns = [
        {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A page."}},
            ],
        },
    ]
    async with stage.client(scripted) as client:
        response = await client.post("/v1/messages", json={**ASKED, "model": SEES, "messages": turns})
    assert response.status_code == 200, response.text
    user, assistant, tool, document = scripted.requests[0]["messages"]
    assert user["content"][0]["image_url"]["url"] == PICTURE
    assert (assistant["content"], assistant["reasoning"]) == ("I look.", "Hm.")
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}
    assert (tool["tool_call_id"], tool["content"]) == ("t1", "sunny")
    assert document["content"] == "A page."


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
async def test_tools_are_functions(stage: Offering, choice: dict[str, Any], sent: Any) -> None:
    """A forced one is strict, or small models do not keep to its schema."""
    scripted = replies(calling())
    async with stage.client(scripted) as client:
        told = (await client.post("/v1/messages", json={**ASKED, "tools": [TOOL], "tool_choice": choice})).json()
    function = scripted.requests[0]["tools"][0]["function"]
    assert (function["name"], function["parameters"]) == ("weather", CITY)
    assert function.get("strict", False) is (choice["type"] in ("any", "tool"))
    assert scripted.requests[0].get("tool_choice", "auto") == sent
    thinking, first, second = told["content"]
    assert thinking == {"type": "thinking", "thinking": "Let me look.", "signature": ""}
    assert first == {"type": "tool_use", "id": "call-1", "name": "weather", "input": {"city": "Paris"}}
    assert second["input"] == {}
    assert told["stop_reason"] == "tool_use"


async def test_options_reach_the_engine(stage: Offering) -> None:
    """Sampling, stops, thinking and structured output."""
    scripted = replies(answer("x"))
    options = {
        "temperature": 0.3,
        "top_k": 4,
        "top_p": 0.9,
        "stop_sequences": ["end"],
        "thinking": {"type": "disabled"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": CITY}},
        "metadata": {"user_id": "ada"},
    }
    async with stage.client(scripted) as client:
        response = await client.post("/v1/messages", json={**ASKED, **options})
    assert response.status_code == 200, response.text
    sent = scripted.requests[0]
    assert (sent["temperature"], sent["top_k"], sent["top_p"], sent["stop"]) == (0.3, 4, 0.9, ["end"])
    assert sent["chat_template_kwargs"]["enable_thinking"] is False
    assert sent["response_format"]["json_schema"]["schema"] == CITY


@pytest.mark.parametrize(
    ("finish", "stop", "told"),
    [
        ("stop", None, ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("stop", "end", ("stop_sequence", "end")),
    ],
)
async def test_the_end_has_its_reason(stage: Offering, finish: str, stop: Any, told: tuple[str, Any]) -> None:
    """Whole or streamed, in Anthropic's words."""
    whole, last = answer("x"), chunk("", finish)
    for each in (whole, last):
        each["choices"][0] |= {"finish_reason": finish, "stop_reason": stop}
    async with stage.client(replies(whole)) as client:
        message = (await client.post("/v1/messages", json=ASKED)).json()
    async with stage.client(streams(chunk("x"), last, usage(3, 2), "[DONE]")) as client:
        *_, (_, ended), _ = events((await client.post("/v1/messages", json={**ASKED, "stream": True})).text)
    assert (message["stop_reason"], message["stop_sequence"]) == told
    assert (ended["delta"]["stop_reason"], ended["delta"]["stop_sequence"]) == told
    assert (ended["usage"]["input_tokens"], ended["usage"]["output_tokens"]) == (3, 2)


async def test_a_stream_is_blocks_that_open_and_close(stage: Offering) -> None:
    """Thinking, then each call, with their indexes; arguments in pieces."""
    async with stage.client(streams(*CALLS)) as client:
        told = events((await client.post("/v1/messages", json={**ASKED, "stream": True, "tools": [TOOL]})).text)
    assert [name for name, _ in told] == [
        "message_start",
        *["content_block_start", "content_block_delta", "content_block_stop"],
        *["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"],
        *["content_block_start", "content_block_delta", "content_block_stop"],
        "message_delta",
        "message_stop",
    ]
    starts = [data["content_block"]["type"] for name, data in told if name == "content_block_start"]
    assert starts == ["thinking", "tool_use", "tool_use"]
    pieces = [
        data["delta"]["partial_json"] for name, data in told if name == "content_block_delta" and data["index"] == 1
    ]
    assert "".join(pieces) == '{"city": "Paris"}'
    assert told[-2][1]["delta"]["stop_reason"] == "tool_use"


async def test_an_error_in_a_stream_is_an_event(stage: Offering) -> None:
    """Before the first piece it has a status."""
    async with stage.client(streams(chunk("He"), httpx2.ReadError("gone"))) as client:
        told = events((await client.post("/v1/messages", json={**ASKED, "stream": True})).text)
    assert told[-1][0] == "error"
    assert told[-1][1]["error"]["type"] == "api_error"
    async with stage.client(replies(refusal("no", code=400), 400)) as client:
        response = await client.post("/v1/messages", json={**ASKED, "stream": True})
    assert response.status_code == 400


async def test_tokens_are_counted_as_the_chain_sends_them(stage: Offering) -> None:
    """With the chain's prompt and the tools; no token is generated."""
    scripted = replies({"count": 21, "tokens": [1]})
    async with stage.client(scripted) as client:
        asked = {"model": MODEL, "messages": QUESTION, "tools": [TOOL]}
        response = await client.post("/v1/messages/count_tokens", json=asked)
    assert response.json() == {"input_tokens": 21}
    assert scripted.urls[0].endswith("/tokenize")
    assert scripted.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert scripted.requests[0]["tools"][0]["function"]["name"] == "weather"


async def test_the_list_of_models_is_anthropics_where_its_client_asks(stage: Offering) -> None:
    """The path is OpenAI's too; the header tells."""
    async with stage.client(replies({})) as client:
        headers = {"anthropic-version": "2023-06-01"}
        listed = (await client.get("/v1/models", headers=headers)).json()
        one = (await client.get(f"/v1/models/{MODEL}", headers=headers)).json()
        missing = await client.get("/v1/models/none", headers=headers)
    assert [model["id"] for model in listed["data"]] == [MODEL, SEES]
    assert (one["type"], one["display_name"]) == ("model", "Tiny")
    assert missing.json()["error"]["type"] == "not_found_error"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": 1.5}, "temperature"),
    ({"surprise": 1}, "surprise"),
    ({"mcp_servers": [{}]}, "mcp_servers"),
    ({"container": "x"}, "container"),
    ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"tool_choice": {"type": "tool"}, "tools": [TOOL]}, "tool_choice"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
    ({"messages": [*QUESTION, {"role": "assistant", "content": "The"}]}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "messages.0.content.0.type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "x"}}]}]},
        "messages.0.content.0.source",
    ),
]


@pytest.mark.parametrize(("change", "part"), WRONG)
async def test_what_does_not_fit_is_named(stage: Offering, change: dict[str, Any], part: str) -> None:
    """400, and the message says where; the engine is not asked."""
    scripted = replies({})
    body = {name: value for name, value in {**ASKED, **change}.items() if value is not None}
    async with stage.client(scripted) as client:
        response = await client.post("/v1/messages", json=body)
    assert response.status_code == 400, response.text
    told = response.json()
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert told["error"]["message"].startswith(f"{part}:")
    assert scripted.requests == []


async def test_a_model_that_loads_is_overloaded(stage: Offering) -> None:
    """529, which Anthropic's client tries again."""
    async with stage.client(ScriptedEngine(says("x")), ScriptedLauncher(server("fetching"))) as client:
        response = await client.post("/v1/messages", json=ASKED)
    assert response.status_code == 529
    assert response.json()["error"]["type"] == "overloaded_error"


async def test_a_chain_that_streams_whole_calls_is_told_too(stage: Offering) -> None:
    """A call in one piece opens and closes a block of its own."""
    whole = delta(
        tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    )
    async with stage.client(streams(whole, delta("tool_calls"), usage(1, 1), "[DONE]")) as client:
        told = events((await client.post("/v1/messages", json={**ASKED, "stream": True})).text)
    assert [data["content_block"]["id"] for name, data in told if name == "content_block_start"] == ["a"]


async def test_a_model_that_draws_is_not_for_messages(stage: Offering) -> None:
    """They have no place for pictures in an answer."""
    async with stage.client(replies({})) as client:
        response = await client.post("/v1/messages", json={**ASKED, "model": DRAWS})
    assert response.status_code == 400
    assert "image-generation" in response.json()["error"]["message"]
