"""Tensors of the Open Inference Protocol, between their wires and values."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.protocols.kserve.tensors import InferResponse, Tensor, checked, from_json, pack, to_json, unpack

TEXTS = b"\x02\x00\x00\x00hi\x00\x00\x00\x00"


def body(**tensor: Any) -> dict[str, Any]:
    """An inference with one input."""
    return {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["hi"], **tensor}]}


def test_texts_have_their_length_before_them() -> None:
    """Four bytes, little-endian, as Triton's clients write them."""
    assert unpack("x", "BYTES", TEXTS) == [b"hi", b""]
    assert pack(Tensor("x", "BYTES", (2,), [b"hi", b""])) == TEXTS


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_numbers_come_back_as_they_went(numbers: list[float]) -> None:
    """Little-endian, of their datatype's size."""
    assert list(unpack("x", "FP32", pack(Tensor("x", "FP32", (len(numbers),), numbers)))) == numbers


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("BYTES", b"\x05\x00\x00\x00hi"), ("BYTES", b"\x05\x00"), ("FP32", b"abc"), ("INT64", b"1234567"), ("FP8", b"")],
)
def test_data_that_is_none_of_its_datatype_is_refused(datatype: str, data: bytes) -> None:
    """With the tensor's name."""
    with pytest.raises(InvalidInput, match="'x'"):
        unpack("x", datatype, data)


@given(st.binary(max_size=64), st.sampled_from(["BYTES", "BOOL", "FP16", "FP32", "INT64", "UINT8"]))
def test_any_bytes_are_a_tensor_or_an_error_with_a_name(data: bytes, datatype: str) -> None:
    """Never anything else."""
    try:
        values = unpack("x", datatype, data)
    except InvalidInput:
        return
    assert len(pack(Tensor("x", datatype, (len(values),), values))) == len(data)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (-1,), ()])
def test_a_shape_says_how_many_values_there_are(shape: tuple[int, ...]) -> None:
    """One for none at all: a single value."""
    tensor = Tensor("x", "BOOL", shape, [True])
    if shape == ():
        assert checked(tensor) is tensor
        return
    with pytest.raises(InvalidInput, match="shape"):
        checked(tensor)


def test_json_data_may_be_nested() -> None:
    """As rows, or as one list: the shape says what it is."""
    nested = from_json("m", "", body(datatype="INT32", shape=[2, 2], data=[[1, 2], [3, 4]]))
    assert list(nested.inputs["x"].values) == [1, 2, 3, 4]
    assert nested.inputs["x"].shape == (2, 2)


def test_binary_data_follows_the_json() -> None:
    """So many bytes for each tensor that names some, in their order."""
    told = {
        "id": "7",
        "parameters": {"binary_data_output": True},
        "inputs": [
            {"name": "a", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(TEXTS)}},
            {"name": "b", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
        ],
        "outputs": [{"name": "text_output"}],
    }
    infer = from_json("m", "1", told, TEXTS + struct.pack("<f", 0.5))
    assert (infer.id, infer.outputs, infer.version) == ("7", ("text_output",), "1")
    assert [list(tensor.values) for tensor in infer.inputs.values()] == [[b"hi", b""], [0.5]]


@pytest.mark.parametrize(
    ("told", "blocks", "param"),
    [
        ([], b"", "body"),
        ({}, b"", "inputs"),
        ({"inputs": [3]}, b"", "inputs.0"),
        (body(name=3), b"", "inputs.name"),
        (body(shape="x"), b"", "x.shape"),
        (body(shape=[True]), b"", "x.shape"),
        (body(data=None), b"", "x.data"),
        (body(data=[1]), b"", "x"),
        (body(datatype="BOOL", data=[1]), b"", "x"),
        (body(datatype="INT32", data=[True]), b"", "x"),
        (body(parameters={"binary_data_size": 99}), b"12", "x"),
        (body(parameters={"binary_data_size": -1}), b"12", "x"),
        (body(), b"12", "inputs"),
        ({"inputs": [], "parameters": {"a": [1]}}, b"", "parameters.a"),
    ],
)
def test_what_is_no_inference_is_told_with_its_place(told: Any, blocks: bytes, param: str) -> None:
    """Never a KeyError."""
    with pytest.raises(InvalidInput) as error:
        from_json("m", "", told, blocks)
    assert error.value.param == param


def test_an_answer_is_json_with_binary_blocks_where_they_are_wanted() -> None:
    """Sizes in the JSON, values behind it."""
    response = InferResponse(
        "m", [Tensor("a", "BYTES", (1,), [b"hi"]), Tensor("b", "UINT32", (1,), [7])], "9", {"last": True}
    )
    frame, blocks = to_json(response, "1", binary=lambda name: name == "a")
    assert json.loads(json.dumps(frame)) == {
        "model_name": "m",
        "model_version": "1",
        "id": "9",
        "parameters": {"last": True},
        "outputs": [
            {"name": "a", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
            {"name": "b", "datatype": "UINT32", "shape": [1], "data": [7]},
        ],
    }
    assert blocks == b"\x02\x00\x00\x00hi"
