"""Sampling that a request's config changes."""

import json
from typing import Any

import pytest
from chat_vllm import ChatVLLM, configurable
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError

WARM: RunnableConfig = {"configurable": {"temperature": 0.7, "top_k": 5, "stop": ["."], "max_tokens": 9}}


class City(BaseModel):
    """A city."""

    name: str


@tool
def add(a: int, b: int) -> int:
    """Adds two integers."""
    return a + b


async def test_a_request_changes_its_own_sampling_only(recorded: Any) -> None:
    """The next request is asked as the model was set up."""
    engine = recorded("answer.json")
    llm = configurable(engine.llm(temperature=0, seed=1))
    await llm.ainvoke("hi", WARM)
    assert {**engine.asked, "messages": None} == {
        "model": "smollm2",
        "messages": None,
        "stream": False,
        "temperature": 0.7,
        "top_k": 5,
        "stop": ["."],
        "max_tokens": 9,
        "seed": 1,
    }
    await llm.ainvoke("hi")
    assert engine.asked["temperature"] == 0
    assert "top_k" not in engine.asked


async def test_a_changed_request_still_streams(recorded: Any) -> None:
    """Chunks stay chunks: langchain-core's own reconfiguration would answer in one piece."""
    llm = configurable(recorded("stream.sse").llm())
    chunks = [chunk.content async for chunk in llm.astream("hi", WARM)]
    assert [chunk for chunk in chunks if chunk] == ["I", "'m", " glad", " to", " meet"]
    assert len([chunk for chunk in configurable(recorded("stream.sse").llm()).stream("hi", WARM) if chunk.content]) == 5


async def test_a_changed_request_shares_the_connections(recorded: Any) -> None:
    """The copy for one request has the clients of the model, opened or not."""
    llm = recorded("answer.json").llm()
    changed, _ = configurable(llm).prepare(WARM)
    assert isinstance(changed, ChatVLLM)
    assert changed is not llm
    assert changed.root_async_client is llm.root_async_client
    unchanged, _ = configurable(llm).prepare({"configurable": {"session_id": "1"}})
    assert unchanged is llm


@pytest.mark.parametrize(
    "change", [{"temperature": 9}, {"top_p": 0}, {"max_tokens": 0}, {"seed": "x"}, {"stop": "."}, {"top_k": -2}]
)
async def test_a_value_out_of_range_is_refused(recorded: Any, change: dict[str, Any]) -> None:
    """Before anything is sent, and by the field's name."""
    engine = recorded("answer.json")
    with pytest.raises(ValidationError) as caught:
        await configurable(engine.llm()).ainvoke("hi", {"configurable": change})
    assert caught.value.errors()[0]["loc"][0] in change
    assert not engine.requests


async def test_structured_output_stays_configurable(recorded: Any) -> None:
    """The schema and the request's sampling arrive together."""
    engine = recorded("answer.json")
    engine.body = engine.body.replace(b"I'm glad to meet", rb"{\"name\": \"Paris\"}")
    structured = configurable(engine.llm()).with_structured_output(City)
    assert await structured.ainvoke("hi", WARM) == City(name="Paris")
    assert engine.asked["response_format"]["type"] == "json_schema"
    assert engine.asked["top_k"] == 5


async def test_tools_stay_configurable(recorded: Any) -> None:
    """Tools and the request's sampling arrive together."""
    engine = recorded("tool.json")
    bound = configurable(engine.llm()).bind_tools([add], tool_choice="any")
    assert (await bound.ainvoke("hi", WARM)).tool_calls
    assert engine.asked["tool_choice"] == "required"
    assert engine.asked["top_k"] == 5


def test_the_playground_can_show_every_field(recorded: Any) -> None:
    """A field is one plain type with its default: LangServe's playground stays blank at a union with null."""
    schema = configurable(recorded("answer.json").llm(temperature=0.2)).config_schema(include=["configurable"])
    fields = schema.model_json_schema()["$defs"]["Configurable"]["properties"]
    assert {name: field["type"] for name, field in fields.items()} == {
        "temperature": "number",
        "top_p": "number",
        "top_k": "integer",
        "min_p": "number",
        "repetition_penalty": "number",
        "presence_penalty": "number",
        "frequency_penalty": "number",
        "max_tokens": "integer",
        "seed": "integer",
        "stop": "array",
        "response_format": "string",
    }
    assert fields["temperature"]["default"] == 0.2
    assert "default" not in fields["top_k"]


def test_only_named_fields_can_be_opened(recorded: Any) -> None:
    """A chain may keep the rest for itself."""
    llm = configurable(recorded("answer.json").llm(), ["temperature"], offers=[])
    assert [spec.id for spec in llm.config_specs] == ["temperature"]


async def test_a_schema_may_come_as_text_or_as_an_object(recorded: Any) -> None:
    """A playground's text box sends text; an empty one says nothing; what is no JSON is refused."""
    engine = recorded("answer.json")
    llm = configurable(engine.llm(), offers=["response_format", "thinking"])
    schema = {"title": "city", "type": "object", "properties": {"name": {"type": "string"}}}
    for value in (schema, json.dumps(schema)):
        await llm.ainvoke("hi", {"configurable": {"response_format": value}})
        assert engine.asked["response_format"]["json_schema"]["schema"] == schema
    await llm.ainvoke("hi", {"configurable": {"response_format": " ", "thinking": False}})
    assert "response_format" not in engine.asked
    assert engine.asked["chat_template_kwargs"]["enable_thinking"] is False
    with pytest.raises(ValidationError, match="no JSON"):
        await llm.ainvoke("hi", {"configurable": {"response_format": "{"}})


async def test_a_request_may_ask_for_more_than_sampling(recorded: Any) -> None:
    """Tools, a schema and thinking reach the engine as fields of its body, beside changed sampling."""
    engine = recorded("answer.json")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    schema = {"title": "City", "type": "object", "properties": {"name": {"type": "string"}}}
    wishes: RunnableConfig = {
        "configurable": {"temperature": 0.7, "tools": tools, "tool_choice": "none", "response_format": schema}
        | {"thinking": False, "logprobs": True, "top_logprobs": 2}
    }
    await configurable(engine.llm()).ainvoke("hi", wishes)
    asked = engine.asked
    assert (asked["temperature"], asked["tools"], asked["tool_choice"]) == (0.7, tools, "none")
    assert asked["response_format"]["json_schema"]["schema"]["properties"] == schema["properties"]
    assert asked["chat_template_kwargs"]["enable_thinking"] is False
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)


async def test_a_wish_out_of_its_range_is_refused(recorded: Any) -> None:
    """Before anything is asked."""
    engine = recorded("answer.json")
    with pytest.raises(ValidationError, match="top_logprobs"):
        await configurable(engine.llm()).ainvoke("hi", {"configurable": {"top_logprobs": 99}})
    assert engine.requests == []
