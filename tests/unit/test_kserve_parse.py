"""What the tensors of an inference ask, and the tensors of its answer."""

import base64
import gzip
import json
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage

from app.errors import InvalidInput, Refused, ServiceError
from app.protocols.kserve.bodies import flat, from_generate, inflate
from app.protocols.kserve.parse import Asked, parse
from app.protocols.kserve.render import Rendering, render_embeddings
from app.protocols.kserve.tensors import InferRequest, InferResponse, Tensor

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(32))


def tensor(name: str, value: Any) -> Tensor:
    """An input of one value."""
    if isinstance(value, str | bytes):
        return Tensor(name, "BYTES", (1,), [value.encode() if isinstance(value, str) else value])
    datatype = {bool: "BOOL", int: "INT32", float: "FP32"}[type(value)]
    return Tensor(name, datatype, (1,), [value])


def infer(parameters: Any = None, *, id: str = "", outputs: Sequence[str] = (), **inputs: Any) -> InferRequest:  # noqa: A002
    """An inference with these inputs."""
    tensors = {name: tensor(name, value) for name, value in inputs.items()}
    return InferRequest("m", tensors, "", id, parameters or {}, tuple(outputs))


def ask(parameters: Any = None, **inputs: Any) -> Asked:
    """What an inference of a text asks."""
    return parse(infer(parameters, **{"text_input": "Hi", **inputs}))


def values(response: InferResponse) -> dict[str, Any]:
    """The values of an answer by name."""
    return {output.name: [*output.values] for output in response.outputs}


# --- sampling ------------------------------------------------------------------------------


def test_sampling_stands_in_a_tensor_of_json_whose_numbers_may_be_texts() -> None:
    """As Triton's own example for vLLM sends it."""
    told = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100", "stop": "x"}
    options = ask(sampling_parameters=json.dumps(told)).request.options
    assert options == {"temperature": 0.1, "top_p": 0.95, "max_tokens": 100, "stop": ["x"]}


def test_sampling_stands_in_parameters_or_in_tensors_of_its_own() -> None:
    """As generate sends it, and as TensorRT-LLM's models take it."""
    options = ask({"temperature": 0, "seed": 7}, max_tokens=5, stop_words="x", bad_words="").request.options
    assert options == {"temperature": 0.0, "seed": 7, "max_tokens": 5, "stop": ["x"]}


@pytest.mark.parametrize(
    ("parameters", "inputs", "param"),
    [
        ({"temprature": 1}, {}, "temprature"),
        ({}, {"temperature": 9.0}, "temperature"),
        ({}, {"sampling_parameters": "{"}, "sampling_parameters"),
        ({}, {"sampling_parameters": "[1]"}, "sampling_parameters"),
        ({}, {"sampling_parameters": b"\xff"}, "sampling_parameters"),
        ({}, {"sampling_parameters": '{"max_tokens": "many"}'}, "max_tokens"),
        ({}, {"stream": "yes"}, "stream"),
        ({}, {"stream": True, "exclude_input_in_output": False}, "exclude_input_in_output"),
        ({}, {"text_input": b"\xff"}, "text_input"),
        ({}, {"text_input": 3}, "text_input"),
        ({}, {"image": "no picture"}, "image"),
        ({}, {"messages": "[]"}, "messages"),
    ],
)
def test_what_does_not_fit_is_named(parameters: Any, inputs: Any, param: str) -> None:
    """The tensor or the parameter."""
    with pytest.raises(InvalidInput) as error:
        ask(parameters, **inputs)
    assert error.value.param == param


@pytest.mark.parametrize("name", ["return_logprobs", "lora_name", "n", "best_of"])
def test_what_triton_takes_and_this_service_does_not_is_refused_by_name(name: str) -> None:
    """Rather than left out in silence; asking for nothing is no question."""
    with pytest.raises(Refused, match=name):
        ask({name: 3})
    assert ask({name: False}).request.options == {}


