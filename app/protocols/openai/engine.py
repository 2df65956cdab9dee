"""OpenAI's requests that go to an engine without a chain between: embeddings and images, checked."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from app.catalogue import Choice
from app.errors import InvalidInput, TooLarge
from app.protocols.delivery import parse
from app.settings import Limits

SIZE = r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}|auto"


class EmbeddingBody(BaseModel):
    """``POST /v1/embeddings``."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="-1: to what the model takes.")
    add_special_tokens: bool | None = None
    user: str | None = None


class ImageBody(BaseModel):
    """``POST /v1/images/generations``."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    prompt: str = Field(min_length=1)
    n: int | None = Field(None, ge=1)
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    negative_prompt: str | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    true_cfg_scale: float | None = Field(None, ge=0, le=100)
    seed: int | None = Field(None, ge=0, lt=2**63)
    user: str | None = None
    quality: Any = None
    style: Any = None
    background: Any = None
    moderation: Any = None
    output_compression: Any = None

    @field_validator("size")
    @classmethod
    def _has_form(cls, size: str | None) -> str | None:
        if size is None or re.fullmatch(SIZE, size):
            return size
        raise PydanticCustomError("size", "a size is WIDTHxHEIGHT in pixels, as 1024x1024, or auto.")


UNSUPPORTED_IMAGES = {"stream": "pictures come whole.", "partial_images": "pictures come whole."}
IMAGE_IGNORED = ("quality", "style", "background", "moderation", "output_compression", "user")


def read_embeddings(choice: Choice, body: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return the engine's request for embeddings.

    Raises:
        ServiceError: The model embeds nothing, a field is unknown, or there are too many inputs.
    """
    choice.require("embedding")
    told = parse(EmbeddingBody, {**body, "model": choice.name})
    if not told.input:
        raise InvalidInput("input: a text, or a list of texts.", param="input")
    several = not isinstance(told.input, str) and not isinstance(told.input[0], int)  # numbers are one text, as tokens
    if several and len(told.input) > limits.embeddings:
        raise TooLarge(f"{len(told.input)} inputs are more than {limits.embeddings}.", param="input")
    return told.model_dump(exclude_none=True)


def read_images(choice: Choice, body: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return the engine's request for pictures: the entry's defaults, and what the request changes.

    Raises:
        ServiceError: The model does not draw, a field is unknown, or out of its range.
    """
    choice.require("image-generation")
    spec = choice.served.spec
    told = parse(ImageBody, body, UNSUPPORTED_IMAGES)
    if not told.prompt.strip():
        raise InvalidInput("prompt: say what to draw.", param="prompt")
    asked = told.model_dump(exclude_none=True, exclude={"model", "response_format", *IMAGE_IGNORED})
    if told.response_format == "url" and (choice.raw or choice.served.chain is None):
        raise InvalidInput("response_format: what an engine draws itself is not kept.", param="response_format")
    if asked.get("size") == "auto":
        del asked["size"]
    drawing = {**spec.drawing.model_dump(exclude_none=True), "n": 1, **asked}
    check_drawing(
        drawing,
        pixels=spec.limits.max_pixels or limits.picture_pixels,
        pictures=spec.limits.max_images or limits.pictures,
        steps=limits.picture_steps,
    )
    return drawing


def check_drawing(drawing: Mapping[str, Any], *, pixels: int, pictures: int, steps: int) -> None:
    """Refuse more than a model draws.

    Raises:
        InvalidInput: More pictures, or more steps.
        TooLarge: More pixels.
    """
    for name, most in (("n", pictures), ("num_inference_steps", steps)):
        if drawing.get(name, 1) > most:
            raise InvalidInput(f"{name}: from 1 to {most}.", param=name)
    width, _, height = drawing.get("size", "1x1").partition("x")
    if int(width) * int(height) > pixels:
        raise TooLarge(f"size: {width}x{height} is more than {pixels} pixels.", param="size")
