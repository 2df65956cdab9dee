"""Tensors of the Open Inference Protocol (KServe v2, Triton) and their two wires: JSON with binary blocks, protobuf.

Sources: https://github.com/kserve/open-inference-protocol (``specification/protocol/inference_rest.md``, ``.../grpc``),
and Triton's binary tensor data extension: values little-endian, row by row, a BYTES element after its length in four
bytes. Everything here is pure: bytes and messages in, values out.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from app.errors import InvalidInput

Parameter = bool | int | float | str

CODES: Mapping[str, str] = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
"""Datatypes of fixed size, as ``struct`` calls them."""
BYTES = "BYTES"
DATATYPES = (*CODES, BYTES)
LENGTH = struct.Struct("<I")
TENSORS_MOST = 64
"""Tensors of one request; no model here takes nearly as many."""


@dataclass(frozen=True)
class Tensor:
    """A named array. ``values`` are its elements row by row: bytes for BYTES, else numbers or truth values."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]


@dataclass(frozen=True)
class InferRequest:
    """One inference, whichever wire it came by."""

    model: str
    inputs: Mapping[str, Tensor]
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter])
    outputs: tuple[str, ...] = ()
    """Names of the outputs that are wanted; none: all."""
    binary: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """Outputs that say whether they are wanted binary (over HTTP)."""

    def wants_binary(self, output: str) -> bool:
        """Return whether an output is wanted binary: as it says, or else as the whole does."""
        return self.binary.get(output, self.parameters.get("binary_data_output") is True)


@dataclass(frozen=True)
class InferResponse:
    """One answer to an inference."""

    model: str
    outputs: Sequence[Tensor]
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter])


def checked(tensor: Tensor) -> Tensor:
    """Return the tensor if it holds as many values as its shape says.

    Raises:
        InvalidInput: It does not.
    """
    if any(size < 0 for size in tensor.shape):
        raise InvalidInput(f"The shape of '{tensor.name}' has a negative size.", param=tensor.name)
    expected = math.prod(tensor.shape)
    if expected != len(tensor.values):
        shape = list(tensor.shape)
        message = f"'{tensor.name}' has the shape {shape}, that is {expected} values, and {len(tensor.values)} came."
        raise InvalidInput(message, param=tensor.name)
    return tensor


def known_datatype(name: str, datatype: str) -> str:
    """Return the datatype.

    Raises:
        InvalidInput: There is none of that name.
    """
    if datatype not in DATATYPES:
        message = f"'{name}' has the unknown datatype '{datatype[:32]}'."
        raise InvalidInput(message, hint=f"There is {', '.join(DATATYPES)}.", param=name)
    return datatype


# --- raw values ----------------------------------------------------------------------------


def unpack(name: str, datatype: str, data: bytes) -> Sequence[Any]:
    """Return the values of a block of binary tensor data.

    Raises:
        InvalidInput: The block is no array of that datatype.
    """
    code = CODES.get(known_datatype(name, datatype))
    if code is None:
        return _unpack_bytes(name, data)
    size = struct.calcsize(f"<{code}")
    if len(data) % size:
        raise InvalidInput(f"The data of '{name}' is no whole number of {datatype} values.", param=name)
    return struct.unpack(f"<{len(data) // size}{code}", data)


def _unpack_bytes(name: str, data: bytes) -> list[bytes]:
    values: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + LENGTH.size
        length = LENGTH.unpack_from(data, at)[0] if end <= len(data) else len(data)
        if end + length > len(data):
            raise InvalidInput(f"The data of '{name}' ends in the middle of a BYTES element.", param=name)
        values.append(data[end : end + length])
        at = end + length
    return values


def pack(tensor: Tensor) -> bytes:
    """Return the tensor's values as binary tensor data."""
    if tensor.datatype == BYTES:
        return b"".join(LENGTH.pack(len(value)) + value for value in tensor.values)
    return struct.pack(f"<{len(tensor.values)}{CODES[tensor.datatype]}", *tensor.values)


# --- JSON ----------------------------------------------------------------------------------


