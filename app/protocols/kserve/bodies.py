"""Bodies of KServe over HTTP beside those of ``infer``: encodings, ``generate``, and what /docs says of all. Pure."""

import json
import zlib
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidInput, TooLarge
from app.openapi import Answers, Bodies
from app.protocols.kserve.parse import VERSION
from app.protocols.kserve.render import FINAL
from app.protocols.kserve.tensors import InferRequest, InferResponse, Tensor, plain

WINDOWS = {"gzip": 31, "deflate": 15}
"""zlib's parameter for each encoding of a body."""
DATATYPES: tuple[tuple[type, str], ...] = ((bool, "BOOL"), (int, "INT64"), (float, "FP64"), (str, "BYTES"))
"""Of values in a body of generate; the first that fits."""
SCALARS = (bool, int, float, str)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its encoding.

    Raises:
        InvalidInput: It is not encoded so, or in a way that is not supported.
        TooLarge: It is larger than ``limit`` bytes.
    """
    if encoding.lower() in ("", "identity"):
        return body
    window = WINDOWS.get(encoding.lower())
    if window is None:
        hint = f"There is {', '.join(WINDOWS)}."
        raise InvalidInput("The body has an encoding that is not supported.", hint=hint, param="content-encoding")
    decoder = zlib.decompressobj(window)
    try:
        content = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"The body is not encoded by {encoding.lower()}.", param="body") from error
    if len(content) > limit:
        raise TooLarge(f"The body is larger than {limit} bytes.")
    if not decoder.eof:
        raise InvalidInput("The body ends too early.", param="body")
    return content


def from_generate(model: str, version: str, body: Any) -> InferRequest:
    """Return the inference of a body of ``generate``: inputs by name, and ``parameters``.

    Raises:
        InvalidInput: It is none.
    """
    if not isinstance(body, dict):
        raise InvalidInput("The body is a JSON object.", param="body")
    told = cast("dict[str, Any]", body)
    parameters: Any = told.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput("parameters: an object is needed.", param="parameters")
    said = cast("dict[str, Any]", parameters)
    scalars = {name: value for name, value in said.items() if isinstance(value, bool | int | float | str)}
    others = {name: value for name, value in said.items() if name not in scalars and value is not None}
    inputs = {name: value for name, value in told.items() if name not in ("id", "parameters") and value is not None}
    tensors = {name: _as_tensor(name, value) for name, value in {**others, **inputs}.items()}
    return InferRequest(model, tensors, version, str(told.get("id") or ""), scalars)


def _as_tensor(name: str, value: Any) -> Tensor:
    """Return a JSON value as an input; objects, and lists of them, as the JSON text they are."""
    listed: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    several = all(isinstance(each, SCALARS) for each in listed)
    plain_values = listed if several else [json.dumps(value)]
    kinds = [next(datatype for kind, datatype in DATATYPES if isinstance(each, kind)) for each in plain_values]
    if len({*kinds}) > 1:
        raise InvalidInput(f"'{name}' mixes values of several kinds.", param=name)
    encoded = [each.encode() if isinstance(each, str) else each for each in plain_values]
    return Tensor(name, kinds[0] if kinds else "BYTES", (len(encoded),), encoded)


def flat(response: InferResponse) -> dict[str, Any]:
    """Return an answer as ``generate`` gives it: outputs by name, one value without a list."""
    values = {tensor.name: [plain(value) for value in tensor.values] for tensor in response.outputs}
    heading = {"id": response.id} if response.id else {}
    heading |= {"model_name": response.model, "model_version": VERSION}
    final = {FINAL: True} if response.parameters.get(FINAL) else {}
    return {**heading, **{name: each[0] if len(each) == 1 else each for name, each in values.items()}, **final}


# --- what /docs says -----------------------------------------------------------------------


class TensorBody(BaseModel):
    """A tensor of an inference; without ``data`` its values follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, bool | int | float | str] | None = None


class OutputBody(BaseModel):
    """An output that is wanted."""

    name: str
    parameters: dict[str, bool | int | float | str] | None = None


class InferBody(BaseModel):
    """An inference."""

    id: str | None = None
    inputs: list[TensorBody]
    outputs: list[OutputBody] | None = None
    parameters: dict[str, bool | int | float | str] | None = None


class GenerateBody(BaseModel):
    """A prompt, or a conversation, and whatever else the model takes, by name."""

    model_config = ConfigDict(extra="allow")

    text_input: str | None = None
    messages: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] | None = Field(None, description="Sampling, by vLLM's names.")


class IndexBody(BaseModel):
    """Which models are listed."""

    ready: bool | None = Field(None, description="Those that are ready alone.")


KSERVE_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "What happened and what to do, for people."},
        "type": {"type": "string", "description": "Which error: a name that does not change."},
        "message": {"type": "string"},
        "hint": {"type": ["string", "null"]},
        "param": {"type": ["string", "null"]},
    },
}
_WHOLE = Answers("KServeError", KSERVE_ERROR, None)
_STREAM = Answers("KServeError", KSERVE_ERROR)
_INFER = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["Hello"]}]}
_GENERATE = {"text_input": "Hello", "parameters": {"exclude_input_in_output": True, "max_tokens": 32}}
BODIES = {
    "/v2/models/{model}/infer": Bodies(InferBody, None, _INFER, _WHOLE),
    "/v2/models/{model}/generate": Bodies(GenerateBody, None, _GENERATE, _WHOLE),
    "/v2/models/{model}/generate_stream": Bodies(GenerateBody, None, _GENERATE, _STREAM),
    "/v2/repository/index": Bodies(
        IndexBody, None, {}, Answers("KServeError", KSERVE_ERROR, None, {"type": "array", "items": {"type": "object"}})
    ),
}
"""What each POST takes and gives, by path."""
