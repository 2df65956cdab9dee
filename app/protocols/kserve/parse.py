"""From the tensors of an inference to the question they ask: names as Triton's backend for vLLM has them.

Source: https://github.com/triton-inference-server/vllm_backend (``src/utils/request.py``, ``docs/``).
As there, sampling stands in the tensor ``sampling_parameters`` (a JSON object, whose numbers may be texts) or in the
request's parameters. Tensors of their own for it (``max_tokens``, ``temperature``), as TensorRT-LLM's models have them,
are taken too. Ours alone are ``messages``, a conversation as JSON, and the parameter ``session_id``.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from chat_vllm import ChatInput, Options, Sampling
from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import BaseModel, ValidationError

from app.errors import InvalidInput, Refused
from app.guard.bodies import parse_json
from app.protocols.chat_request import ChatRequest
from app.protocols.kserve.tensors import InferRequest, Tensor
from app.responses import invalid

VERSION = "1"
"""Of every model: a changed entry replaces the one before."""

TEXT, IMAGE, MESSAGES = "text_input", "image", "messages"
STREAM, EXCLUDE, SAMPLING = "stream", "exclude_input_in_output", "sampling_parameters"
EXTRAS: Mapping[str, str] = {
    "return_finish_reason": "finish_reason",
    "return_cumulative_logprob": "cumulative_logprob",
    "return_num_input_tokens": "num_input_tokens",
    "return_num_output_tokens": "num_output_tokens",
}
"""Wishes, and the output that each adds."""
UNSUPPORTED = ("return_logprobs", "embedding_request", "bad_words", "lora_name", "n", "best_of", "guided_decoding")
"""What Triton's backend takes and this service does not: refused by name, unless it asks for nothing."""
OTHER_NAMES = {"stop_words": "stop", "random_seed": "seed", "min_length": "min_tokens"}
"""TensorRT-LLM's names for sampling."""
OPTIONS = ("response_format", "min_tokens", "ignore_eos", "logit_bias", "thinking")
SESSIONS = ("session_id", "sequence_id")
IGNORED = frozenset({
    "priority", "timeout", "sequence_start", "sequence_end", "binary_data_output", "request_id",
    "triton_enable_empty_final_response", "headers",
})  # fmt: skip
"""Parameters of the protocol itself, which ask nothing of a model."""

JSON_DEPTH = 32
MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))


@dataclass(frozen=True)
class Asked:
    """A question, and what its answer has to show."""

    request: ChatRequest
    echo: str = ""
    """The prompt, where the answer begins with it: Triton's default without a stream."""
    extras: tuple[str, ...] = ()
    """Outputs that are wanted beside the text."""


def parse(infer: InferRequest, *, stream: bool | None = None) -> Asked:
    """Return the question.

    Args:
        infer: The inference.
        stream: Whether the answer comes in pieces; None: as its tensor says.

    Raises:
        InvalidInput: A tensor or parameter is missing, unknown, or does not fit.
        Refused: It asks for what is not supported.
    """
    said = {**infer.parameters, **_controls(infer.inputs)}
    check_version(infer)
    streams = bool(_taken_flag(said, STREAM)) if stream is None else stream
    said.pop(STREAM, None)
    exclude = _taken_flag(said, EXCLUDE)
    if streams and exclude is False:
        raise InvalidInput(f"A stream cannot begin with its input: {EXCLUDE} must not be false.", param=EXCLUDE)
    extras = tuple(output for wish, output in EXTRAS.items() if _taken_flag(said, wish))
    session = next((str(said[name]) for name in SESSIONS if said.get(name)), None)
    options = _options({name: value for name, value in said.items() if name not in (*SESSIONS, *IGNORED)})
    if "cumulative_logprob" in extras:
        options |= {"logprobs": True}
    messages = _messages(infer)
    request = ChatRequest(
        infer.model,
        messages=messages or (),
        prompt=None if messages else _prompt(infer),
        options=options,
        names={ours: theirs for theirs, ours in OTHER_NAMES.items() if theirs in said},
        stream=streams,
        session=session,
    )
    echo = request.prompt if not streams and not exclude and request.prompt else ""
    return Asked(request, echo, extras)


def check_version(infer: InferRequest) -> None:
    """Refuse a version that no model has."""
    if infer.version not in ("", VERSION):
        message = f"'{infer.model}' has no version '{infer.version[:32]}'."
        raise InvalidInput(message, hint=f"There is {VERSION}.", param="model_version")


def _controls(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the tensors beside the text say: one value each."""
    tensors = (tensor for name, tensor in inputs.items() if name not in (TEXT, IMAGE, MESSAGES))
    return {tensor.name: _one(tensor) for tensor in tensors if tensor.values}


def _one(tensor: Tensor) -> Any:
    """Return a tensor's value: texts as texts; more than one only as a list of texts."""
    values = [_decoded(tensor.name, value) if isinstance(value, bytes) else value for value in tensor.values]
    if len(values) > 1 and not isinstance(values[0], str):
        raise InvalidInput(f"'{tensor.name}' takes one value, and {len(values)} came.", param=tensor.name)
    return values[0] if len(values) == 1 else values


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"'{name}' is no UTF-8: byte {error.start} is wrong.", param=name) from error