def from_json(model: str, version: str, body: Any, blocks: bytes = b"") -> InferRequest:
    """Return the inference of a JSON body and the binary blocks behind it.

    Raises:
        InvalidInput: It is none; ``param`` says where.
    """
    told = _object(body, "body")
    parameters = read_parameters(told.get("parameters"))
    rest = blocks
    inputs: dict[str, Tensor] = {}
    for index, each in enumerate(_list(told.get("inputs"), "inputs")):
        tensor, rest = _tensor(_object(each, f"inputs.{index}"), rest)
        inputs[tensor.name] = tensor
    if rest:
        raise InvalidInput(f"{len(rest)} bytes came after the last binary tensor.", param="inputs")
    wanted = [_object(each, "outputs") for each in _list(told.get("outputs") or [], "outputs")]
    outputs = {_text(each.get("name"), "outputs.name"): read_parameters(each.get("parameters")) for each in wanted}
    binary = {name: said["binary_data"] is True for name, said in outputs.items() if "binary_data" in said}
    return InferRequest(model, inputs, version, str(told.get("id") or ""), parameters, (*outputs,), binary)


def _tensor(told: Mapping[str, Any], blocks: bytes) -> tuple[Tensor, bytes]:
    """Return a tensor and the blocks that are left behind it."""
    name = _text(told.get("name"), "inputs.name")
    datatype = known_datatype(name, _text(told.get("datatype"), f"{name}.datatype"))
    shape = tuple(_size(size, name) for size in _list(told.get("shape"), f"{name}.shape"))
    size = read_parameters(told.get("parameters")).get("binary_data_size")
    if size is None:
        values = [_value(name, datatype, value) for value in _flat(_list(told.get("data"), f"{name}.data"))]
        return checked(Tensor(name, datatype, shape, values)), blocks
    if not isinstance(size, int) or not 0 <= size <= len(blocks):
        raise InvalidInput(f"'{name}' names {size} bytes of binary data, and {len(blocks)} are left.", param=name)
    return checked(Tensor(name, datatype, shape, unpack(name, datatype, blocks[:size]))), blocks[size:]


def _flat(values: Sequence[Any]) -> list[Any]:
    """Return nested rows as one; level by level, whatever the input."""
    level = [*values]
    while any(isinstance(value, list) for value in level):
        level = [item for value in level for item in (cast("list[Any]", value) if isinstance(value, list) else [value])]
    return level


def _value(name: str, datatype: str, value: Any) -> Any:
    """Return a JSON value as an element of that datatype."""
    if datatype == BYTES and isinstance(value, str):
        return value.encode()
    if datatype == "BOOL" and isinstance(value, bool):
        return value
    if datatype.startswith("FP") and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if "INT" in datatype and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidInput(f"'{name}' holds a value that is no {datatype}.", param=name)


def to_json(response: InferResponse, version: str, *, binary: Callable[[str], bool]) -> tuple[dict[str, Any], bytes]:
    """Return an answer's JSON and its binary blocks; ``binary`` says which outputs go there."""
    blocks: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    for tensor in response.outputs:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": [*tensor.shape]}
        if binary(tensor.name):
            blocks.append(pack(tensor))
            told["parameters"] = {"binary_data_size": len(blocks[-1])}
        else:
            told["data"] = [plain(value) for value in tensor.values]
        outputs.append(told)
    frame = {"model_name": response.model, "model_version": version, "outputs": outputs}
    frame |= {"id": response.id} if response.id else {}
    frame |= {"parameters": dict(response.parameters)} if response.parameters else {}
    return frame, b"".join(blocks)


def plain(value: Any) -> Any:
    """Return an element as a JSON value."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def read_parameters(told: Any) -> dict[str, Parameter]:
    """Return the parameters of a request or a tensor.

    Raises:
        InvalidInput: One has a value that no parameter can have.
    """
    if told is None:
        return {}
    parameters = _object(told, "parameters")
    for name, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            message = f"The parameter '{name}' is neither a number nor a text nor a truth value."
            raise InvalidInput(message, param=f"parameters.{name}")
    return dict(parameters)


def _object(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{place}: an object is needed.", param=place)
    return cast("Mapping[str, Any]", value)


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{place}: a list is needed.", param=place)
    return cast("list[Any]", value)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{place}: a text is needed.", param=place)
    return value


def _size(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(f"The shape of '{name}' holds something that is no size.", param=f"{name}.shape")
    return value
