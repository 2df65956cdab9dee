"""Answers that follow a schema, enforced by vLLM while it samples."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal, Protocol, TypeAlias, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel
from typing_extensions import TypeIs

Schema: TypeAlias = dict[str, Any] | type
Structured: TypeAlias = dict[str, Any] | BaseModel
Method: TypeAlias = Literal["function_calling", "json_mode", "json_schema"]

RESPONSE_FORMATS = ("json_schema", "json_object", "structural_tag", "text")


class Bindable(Protocol):
    """What is needed of a chat model, plain or configurable per request."""

    def bind(self, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Fix arguments of its requests."""
        ...

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools in its requests."""
        ...


def structured_output(
    llm: Bindable,
    schema: Schema | None,
    *,
    method: Literal["function_calling", "json_mode", "json_schema"] = "json_schema",
    include_raw: bool = False,
    strict: bool | None = None,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Structured]:
    """Bind a schema to a chat model and parse its answers.

    Args:
        llm: The model.
        schema: A pydantic class, a TypedDict, a JSON schema with a title, or an OpenAI function or tool.
        method: ``json_schema`` (the whole answer, enforced by vLLM's ``response_format``), ``function_calling`` (the
            arguments of a forced tool call, enforced too) or ``json_mode`` (any JSON object; a schema is enforced here
            too, as vLLM can).
        include_raw: Give ``{"raw", "parsed", "parsing_error"}`` and never raise for an answer that doesn't parse.
        strict: For ``function_calling``; enforced unless False.
        kwargs: Bound to the model beside it.
    """
    if schema is None and method != "json_mode":
        msg = f"method={method!r} needs a schema."
        raise ValueError(msg)
    if schema is not None and method != "json_mode":
        traced: dict[str, Any] = {"kwargs": {"method": method}, "schema": convert_to_openai_tool(schema)}
    else:
        traced = {"kwargs": {"method": method}, "schema": schema}
    kwargs["ls_structured_output_format"] = traced
    if method == "function_calling":
        bound, parser = bind_function(llm, cast("Schema", schema), strict=strict, **kwargs)
    elif method in ("json_schema", "json_mode"):
        response_format = {"type": "json_object"} if schema is None else json_schema_format(schema)
        bound, parser = llm.bind(response_format=response_format, **kwargs), json_parser(schema)
    else:
        msg = f"method must be 'json_schema', 'function_calling' or 'json_mode', not {method!r}."
        raise ValueError(msg)
    if not include_raw:
        return cast("Runnable[LanguageModelInput, Structured]", bound | parser)
    return cast("Runnable[LanguageModelInput, Structured]", RunnableMap(raw=bound) | beside_raw(parser))


def bind_function(
    llm: Bindable, schema: Schema, *, strict: bool | None, **kwargs: Any
) -> tuple[Runnable[LanguageModelInput, AIMessage], Runnable[Any, Any]]:
    """The model with the schema as its only, forced function, and what parses the call's arguments."""
    name = convert_to_openai_tool(schema)["function"]["name"]
    bound = llm.bind_tools([schema], tool_choice=name, parallel_tool_calls=False, strict=strict, **kwargs)
    if is_pydantic(schema):
        return bound, PydanticToolsParser(tools=[schema], first_tool_only=True)
    return bound, JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def json_parser(schema: Schema | None) -> Runnable[Any, Any]:
    """What parses a whole answer of JSON: into the schema's class if it is a pydantic one."""
    return PydanticOutputParser[Any](pydantic_object=schema) if is_pydantic(schema) else JsonOutputParser()


def is_pydantic(schema: Any) -> TypeIs[type[BaseModel]]:
    """Whether answers become instances of a class, be it of pydantic's second version or its first."""
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def beside_raw(parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Parse ``raw`` into ``parsed``, or put what went wrong into ``parsing_error``."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return parsed.with_fallbacks([failed], exception_key="parsing_error")


def json_schema_format(schema: Any) -> dict[str, Any]:
    """A schema as vLLM's ``response_format``; one that is a ``response_format`` already stays as it is."""
    if isinstance(schema, Mapping):
        schema = dict(cast("Mapping[str, Any]", schema))
        if schema.get("type") in RESPONSE_FORMATS:
            return schema
    if isinstance(schema, Mapping) and not {"title", "name", "function"} & {*cast("Mapping[str, Any]", schema)}:
        return {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {**schema}},
        }  # langchain wants a title
    json_schema = convert_to_json_schema(cast("Any", schema))
    return {"type": "json_schema", "json_schema": {"name": json_schema.get("title", "answer"), "schema": json_schema}}