def _taken_flag(said: dict[str, Any], name: str) -> bool | None:
    """Take a truth value out of what is said; None where it is not."""
    value = said.pop(name, None)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidInput(f"'{name}' is a truth value (BOOL).", param=name)


# --- sampling ------------------------------------------------------------------------------


def _options(said: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a request: the JSON object in ``sampling_parameters``, and what stands beside it."""
    text = said.pop(SAMPLING, None)
    within: Mapping[str, Any] = _sampling_object(text) if text else {}
    named = {OTHER_NAMES.get(name, name): value for name, value in {**said, **within}.items() if not _is_nothing(value)}
    for name in UNSUPPORTED:
        if named.get(name) not in (None, False, 1):
            raise Refused(f"'{name}' is not supported.", param=name)
        named.pop(name, None)
    named |= _logprobs(named.pop("logprobs", None))
    if isinstance(named.get("stop"), str):
        named["stop"] = [named["stop"]]
    known = (*Sampling.model_fields, *OPTIONS, "logprobs", "top_logprobs")
    if unknown := [name for name in named if name not in known]:
        hint = f"Sampling is {', '.join((*Sampling.model_fields, *OPTIONS, 'logprobs'))}."
        raise InvalidInput(f"There is no input or parameter '{unknown[0][:64]}'.", hint=hint, param=unknown[0][:64])
    return {**_validated(Sampling, named), **_validated(Options, named)}


def _is_nothing(value: Any) -> bool:
    """Whether a value stands for none: TensorRT-LLM's clients send empty lists of words."""
    return value is None or value in ("", [""])


def _sampling_object(text: Any) -> Mapping[str, Any]:
    try:
        value = parse_json(str(text).encode(), JSON_DEPTH)
    except InvalidInput as error:
        raise InvalidInput(error.message.replace("The body", f"'{SAMPLING}'"), param=SAMPLING) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"'{SAMPLING}' is a JSON object.", param=SAMPLING)
    return cast("Mapping[str, Any]", value)


def _logprobs(count: Any) -> dict[str, Any]:
    """Return vLLM's number of likeliest tokens as OpenAI asks for them."""
    return {} if count is None else {"logprobs": True, "top_logprobs": count}


def _validated(kind: type[BaseModel], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of one kind, with numbers for texts that stand for them."""
    said = {name: value for name, value in named.items() if name in kind.model_fields}
    try:
        return kind.model_validate(said).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from error


# --- the conversation ----------------------------------------------------------------------


def texts(infer: InferRequest) -> list[str]:
    """Return the texts of ``text_input``.

    Raises:
        InvalidInput: There is none.
    """
    tensor = infer.inputs.get(TEXT)
    if tensor is None or not tensor.values:
        raise InvalidInput(f"The input '{TEXT}' is missing.", param=TEXT)
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"'{TEXT}' is BYTES, not {tensor.datatype}.", param=TEXT)
    return [_decoded(TEXT, value) for value in tensor.values]


def _prompt(infer: InferRequest) -> str:
    said = texts(infer)
    if len(said) > 1:
        raise InvalidInput(f"'{TEXT}' takes one text here, and {len(said)} came.", param=TEXT)
    return said[0]


def _messages(infer: InferRequest) -> Sequence[BaseMessage] | None:
    """Return the conversation of the tensor ``messages``, or of a text with images; None: a text alone."""
    tensor, images = infer.inputs.get(MESSAGES), infer.inputs.get(IMAGE)
    if tensor is None:
        return [_picture_message(_prompt(infer), images)] if images is not None and images.values else None
    if TEXT in infer.inputs:
        raise InvalidInput(f"Give '{TEXT}' or '{MESSAGES}', not both.", param=MESSAGES)
    try:
        turns = json.loads(_decoded(MESSAGES, tensor.values[0])) if tensor.datatype == "BYTES" else None
        return ChatInput.model_validate(turns).messages
    except (ValueError, IndexError, RecursionError) as error:
        if isinstance(error, ValidationError):
            raise invalid(error.errors(include_url=False, include_input=False), within=[MESSAGES]) from error
        raise InvalidInput(f"'{MESSAGES}' is no JSON list of messages.", param=MESSAGES) from error


def _picture_message(text: str, images: Tensor) -> HumanMessage:
    urls = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images.values]
    return HumanMessage([{"type": "text", "text": text}, *urls])


def _data_url(image: Any) -> str:
    """Return an image, which comes as Base64, as a URL."""
    try:
        beginning = base64.b64decode(image[:32], validate=True) if isinstance(image, bytes) else b""
    except binascii.Error:
        beginning = b""
    kind = next((kind for magic, kind in MAGIC if beginning.startswith(magic)), None)
    if kind is None:
        raise InvalidInput(f"'{IMAGE}' holds no PNG, JPEG, GIF or WebP in Base64.", param=IMAGE)
    return f"data:{kind};base64,{image.decode('ascii', errors='replace')}"
