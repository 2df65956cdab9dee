"""Sampling, and what else a request may ask for: ``config={"configurable": {"temperature": 0.7}}``."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField, ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.runnables.utils import get_unique_config_specs
from langchain_core.tools import BaseTool
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from chat_vllm.messages import ChatOutput
from chat_vllm.model import ChatVLLM
from chat_vllm.structured import Method, Schema, Structured, structured_output


class Sampling(BaseModel):
    """What a request may change: fields of ``ChatVLLM`` by name, each in its range. None: the engine's default."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, title="Temperature", description="0 always takes the likeliest token."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, title="Top p", description="Sample among the likeliest tokens that have this share together."
    )
    top_k: Annotated[int, Field(ge=-1)] | None = Field(
        None, title="Top k", description="Sample among the k likeliest tokens; 0 or -1: among all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, title="Min p", description="Least likelihood of a token, relative to the likeliest."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = Field(
        None, title="Repetition penalty", description="Above 1: less repetition."
    )
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, title="Presence penalty", description="Above 0: more words that are new."
    )
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, title="Frequency penalty", description="Above 0: fewer words that are frequent."
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, title="Max tokens", description="The answer's length at most, in tokens."
    )
    seed: int | None = Field(None, title="Seed", description="The same seed and request give the same answer.")
    stop: list[str] | None = Field(None, title="Stop", description="Texts that end the answer.")


def parse_schema(value: Any) -> Any:
    """A schema as an object, where a playground's text box gave it as JSON text; an empty box says nothing."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as error:
        raise PydanticCustomError("schema_json", "The schema is no JSON: {why}", {"why": str(error)}) from error


class Options(BaseModel):
    """What a request may ask for beside sampling: fields of its body, as OpenAI and vLLM name them. None: not said."""

    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[dict[str, Any] | None, BeforeValidator(parse_schema)] = Field(
        default=None,
        title="Answer's schema",
        description="A JSON schema that the answer follows, or OpenAI's response_format.",
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: dict[str, float] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    structured_outputs: dict[str, Any] | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    thinking: bool | None = Field(
        None, title="Thinking", description="Whether a model that can reason does so before it answers."
    )

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of ``ChatVLLM``'s methods."""
        said = self.model_dump(exclude_none=True)
        if (thinking := said.pop("thinking", None)) is not None:
            told = self.chat_template_kwargs or {}
            said["chat_template_kwargs"] = {"enable_thinking": thinking, "thinking": thinking, **told}
        return said


if TYPE_CHECKING:
    Fields = RunnableConfigurableFields[LanguageModelInput, AIMessage]
else:
    Fields = RunnableConfigurableFields  # a parametrised one makes pydantic copy the model into an abstract class


class ConfigurableChat(Fields):
    """A ``ChatVLLM`` whose sampling a request may change.

    A request that changes nothing goes to the model itself; another to a copy of it that shares its connections.
    Tools and structured output bound here stay configurable (on the class of langchain-core they would not).
    """

    offers: tuple[str, ...] = ()
    """Fields of ``Options`` that the config's schema shows; the others are taken too where a config carries them."""

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        return get_unique_config_specs([*super().config_specs, *map(offered, self.offers)])

    @property
    def model(self) -> ChatVLLM:
        """The model as it is without a request's changes."""
        return cast("ChatVLLM", self.default)

    @override
    def prepare(
        self, config: RunnableConfig | None = None
    ) -> tuple[Runnable[LanguageModelInput, AIMessage], RunnableConfig]:
        """The model for one request; the model itself, at no cost, where the request wishes nothing."""
        if config is not None and not config.get("configurable") and not self.config:
            return self.model, config
        return super().prepare(config)

    @override
    def _prepare(
        self, config: RunnableConfig | None = None
    ) -> tuple[Runnable[LanguageModelInput, AIMessage], RunnableConfig]:
        """The model for one request.

        A copy, not a new instance as the base class makes: that would mark every field as set, ``streaming=False``
        among them, and a model told so answers a stream in one piece.
        """
        config = ensure_config(config)
        asked = config.get("configurable") or {}
        changes = {name: asked[name] for name in self.fields if name in asked}
        wishes = {name: asked[name] for name in Options.model_fields if name in asked}
        if not changes and not wishes:
            return self.model, config
        checked = Sampling.model_validate(changes).model_dump(exclude_unset=True)
        model = self.model.model_copy(update=checked) if checked else self.model
        arguments = Options.model_validate(wishes).arguments()
        return (model.bind(**arguments) if arguments else model), config

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """As ``ChatVLLM.bind_tools``."""
        bound: Any = self.model.bind_tools(tools, **kwargs)
        return self.bind(**bound.kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Structured]:
        """As ``ChatVLLM.with_structured_output``."""
        return structured_output(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    @override
    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The output is a message of the model."""
        return ChatOutput


def configurable(
    llm: ChatVLLM,
    names: Sequence[str] = tuple(Sampling.model_fields),
    *,
    offers: Sequence[str] = ("response_format",),
) -> ConfigurableChat:
    """Let a request's config change these fields of ``Sampling``, and show these of ``Options`` beside them.

    A value out of its range raises pydantic's ``ValidationError`` when the request is made.
    """
    fields: dict[str, Any] = {
        name: ConfigurableField(
            id=name,
            name=field.title,
            description=field.description,
            annotation=Annotated[field.annotation, Field(json_schema_extra=leave_out_null)],
        )
        for name, field in Sampling.model_fields.items()
        if name in names
    }
    return ConfigurableChat(default=llm, fields=fields, offers=tuple(offers))


def offered(name: str) -> ConfigurableFieldSpec:
    """A field of ``Options`` as one of a config's schema."""
    field = Options.model_fields[name]
    shown: Any = Field(json_schema_extra=as_text if name == "response_format" else leave_out_null)
    annotation = Annotated[dict[str, Any] | str | None, BeforeValidator(parse_schema), shown]
    return ConfigurableFieldSpec(
        id=name,
        name=field.title,
        description=field.description,
        annotation=annotation if name == "response_format" else Annotated[field.annotation, shown],
        default=None,
    )


def as_text(schema: dict[str, Any]) -> None:
    """Show a field as a text box: LangServe's playground has none for an object of any shape."""
    schema.pop("anyOf")
    schema.pop("default", None)
    schema["type"] = "string"


def leave_out_null(schema: dict[str, Any]) -> None:
    """Show an optional field as its type alone: LangServe's playground stays blank at ``anyOf`` with ``null``."""
    schema.update(schema.pop("anyOf")[0])
    if schema.get("default", ...) is None:
        del schema["default"]