@given(
    st.dictionaries(st.text(max_size=8), st.integers() | st.booleans() | st.text(max_size=8) | st.floats(), max_size=4)
)
def test_any_parameters_are_a_question_or_an_error_with_a_meaning(parameters: dict[str, Any]) -> None:
    """Never anything else."""
    try:
        ask(parameters)
    except ServiceError as error:
        assert error.message  # noqa: PT017 -- any of them will do


# --- the conversation ----------------------------------------------------------------------


def test_a_text_is_a_prompt() -> None:
    """A user's turn for a chain, the beginning of a text for a raw model."""
    request = ask().request
    assert (request.prompt, [*request.messages], request.stream) == ("Hi", [], False)


def test_messages_are_a_conversation_as_json() -> None:
    """In any form LangChain or OpenAI writes them."""
    turns = [{"role": "system", "content": "Be brief."}, {"type": "human", "content": "Hi"}]
    request = parse(infer(messages=json.dumps(turns))).request
    assert [*request.messages] == [SystemMessage("Be brief."), HumanMessage("Hi")]
    assert request.prompt is None
    with pytest.raises(InvalidInput, match="not both"):
        ask(messages=json.dumps(turns))


def test_images_come_in_base64_beside_the_text() -> None:
    """And leave as data URLs; nothing is fetched."""
    (message,) = ask(image=PNG).request.messages
    assert message.content == [
        {"type": "text", "text": "Hi"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG.decode()}"}},
    ]


@pytest.mark.parametrize(("name", "value", "session"), [("session_id", "a", "a"), ("sequence_id", 7, "7")])
def test_a_sequence_is_a_session(name: str, value: Any, session: str) -> None:
    """Triton's clients number their sequences; its flags for beginning and end ask nothing."""
    flags = {"sequence_start": True, "sequence_end": False}
    assert ask({name: value, **flags}).request.session == session
    assert ask({"sequence_id": 0}).request.session is None


def test_a_version_that_is_not_there_is_refused() -> None:
    """There is one."""
    with pytest.raises(InvalidInput, match="version"):
        parse(InferRequest("m", {"text_input": tensor("text_input", "Hi")}, "2"))


# --- the answer ----------------------------------------------------------------------------


def test_an_answer_begins_with_its_input_unless_it_is_told_not_to() -> None:
    """As Triton's backend does it; a stream never does."""
    assert values(Rendering(infer(), ask()).whole(AIMessage("Ho"))) == {"text_output": [b"HiHo"]}
    asked = ask(exclude_input_in_output=True)
    assert values(Rendering(infer(), asked).whole(AIMessage("Ho"))) == {"text_output": [b"Ho"]}
    assert ask(stream=True).echo == ""


