"""Requests of Text Generation Inference and of Hugging Face's tasks, parsed.

Follows https://huggingface.co/docs/text-generation-inference and https://huggingface.co/docs/inference-providers/tasks.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from app.catalogue import Choice
from app.errors import InvalidInput
from app.protocols.chat_request import ChatRequest
from app.protocols.delivery import parse, session_of, wait_of
from app.protocols.ollama.requests import picture_url
from app.protocols.turns import read_turns

UNSUPPORTED = {
    "adapter_id": "this service loads no adapters for a request.",
    "decoder_input_details": "the prompt's own tokens are not told.",
    "top_n_tokens": "the likeliest others of each token are not told here; OpenAI's logprobs tell them.",
    "truncate": "a prompt that is too long is an error.",
    "typical_p": "vLLM does not sample so.",
    "watermark": "answers carry no watermark.",
}
NAMES = {"max_tokens": "parameters.max_new_tokens", "response_format": "parameters.grammar"}
SAMPLING = ("frequency_penalty", "repetition_penalty", "seed", "temperature", "top_k", "top_p", "min_p")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]*)\)")


class Parameters(BaseModel):
    """``parameters`` of a text."""

    model_config = ConfigDict(extra="forbid")

    best_of: int | None = Field(None, ge=1, le=1)
    details: bool | None = None
    do_sample: bool | None = None
    frequency_penalty: float | None = None
    grammar: dict[str, Any] | None = None
    max_new_tokens: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    seed: int | None = None
    stop: list[str] | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


class TextBody(BaseModel):
    """A text-generation request, or an image-text-to-text one."""

    model_config = ConfigDict(extra="forbid")

    inputs: str | dict[str, Any]
    parameters: dict[str, Any] | None = None
    stream: bool | None = None
    options: dict[str, Any] | None = Field(None, description="Ignored: `use_cache` and `wait_for_model`.")


class DrawingParameters(BaseModel):
    """``parameters`` of text-to-image."""

    model_config = ConfigDict(extra="forbid")

    guidance_scale: float | None = None
    height: int | None = Field(None, ge=1, le=99_999)
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    width: int | None = Field(None, ge=1, le=99_999)


class DrawingBody(BaseModel):
    """A text-to-image request."""

    model_config = ConfigDict(extra="forbid")

    inputs: str
    parameters: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class FeatureBody(BaseModel):
    """A feature-extraction request."""

    model_config = ConfigDict(extra="forbid")

    inputs: str | list[str]
    normalize: bool | None = None
    truncate: bool | None = None
    parameters: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


UNSUPPORTED_DRAWING = {"scheduler": "the model's own is used."}
UNSUPPORTED_FEATURES = {
    "prompt_name": "write the prompt before the text.",
    "truncation_direction": "texts are cut at their end.",
}


def read_parameters(body: TextBody) -> Parameters:
    """Return the parameters of a text.

    Raises:
        InvalidInput: One is unknown, unsupported, or of another type; named.
    """
    return _within("parameters", Parameters, body.parameters or {}, UNSUPPORTED)


def _within(place: str, kind: Any, given: Mapping[str, Any], unsupported: Mapping[str, str]) -> Any:
    """Parse an object inside a body; errors name where it stands."""
    try:
        return parse(kind, given, unsupported)
    except InvalidInput as error:
        raise InvalidInput(f"{place}.{error.message}", param=f"{place}.{error.param}") from error


def read_text(choice: Choice, body: TextBody, told: Parameters, request: Request) -> ChatRequest:
    """Return what a text-generation request asks: a chain takes the prompt as a user's turn, a raw model continues it.

    Raises:
        InvalidInput: Something does not fit.
    """
    asked = _asked(choice, body)
    return ChatRequest(
        model=choice.name,
        options=read_options(told),
        names={**NAMES, **{name: f"parameters.{name}" for name in (*SAMPLING, "stop")}},
        session=session_of(request),
        wait=wait_of(request),
        **asked,
    )


def _asked(choice: Choice, body: TextBody) -> dict[str, Any]:
    if isinstance(body.inputs, dict):
        content = _with_pictures(body.inputs)
    elif choice.raw or choice.served.spec.task != "vision-chat":
        return {"prompt": body.inputs}
    else:
        content = _split(body.inputs)
    return {"messages": read_turns([{"role": "user", "content": content}])}


def _with_pictures(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the content of image-text-to-text: ``{"image" or "images": base64, "text": ...}``."""
    text: Any = inputs.get("text", inputs.get("prompt"))
    if not isinstance(text, str):
        raise InvalidInput("inputs.text: what to say about the picture.", param="inputs.text")
    given: Any = inputs.get("images", [inputs["image"]] if inputs.get("image") is not None else [])
    if not isinstance(given, list):
        raise InvalidInput("inputs.images: a list.", param="inputs.images")
    urls = [picture_url(image, f"inputs.images.{index}") for index, image in enumerate(cast("list[Any]", given))]
    return [*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": text}]


def _split(prompt: str) -> str | list[dict[str, Any]]:
    """Return a prompt with pictures as TGI has them, ``![](data:image/png;base64,...)``, as parts."""
    pieces = _PICTURE.split(prompt)
    if len(pieces) == 1:
        return prompt
    parts: list[dict[str, Any]] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            parts.append({"type": "image_url", "image_url": {"url": piece}})
        elif piece.strip():
            parts.append({"type": "text", "text": piece})
    return parts


def read_options(told: Parameters) -> dict[str, Any]:
    """Return the options that parameters say, by our names; tokens are told with their ids and likelihoods."""
    options: dict[str, Any] = {name: value for name in SAMPLING if (value := getattr(told, name)) is not None}
    if told.max_new_tokens is not None:
        options["max_tokens"] = told.max_new_tokens
    if told.do_sample is False:
        options["temperature"] = 0.0
    if stop := [*(told.stop or ()), *(told.stop_sequences or ())]:
        options["stop"] = stop
    if told.grammar is not None:
        options |= read_grammar(told.grammar)
    return {**options, "logprobs": True, "return_token_ids": True}


def read_grammar(grammar: Mapping[str, Any]) -> dict[str, Any]:
    """Return a grammar as options of vLLM.

    Raises:
        InvalidInput: It is none that TGI knows.
    """
    kind, value = grammar.get("type"), grammar.get("value")
    if kind == "regex" and isinstance(value, str):
        return {"structured_outputs": {"regex": value}}
    if kind in ("json", "json_schema") and isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        schema = given.get("schema", given) if kind == "json_schema" else given
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    raise InvalidInput(
        "parameters.grammar: json with a schema, json_schema, or regex with an expression.", param="parameters.grammar"
    )


def read_drawing(body: DrawingBody) -> dict[str, Any]:
    """Return a text-to-image request in the form of OpenAI's images.

    Raises:
        InvalidInput: A parameter does not fit.
    """
    told = _within("parameters", DrawingParameters, body.parameters or {}, UNSUPPORTED_DRAWING)
    if (told.width is None) != (told.height is None):
        raise InvalidInput("parameters.width and height: both or none.", param="parameters.width")
    size = {"size": f"{told.width}x{told.height}"} if told.width is not None else {}
    names = ("negative_prompt", "num_inference_steps", "guidance_scale", "seed")
    return {"prompt": body.inputs, **size, **{name: getattr(told, name) for name in names}}


def read_features(body: FeatureBody) -> dict[str, Any]:
    """Return a feature-extraction request in the form of OpenAI's embeddings.

    Raises:
        InvalidInput: A parameter does not fit.
    """
    told = {"normalize": body.normalize, "truncate": body.truncate, **(body.parameters or {})}
    for name, why in UNSUPPORTED_FEATURES.items():
        if told.pop(name, None) is not None:
            raise InvalidInput(f"{name}: {why}", param=name)
    if told.get("normalize") is False:
        raise InvalidInput("normalize: vectors come as the model makes them.", param="normalize")
    asked: dict[str, Any] = {"input": body.inputs, "encoding_format": "float"}
    return {**asked, "truncate_prompt_tokens": -1} if told.get("truncate") else asked
