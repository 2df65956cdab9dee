"""Our own chat service: questions read, answers written."""

import base64
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage

from app.errors import InvalidInput
from app.generated.langserve_vllm.v1 import chat_pb2 as pb
from app.protocols.chat_grpc import note_finish, read_question, usage, write_events, write_message

USAGE: Any = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
TOOL = pb.Tool(name="look", description="Looks.", parameters_json='{"type": "object"}')
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}


def said(role: pb.Role, *texts: str, **fields: Any) -> pb.Message:
    """A message."""
    return pb.Message(role=role, parts=[pb.Part(text=text) for text in texts], **fields)


def test_a_question_is_a_conversation() -> None:
    """Every role, in its order, with calls, results and thoughts."""
    call = pb.ToolCall(id="1", name="look", arguments_json='{"at": "sea"}')
    question = pb.Question(
        model="m",
        session_id="s",
        messages=[
            said(pb.ROLE_SYSTEM, "Be brief."),
            said(pb.ROLE_USER, "Hi", "!"),
            said(pb.ROLE_ASSISTANT, tool_calls=[call], reasoning="Hm."),
            said(pb.ROLE_TOOL, "Blue.", tool_call_id="1"),
        ],
    )
    request = read_question(question, stream=True, owner="ann", wait=3.0)
    assert (request.model, request.session, request.stream, request.owner, request.wait) == ("m", "s", True, "ann", 3.0)
    system, user, answer, result = request.messages
    assert (system, user) == (SystemMessage("Be brief."), HumanMessage("Hi!"))
    assert isinstance(answer, AIMessage)
    assert answer.tool_calls == [{"type": "tool_call", "id": "1", "name": "look", "args": {"at": "sea"}}]
    assert answer.additional_kwargs == {"reasoning_content": "Hm."}
    assert result == ToolMessage("Blue.", tool_call_id="1")


def test_pictures_leave_as_data_urls() -> None:
    """Bytes in, nothing is fetched."""
    picture = pb.Part(image=pb.Image(data=b"123", media_type="image/jpeg"))
    message = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="See"), picture])
    (read,) = read_question(pb.Question(messages=[message])).messages
    url = f"data:image/jpeg;base64,{base64.b64encode(b'123').decode()}"
    assert read.content == [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": url}}]


def test_only_what_is_said_is_an_option() -> None:
    """A zero that is said counts; a field that is not keeps the model's default."""
    assert read_question(pb.Question()).options == {}
    sampling = pb.Sampling(temperature=0, max_tokens=5, stop=["x"], seed=0)
    assert read_question(pb.Question(sampling=sampling)).options == {
        "temperature": 0,
        "max_tokens": 5,
        "seed": 0,
        "stop": ["x"],
    }


def test_a_forced_call_is_held_to_its_schema() -> None:
    """Small models need it; one that may or may not be made is not."""
    free = read_question(pb.Question(tools=[TOOL])).options
    assert free == {"tools": [{"type": "function", "function": FUNCTION}]}
    named = read_question(pb.Question(tools=[TOOL], tool_choice=pb.TOOL_CHOICE_NAMED, tool_name="look")).options
    assert named["tools"] == [{"type": "function", "function": {**FUNCTION, "strict": True}}]
    assert named["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert read_question(pb.Question(tool_choice=pb.TOOL_CHOICE_REQUIRED)).options == {"tool_choice": "required"}


def test_a_schema_holds_the_answer() -> None:
    """JSON Schema as text."""
    asked = read_question(pb.Question(json_schema='{"type": "object"}')).options["response_format"]
    assert asked["json_schema"] == {"name": "answer", "schema": {"type": "object"}, "strict": True}


@pytest.mark.parametrize(
    ("question", "param"),
    [
        (pb.Question(messages=[pb.Message()]), "messages.0.role"),
        (pb.Question(messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part()])]), "messages.0.parts.0"),
        (pb.Question(tools=[pb.Tool()]), "tools.0.name"),
        (pb.Question(tools=[pb.Tool(name="a", parameters_json="[")]), "tools.0.parameters_json"),
        (pb.Question(json_schema="3"), "json_schema"),
        (
            pb.Question(
                messages=[pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall(name="a", arguments_json="x")])]
            ),
            "messages.0.tool_calls.0.arguments_json",
        ),
    ],
)
def test_what_does_not_fit_is_named(question: pb.Question, param: str) -> None:
    """With its place."""
    with pytest.raises(InvalidInput) as error:
        read_question(question)
    assert error.value.param == param


def test_an_answer_is_a_message() -> None:
    """Text, pictures, calls and thoughts."""
    picture = {"type": "image", "base64": base64.b64encode(b"123").decode(), "mime_type": "image/png"}
    message = AIMessage(
        [{"type": "text", "text": "Ho"}, picture],
        tool_calls=[{"type": "tool_call", "id": "1", "name": "look", "args": {"at": "sea"}}],
        additional_kwargs={"reasoning_content": "Hm."},
        usage_metadata=USAGE,
    )
    written = write_message(message)
    assert written.role == pb.ROLE_ASSISTANT
    assert [part.WhichOneof("kind") for part in written.parts] == ["text", "image"]
    assert written.parts[1].image.data == b"123"
    assert written.tool_calls[0].arguments_json == '{"at": "sea"}'
    assert written.reasoning == "Hm."
    assert (usage(message).input_tokens, usage(message).output_tokens) == (3, 2)


def test_a_call_that_was_cut_off_is_told_as_far_as_it_goes() -> None:
    """Its arguments are no JSON yet; to leave it out would hide it."""
    cut: Any = {"type": "invalid_tool_call", "id": "1", "name": "look", "args": '{"at": "se', "error": None}
    (call,) = write_message(AIMessage("", invalid_tool_calls=[cut])).tool_calls
    assert (call.name, call.arguments_json) == ("look", '{"at": "se')


def test_a_piece_is_an_event_for_each_thing_it_shows() -> None:
    """In the order in which a model thinks, speaks and acts."""
    chunk = AIMessageChunk(
        content="Ho",
        additional_kwargs={"reasoning_content": "Hm."},
        tool_call_chunks=[{"type": "tool_call_chunk", "index": 1, "id": None, "name": None, "args": '{"a'}],
    )
    thought, text, call = write_events(chunk)
    assert (thought.reasoning, text.text) == ("Hm.", "Ho")
    assert (call.tool_call.index, call.tool_call.arguments_json) == (1, '{"a')
    assert [*write_events(AIMessageChunk(content=""))] == []


def test_the_end_keeps_what_the_pieces_say_of_it() -> None:
    """Reason and tokens may come in different ones."""
    finish = pb.Finish()
    note_finish(finish, AIMessageChunk(content="", response_metadata={"finish_reason": "length"}))
    note_finish(finish, AIMessageChunk(content="", usage_metadata=USAGE))
    assert finish == pb.Finish(reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage(input_tokens=3, output_tokens=2))
