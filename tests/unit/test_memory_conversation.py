"""What of a conversation is new, what fits, and what belongs together."""

import json
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)

from app.memory.conversation import (
    Gathered,
    in_pairs,
    is_whole,
    newest_that_fit,
    opens,
    system_of,
    unseen,
    worth_keeping,
)
from app.memory.store import Turn

H, A, S = HumanMessage, AIMessage, SystemMessage
CALL = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}])
RESULT = ToolMessage("2", tool_call_id="c1")
STORED: list[BaseMessage] = [H("one"), A("1"), H("two"), A("2")]


def turn(number: int, *messages: BaseMessage, tokens: int = 10) -> Turn:
    """A stored turn."""
    return Turn(number, json.dumps(messages_to_dict(messages)), opens(messages), tokens, 0.0)


@pytest.mark.parametrize(
    ("sent", "new"),
    [
        ([H("three")], ["three"]),
        ([*STORED, H("three")], ["three"]),
        ([H("two"), A("2"), H("three")], ["three"]),
        ([S("Be brief."), *STORED, H("three")], ["three"]),
        ([H("two"), A("not 2"), H("three")], ["two", "not 2", "three"]),
        ([H("two")], ["two"]),
        (STORED, ["one", "1", "two", "2"]),
        ([A("2"), H("three")], ["three"]),
    ],
)
def test_what_a_client_repeats_of_the_conversation_is_not_new(sent: list[BaseMessage], new: list[str]) -> None:
    """All of it, its end, or nothing; ids and metadata play no part, and something is always new."""
    stored = [
        message.model_copy(update={"id": "x", "response_metadata": {"finish_reason": "stop"}}) for message in STORED
    ]
    assert [message.text for message in unseen(stored, sent)] == new


def test_a_conversation_with_tools_is_recognised_too() -> None:
    """Calls count by name and arguments; a chunk is the message it became."""
    stored = [H("1+1?"), CALL, RESULT, A("2")]
    sent = [H("1+1?"), CALL.model_copy(update={"id": "y"}), RESULT, AIMessageChunk(content="2"), H("and 2+2?")]
    assert [message.text for message in unseen(stored, sent)] == ["and 2+2?"]


@pytest.mark.parametrize(
    ("room", "kept"), [(0, []), (9, []), (10, [2]), (25, [1, 2]), (30, [0, 1, 2]), (99, [0, 1, 2])]
)
def test_the_oldest_turns_are_left_out_first(room: int, kept: list[int]) -> None:
    """As many of the newest as fit, without a gap."""
    turns = [turn(number, H("x"), A("y")) for number in range(3)]
    assert [each.number for each in newest_that_fit(turns, room, going_on=False)] == kept


def test_a_turn_with_its_tools_is_left_out_as_a_whole() -> None:
    """A call without its result, or a result without its call, is refused by engines."""
    turns = [turn(0, H("1+1?"), CALL), turn(1, RESULT, A("2")), turn(2, H("thanks"), A("Sure."))]
    assert [each.number for each in newest_that_fit(turns, 25, going_on=False)] == [2]
    assert [each.number for each in newest_that_fit(turns, 30, going_on=False)] == [0, 1, 2]


def test_the_exchange_that_goes_on_stays() -> None:
    """A tool's result needs its call, however full it is."""
    turns = [turn(0, H("x"), A("y")), turn(1, H("1+1?"), CALL)]
    assert [each.number for each in newest_that_fit(turns, 0, going_on=True)] == [1]
    assert not opens([RESULT])
    assert opens([S("x"), H("y")])


def test_a_big_turn_in_between_ends_what_is_told() -> None:
    """No hole: what is older than it would be told out of its place."""
    turns = [turn(0, H("x"), A("y"), tokens=1), turn(1, H("x"), A("y"), tokens=50), turn(2, H("x"), A("y"), tokens=1)]
    assert [each.number for each in newest_that_fit(turns, 20, going_on=False)] == [2]


def test_the_last_system_prompt_holds() -> None:
    """One that came later replaces the first; several in a row are one."""
    assert system_of([H("x")]) is None
    assert system_of([S("a"), H("x"), S("b"), H("y")]) == S("b")
    assert system_of([S("a"), S("b"), H("y")]) == S("a\n\nb")


@pytest.mark.parametrize(
    ("messages", "whole"),
    [
        ([H("q"), CALL, RESULT, A("a")], [0, 1, 2, 3]),
        ([H("q"), CALL, H("never mind")], [0, 2]),
        ([H("q"), RESULT, A("a")], [0, 2]),
        ([H("q"), CALL], [0, 1]),
        ([H("q"), CALL, RESULT, RESULT, A("a")], [0, 1, 2, 4]),
    ],
)
def test_calls_and_results_stand_in_pairs(messages: list[BaseMessage], whole: list[int]) -> None:
    """A call that nobody answered goes, and so does an answer to nothing."""
    assert in_pairs(messages) == [messages[index] for index in whole]


def test_pieces_of_an_answer_become_its_messages() -> None:
    """Chunks are joined, whole messages between them stay; the end's reason and the calls are kept."""
    pieces: list[Any] = [
        AIMessageChunk(content="", tool_call_chunks=[{"name": "add", "args": '{"a"', "id": "c1", "index": 0}]),
        AIMessageChunk(content="", tool_call_chunks=[{"name": None, "args": ": 1}", "id": None, "index": 0}]),
        RESULT,
        AIMessageChunk(content="tw"),
        "no message",
        AIMessageChunk(content="o", response_metadata={"finish_reason": "stop", "token_ids": [1]}),
    ]
    gathered = Gathered()
    for piece in pieces:
        gathered.add(piece)
    call, result, answer = gathered.messages()
    assert isinstance(call, AIMessage)
    assert call.tool_calls[0]["args"] == {"a": 1}
    assert (result, answer.text, answer.type) == (RESULT, "two", "ai")
    assert is_whole([call, result, answer])
    assert worth_keeping(answer).response_metadata == {"finish_reason": "stop"}


def test_an_answer_without_an_end_is_not_whole() -> None:
    """Neither is none at all."""
    assert not is_whole([])
    assert not is_whole([A("half an ans")])
    assert not is_whole([H("x")])
