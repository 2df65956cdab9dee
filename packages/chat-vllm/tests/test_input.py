"""What a chat chain takes, and how it refuses what it can't take."""

from typing import Any

import pytest
from chat_vllm import ChatInput, ChatOutput
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompt_values import ChatPromptValue
from pydantic import ValidationError

HI = HumanMessage("hi")
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def parse(value: Any) -> list[BaseMessage]:
    """The messages of an input."""
    return list(ChatInput.model_validate(value).messages)


def refusal(value: Any) -> tuple[tuple[int | str, ...], str]:
    """Where the input is wrong, and what is said about it."""
    with pytest.raises(ValidationError) as caught:
        ChatInput.model_validate(value)
    first = caught.value.errors()[0]
    return first["loc"], first["msg"]


@pytest.mark.parametrize(
    "value",
    [
        "hi",
        HI,
        [HI],
        {"input": "hi"},
        {"input": [{"role": "user", "content": "hi"}]},
        {"role": "user", "content": "hi"},
        {"messages": [HI]},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "human", "content": "hi"}]},
        {"messages": [{"type": "human", "content": "hi"}]},
        {"messages": [("user", "hi")]},
        {"messages": [["human", "hi"]]},
        {"messages": [dumpd(HI)]},
        ChatPromptValue(messages=[HI]),
        ChatInput(messages=[HI]),
    ],
)
def test_a_text_can_be_said_in_many_forms(value: Any) -> None:
    """Every form that LangChain or OpenAI writes gives the same message."""
    assert parse(value) == [HI]


def test_a_conversation_keeps_its_order_and_roles() -> None:
    """Forms may be mixed."""
    value = {
        "messages": [("system", "Be brief."), {"role": "user", "content": "hi"}, {"type": "ai", "content": "yo"}, HI]
    }
    assert parse(value) == [SystemMessage("Be brief."), HI, AIMessage("yo"), HI]


def test_a_history_and_a_new_turn_are_joined() -> None:
    """``messages`` is the history where ``input`` is given beside it."""
    assert parse({"messages": [("user", "1"), ("ai", "2")], "input": "hi"})[-1] == HI


def test_tool_calls_are_read_in_openais_form() -> None:
    """An assistant's turn may consist of calls alone, with a null content."""
    called, result = parse(
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "3"},
            ]
        }
    )
    assert isinstance(called, AIMessage)
    assert called.tool_calls == [{"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}]
    assert result == ToolMessage("3", tool_call_id="1")


def test_a_message_that_was_answered_comes_back_as_it_was() -> None:
    """What a client got it may send again: a round trip through JSON loses nothing."""
    answer = AIMessage("yo", additional_kwargs={"reasoning_content": "hm"}, response_metadata={"a": 1})
    assert parse({"messages": [answer.model_dump()]}) == [answer]


@pytest.mark.parametrize(
    ("value", "where", "what"),
    [
        ({"messages": []}, ("messages",), "at least one message"),
        ([], ("messages",), "at least one message"),
        ({}, ("messages",), "Field required"),
        ({"message": [HI]}, ("messages",), "Field required"),
        ({"messages": "hi"}, ("messages",), "valid list"),
        ({"messages": [HI], "inptu": "hi"}, ("inptu",), "not permitted"),
        ({"messages": [HI, {"role": "boss", "content": "x"}]}, ("messages", 1), "Unknown role 'boss'"),
        ({"messages": [{"type": "boss", "content": "x"}]}, ("messages", 0), "Unknown role 'boss'"),
        ({"messages": [{"content": "x"}]}, ("messages", 0), "Unknown role None"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, ("messages", 0), "Unknown role"),
        ({"messages": [{"role": "user"}]}, ("messages", 0), "needs a content"),
        ({"messages": [{"type": "human", "content": None}]}, ("messages", 0), "needs a content"),
        ({"messages": [{"role": "tool", "content": "3"}]}, ("messages", 0), "tool_call_id"),
        ({"messages": [{"role": "user", "content": 5}]}, ("messages", 0), "content"),
        ({"messages": [("user",)]}, ("messages", 0), "[role, content]"),
        ({"messages": [5]}, ("messages", 0), "an object with role and content"),
        (5, ("messages", 0), "an object with role and content"),
        (None, ("messages", 0), "an object with role and content"),
    ],
)
def test_a_mistake_is_named_and_located(value: Any, where: tuple[int | str, ...], what: str) -> None:
    """Every bad input is pydantic's ValidationError, which HTTP calls 422: never a 500."""
    loc, said = refusal(value)
    assert loc[: len(where)] == where
    assert what in said


def test_the_schema_is_what_the_chat_playground_asks_for() -> None:
    """LangServe's chat playground wants one property, an array, and messages with ``enum: [ai]`` out of it."""
    properties = ChatInput.model_json_schema()["properties"]
    assert list(properties) == ["messages"]
    assert properties["messages"]["type"] == "array"
    assert properties["messages"]["extra"]["widget"]["type"] == "chat"
    answers = ChatOutput.model_json_schema()
    assert {option["$ref"] for option in answers["anyOf"]} == {"#/$defs/AIMessage", "#/$defs/AIMessageChunk"}
    assert answers["$defs"]["AIMessage"]["properties"]["type"]["enum"] == ["ai"]
