"""OpenAI's requests that go to an engine without a chain between: embeddings and images, checked."""

from collections.abc import Mapping
from typing import Any, cast

from app.catalogue import Choice
from app.errors import InvalidInput, TooLarge
from app.protocols.passage import only
from app.settings import Limits

EMBEDDING_FIELDS = (
    *("model", "input", "encoding_format", "dimensions", "user"),
    *("truncate_prompt_tokens", "add_special_tokens", "embed_dtype", "endianness", "priority"),
)
IMAGE_FIELDS = (
    *("model", "prompt", "n", "size", "response_format", "output_format", "user"),
    *("negative_prompt", "num_inference_steps", "guidance_scale", "true_cfg_scale", "seed"),
)
IMAGE_IGNORED = ("quality", "style", "background", "moderation", "output_compression", "user")
DRAWING_LIMITS = {"num_inference_steps": (1, 1000), "guidance_scale": (0, 100), "true_cfg_scale": (0, 100)}
SIDE_LIMIT = 16_384


def read_embeddings(choice: Choice, body: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return the engine's request for embeddings.

    Raises:
        ServiceError: The model embeds nothing, a field is unknown, or there are too many inputs.
    """
    choice.require("embedding")
    checked = only(body, EMBEDDING_FIELDS)
    given: Any = checked.get("input")
    if not isinstance(given, str | list) or not given:
        raise InvalidInput("input: a text, or a list of texts.", param="input")
    if isinstance(given, list):
        inputs = cast("list[Any]", given)
        several = not isinstance(inputs[0], int)  # a list of numbers is one text, as tokens
        if several and len(inputs) > limits.embeddings:
            raise TooLarge(f"{len(inputs)} inputs are more than {limits.embeddings}.", param="input")
    return checked


def read_images(choice: Choice, body: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return the engine's request for pictures: the entry's defaults, and what the request changes.

    Raises:
        ServiceError: The model does not draw, a field is unknown, or out of its range.
    """
    choice.require("image-generation")
    spec = choice.served.spec
    if body.get("stream") or body.get("partial_images"):
        raise InvalidInput("stream: pictures come whole.", param="stream")
    if body.get("response_format") == "url":
        raise InvalidInput("response_format: pictures come as b64_json: none are kept here.", param="response_format")
    kept = {name: value for name, value in body.items() if name not in (*IMAGE_IGNORED, "stream", "partial_images")}
    asked = {name: value for name, value in only(kept, IMAGE_FIELDS).items() if value is not None}
    if asked.get("size") == "auto":
        del asked["size"]
    drawing = {**spec.drawing.model_dump(exclude_none=True), "n": 1, "response_format": "b64_json", **asked}
    check_drawing(drawing, pixels=spec.limits.max_pixels, pictures=spec.limits.max_images or limits.choices)
    return drawing


def check_drawing(drawing: Mapping[str, Any], *, pixels: int | None, pictures: int) -> None:
    """Refuse what cannot be drawn, or should not be.

    Raises:
        InvalidInput: Named with its field.
        TooLarge: More pixels than the model draws.
    """
    prompt: Any = drawing.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidInput("prompt: say what to draw.", param="prompt")
    count: Any = drawing["n"]
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= pictures:
        raise InvalidInput(f"n: from 1 to {pictures}.", param="n")
    if drawing["response_format"] != "b64_json":
        raise InvalidInput("response_format: b64_json.", param="response_format")
    for name, (least, most) in DRAWING_LIMITS.items():
        value: Any = drawing.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InvalidInput(f"{name}: a number.", param=name)
        if value is not None and not least <= value <= most:
            raise InvalidInput(f"{name}: from {least} to {most}.", param=name)
    if drawing.get("size") is not None:
        check_size(drawing["size"], pixels)


def check_size(size: Any, pixels: int | None) -> None:
    """Refuse a size that is none, or too large for the model."""
    width, _, height = size.partition("x") if isinstance(size, str) else ("", "", "")
    sides = [int(side) if side.isascii() and side.isdigit() and len(side) < 6 else 0 for side in (width, height)]  # noqa: PLR2004
    if not all(0 < side <= SIDE_LIMIT for side in sides):
        raise InvalidInput("size: WIDTHxHEIGHT in pixels.", param="size")
    if pixels is not None and sides[0] * sides[1] > pixels:
        raise TooLarge(f"size: {size} is more than {pixels} pixels.", param="size")