def test_other_outputs_are_there_when_they_are_asked_for() -> None:
    """Tokens, the reason of the end, the likelihood of it all."""
    wishes = (
        "return_finish_reason",
        "return_cumulative_logprob",
        "return_num_input_tokens",
        "return_num_output_tokens",
    )
    asked = ask(**dict.fromkeys(wishes, True))
    assert asked.request.options["logprobs"] is True
    message = AIMessage(
        "Ho",
        usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        response_metadata={"finish_reason": "stop", "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]}},
    )
    told = values(Rendering(infer(), asked).whole(message))
    assert told["finish_reason"] == [b"stop"]
    assert told["cumulative_logprob"] == [-0.75]
    assert (told["num_input_tokens"], told["num_output_tokens"]) == ([3], [2])


def test_a_streams_last_answer_says_so_and_counts_the_tokens() -> None:
    """The ones before it count none, so that the sum is right."""
    rendering = Rendering(infer(id="7"), ask(stream=True, return_num_output_tokens=True, return_finish_reason=True))
    piece = rendering.piece(AIMessageChunk(content="Ho"))
    usage: Any = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    nothing = rendering.piece(
        AIMessageChunk(content="", usage_metadata=usage, response_metadata={"finish_reason": "length"})
    )
    assert nothing is None
    assert piece is not None
    end = rendering.end()
    assert [values(each)["num_output_tokens"] for each in (piece, end)] == [[0], [2]]
    assert [values(each)["finish_reason"] for each in (piece, end)] == [[b"None"], [b"length"]]
    assert [each.parameters for each in (piece, end)] == [
        {"triton_final_response": False},
        {"triton_final_response": True},
    ]
    assert {piece.id, end.id} == {"7"}


def test_only_wanted_outputs_are_given() -> None:
    """Those that the inference lists."""
    asked = ask(return_finish_reason=True)
    response = Rendering(infer(outputs=["finish_reason"]), asked).whole(AIMessage("Ho"))
    assert [output.name for output in response.outputs] == ["finish_reason"]


def test_pictures_are_in_base64_as_they_come_in() -> None:
    """One element each."""
    message = AIMessage([{"type": "image", "base64": PNG.decode(), "mime_type": "image/png"}])
    asked = ask(exclude_input_in_output=True)
    assert values(Rendering(infer(), asked).whole(message))["image"] == [PNG]


def test_embeddings_are_a_row_a_text() -> None:
    """Texts by dimensions."""
    (output,) = render_embeddings(infer(), [[1.0, 2.0], [3.0, 4.0]]).outputs
    assert (output.shape, [*output.values]) == ((2, 2), [1.0, 2.0, 3.0, 4.0])


# --- generate ------------------------------------------------------------------------------


def test_generate_names_inputs_without_shapes() -> None:
    """A JSON value is a tensor; parameters stay parameters."""
    read = from_generate(
        "m",
        "",
        {"id": 3, "text_input": "Hi", "stream": True, "max_tokens": 5, "parameters": {"seed": 1, "stop": ["x"]}},
    )
    assert (read.id, read.parameters) == ("3", {"seed": 1})
    assert {name: (each.datatype, [*each.values]) for name, each in read.inputs.items()} == {
        "stop": ("BYTES", [b"x"]),
        "text_input": ("BYTES", [b"Hi"]),
        "stream": ("BOOL", [True]),
        "max_tokens": ("INT64", [5]),
    }


def test_generate_takes_messages_as_they_are() -> None:
    """Lists of objects become the JSON they were."""
    read = from_generate("m", "", {"messages": [{"role": "user", "content": "Hi"}]})
    assert [*parse(read).request.messages] == [HumanMessage("Hi")]


@pytest.mark.parametrize("body", [[], "x", {"parameters": 3}, {"text_input": ["a", 1]}])
def test_what_is_no_body_of_generate_is_refused(body: Any) -> None:
    """With a sentence."""
    with pytest.raises(InvalidInput):
        from_generate("m", "", body)


def test_generates_answer_is_flat() -> None:
    """One value stands for itself."""
    response = InferResponse("m", [tensor("text_output", "Ho"), Tensor("x", "INT32", (2,), [1, 2])], "9")
    assert flat(response) == {"id": "9", "model_name": "m", "model_version": "1", "text_output": "Ho", "x": [1, 2]}


# --- encodings -----------------------------------------------------------------------------


def test_a_small_body_that_grows_beyond_the_limit_is_refused_while_it_grows() -> None:
    """No bomb is ever held whole."""
    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) < 20_000
    with pytest.raises(ServiceError, match="larger than 1000"):
        inflate(bomb, "gzip", 1000)
    assert inflate(gzip.compress(b"hi"), "GZIP", 1000) == b"hi"
    assert inflate(zlib.compress(b"hi"), "deflate", 1000) == b"hi"
    for broken, encoding in ((b"hi", "gzip"), (gzip.compress(b"hi")[:-4], "gzip"), (b"hi", "br")):
        with pytest.raises(InvalidInput):
            inflate(broken, encoding, 1000)
