"""What a request for pictures may say, as types that LangServe can show and check."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.messages.utils import convert_to_messages
from langchain_core.prompt_values import PromptValue
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

SIZE = r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"
LARGEST_SEED = 2**63 - 1
NOT_SAID = {"default": None}

OutputFormat = Literal["png", "jpeg", "webp"]


class ImageLimits(BaseModel):
    """What one request may ask for."""

    model_config = ConfigDict(frozen=True)

    pictures: Annotated[int, Field(ge=1)] = 4
    pixels: Annotated[int, Field(ge=1)] = 4_194_304
    """Of one picture."""
    steps: Annotated[int, Field(ge=1)] = 200
    """vLLM-Omni's own limit."""
    prompt_characters: Annotated[int, Field(ge=1)] = 4096


class Drawing(BaseModel):
    """How to draw; names as in vLLM-Omni's images API. None: the model's default."""

    negative_prompt: str | None = Field(None, title="Negative prompt", description="What shall not be seen.")
    size: Annotated[str, Field(pattern=SIZE)] | None = Field(
        None, title="Size", description="Width x height in pixels, as 1024x1024."
    )
    num_inference_steps: Annotated[int, Field(ge=1)] | None = Field(
        None, title="Steps", description="More steps take longer and may look better."
    )
    guidance_scale: Annotated[float, Field(ge=0, le=20)] | None = Field(
        None, title="Guidance", description="How closely the prompt is followed."
    )
    true_cfg_scale: Annotated[float, Field(ge=0, le=20)] | None = Field(
        None, title="True CFG", description="Guidance by the negative prompt (Qwen-Image)."
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = Field(
        None, title="Seed", description="The same seed and request give the same picture; several count on from it."
    )
    n: Annotated[int, Field(ge=1)] | None = Field(None, title="Pictures", description="How many to draw.")
    output_format: OutputFormat | None = Field(None, title="Format", description="png, jpeg or webp.")


class ImageInput(Drawing):
    """The input of an image chain: a prompt, and how to draw it.

    Besides ``{"prompt": "..."}`` it accepts a plain string, ``{"input": "..."}``, and a conversation, of which the last
    message of a person is the prompt.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prompt": "a red apple"}]})

    prompt: Annotated[str, Field(min_length=1)] = Field(title="Prompt", description="What shall be seen.")

    @model_validator(mode="before")
    @classmethod
    def gather(cls, value: Any) -> Any:
        """Bring the short forms into the long one."""
        if isinstance(value, Mapping):
            return from_object(cast("Mapping[str, Any]", value))
        return value if isinstance(value, Drawing) else {"prompt": text(value)}


def from_object(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """``{"input": ...}``, ``{"messages": [...]}`` or one message as an object with a prompt."""
    if "role" in value or value.get("type") in ("human", "HumanMessageChunk", "constructor"):
        return {"prompt": text([value])}
    for name in ("input", "messages"):
        if name in value and "prompt" not in value:
            rest = {key: item for key, item in value.items() if key != name}
            return {**rest, "prompt": text(value[name])}
    return value


def text(value: Any) -> Any:
    """The prompt of a text, a prompt value, one message or a conversation; anything else as it is."""
    if isinstance(value, PromptValue):
        value = value.to_messages()
    if isinstance(value, BaseMessage):
        value = [value]
    if not isinstance(value, list):
        return value
    asked = [message.text for message in conversation(cast("list[Any]", value)) if isinstance(message, HumanMessage)]
    if not asked:
        raise PydanticCustomError("prompt_missing", "Among the messages is none of a person, so there is no prompt.")
    return asked[-1]


def conversation(value: Sequence[Any]) -> list[BaseMessage]:
    """Messages in any form LangChain or OpenAI writes them."""
    try:
        return convert_to_messages(value)
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise PydanticCustomError("message", "Not a conversation: {why}", {"why": str(error)}) from error


# --- limits --------------------------------------------------------------------------------


def limited_fields(limits: ImageLimits) -> dict[str, Any]:
    """The fields of ``Drawing`` with their types as a model's limits narrow them, by name."""

    def checked(size: Any) -> Any:
        return check_size(size, limits.pixels)

    words: Any = Annotated[str, Field(max_length=limits.prompt_characters)]
    size: Any = Annotated[str, Field(pattern=SIZE)]
    steps: Any = Annotated[int, Field(ge=1, le=limits.steps)]
    count: Any = Annotated[int, Field(ge=1, le=limits.pictures)]
    return {
        "negative_prompt": words | None,
        "size": Annotated[size | None, BeforeValidator(checked)],
        "num_inference_steps": steps | None,
        "n": count | None,
    }


def check_size(size: Any, most: int) -> Any:
    """A size as it is, if it has the form WIDTHxHEIGHT and at most so many pixels."""
    if size is None:
        return None
    if not isinstance(size, str) or re.fullmatch(SIZE, size) is None:
        raise PydanticCustomError("size", "A size is WIDTHxHEIGHT in pixels, as 1024x1024.")
    width, height = map(int, size.split("x"))
    if width * height > most:
        raise PydanticCustomError("too_many_pixels", "A picture has at most {most} pixels.", {"most": most})
    return size


def limited_input(limits: ImageLimits) -> type[ImageInput]:
    """``ImageInput`` within a model's limits; what is beyond them is refused with the place and the limit."""
    fields: dict[str, Any] = {name: (kind, described(Drawing, name)) for name, kind in limited_fields(limits).items()}
    prompt = Annotated[str, Field(min_length=1, max_length=limits.prompt_characters)]
    fields["prompt"] = (prompt, described(ImageInput, "prompt"))
    return create_model("ImageInput", __base__=ImageInput, __module__=__name__, **fields)


def described(model: type[BaseModel], name: str) -> FieldInfo:
    """A field with the title, description and default of another, without its bounds."""
    field = model.model_fields[name]
    default: dict[str, Any] = {} if field.is_required() else NOT_SAID
    return Field(title=field.title, description=field.description, **default)
