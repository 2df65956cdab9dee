"""What goes into a chat chain and what comes out, as types that LangServe can show and check."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage, HumanMessage
from langchain_core.messages.utils import convert_to_messages
from langchain_core.prompt_values import PromptValue
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

KINDS = (
    *("system", "developer", "user", "human", "assistant", "ai", "tool", "function", "chat"),
    *("AIMessageChunk", "HumanMessageChunk", "SystemMessageChunk", "ToolMessageChunk", "ChatMessageChunk"),
)
"""Values of ``role`` (OpenAI) or ``type`` (LangChain)."""

SPEAK_BY_TOOLS = ("assistant", "ai", "AIMessageChunk")
"""Kinds whose content may be missing: an assistant's turn may consist of tool calls alone."""


def parse_message(value: Any) -> Any:
    """One message in any form LangChain or OpenAI writes it, as a message or as what its class validates.

    Accepts ``{"role": "user", "content": ...}``, ``{"type": "human", "content": ...}``, ``["user", "..."]``, the
    constructor form of LangChain's serializer, and message objects. Raises an error that names what is wrong with it.
    """
    if isinstance(value, BaseMessage):
        return value
    if isinstance(value, list | tuple):
        value = from_pair(cast("Sequence[Any]", value))
    if not isinstance(value, Mapping):
        raise PydanticCustomError("message_type", "A message is an object with role and content, or [role, content].")
    message = cast("Mapping[str, Any]", value)
    if message.get("type") == "constructor":
        return convert(message)
    message = complete(message)
    return convert(message) if "role" in message else message


def from_pair(pair: Sequence[Any]) -> Mapping[str, Any]:
    """``[role, content]`` as an object."""
    if len(pair) != 2:  # noqa: PLR2004
        raise PydanticCustomError("message_pair", "A message as a list is [role, content].")
    return {"role": pair[0], "content": pair[1]}


def complete(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message, if its kind is known and it has the content that its kind needs."""
    kind = message.get("role", message.get("type"))
    if kind not in KINDS:
        told = {"kind": repr(kind), "kinds": ", ".join(KINDS[:8])}
        raise PydanticCustomError("message_role", "Unknown role {kind}: use one of {kinds}.", told)
    if message.get("content") is not None:
        return message
    if kind not in SPEAK_BY_TOOLS:
        raise PydanticCustomError("message_content", "A message of role {kind} needs a content.", {"kind": kind})
    return {**message, "content": ""}


def convert(message: Mapping[str, Any]) -> BaseMessage:
    """A message in OpenAI's form or the serializer's, by langchain-core."""
    try:
        return convert_to_messages([dict(message)])[0]
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise PydanticCustomError("message", "Not a message: {why}", {"why": str(error)}) from error
    except AttributeError as error:  # langchain-core takes its parts for what they should be
        raise PydanticCustomError("message_part", "Not a message: a part of it is of another kind.") from error


def build(value: Any, build_plainly: ValidatorFunctionWrapHandler) -> Any:
    """A message, made by its class; langchain-core takes its parts for what they should be, and fails on others."""
    try:
        message: BaseMessage = build_plainly(value)
    except (AttributeError, KeyError, TypeError) as error:
        raise PydanticCustomError("message_part", "Not a message: a part of it is of another kind.") from error
    for part in cast("list[Any]", message.content) if isinstance(message.content, list) else ():
        check_part(part)
    return message


def check_part(part: Any) -> None:
    """Refuse a part of a content that langchain-core, which takes it for what it should be, would fail on."""
    if not isinstance(part, dict):
        return
    told = cast("dict[str, Any]", part)
    if not isinstance(told.get("type"), str):
        raise PydanticCustomError("message_part", "A part of a content is a text, or an object with a type.")
    if told["type"] == "text" and not isinstance(told.get("text"), str):
        raise PydanticCustomError("message_text", "A part of type text needs a text.")


def not_empty(messages: list[AnyMessage]) -> list[AnyMessage]:
    """Refuse an empty conversation; a ``minItems`` in the schema would make the playground fill in an empty message."""
    if not messages:
        raise PydanticCustomError("messages_empty", "Give at least one message.")
    return messages


class ChatInput(BaseModel):
    """The input of a chat chain: a conversation.

    Besides ``{"messages": [...]}`` it accepts a plain string, ``{"input": "..."}``, one message, a list of messages,
    or both ``messages`` (the history) and ``input`` (the new turn).
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "What is the capital of France?"}]}]},
    )

    messages: Annotated[
        list[Annotated[AnyMessage, WrapValidator(build), BeforeValidator(parse_message)]], AfterValidator(not_empty)
    ] = Field(
        description='The conversation so far, oldest first; also in OpenAI\'s form {"role": "user", "content": "..."}.',
        json_schema_extra={
            "extra": {"widget": {"type": "chat", "input": "messages"}}
        },  # LangServe's default playground
    )

    @model_validator(mode="before")
    @classmethod
    def gather(cls, value: Any) -> Any:
        """Bring the short forms into the long one."""
        if isinstance(value, Mapping) and not is_message(cast("Mapping[str, Any]", value)):
            return with_new_turn(cast("Mapping[str, Any]", value))
        return value if isinstance(value, cls) else {"messages": turns(value)}


def is_message(value: Mapping[str, Any]) -> bool:
    """Whether an object is one message rather than an input that holds some."""
    return "role" in value or "type" in value


def with_new_turn(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """``{"input": "...", "messages": history}`` with the input as the last message."""
    if "input" not in value:
        return value
    rest = {name: item for name, item in value.items() if name != "input"}
    return {**rest, "messages": [*(rest.get("messages") or []), *turns(value["input"])]}


def turns(value: Any) -> list[Any]:
    """A text, a prompt, one message or several as a list of messages."""
    if isinstance(value, str):
        return [HumanMessage(value)]
    if isinstance(value, PromptValue):
        return [*value.to_messages()]
    return cast("list[Any]", value) if isinstance(value, list) else [value]


class ChatOutput(RootModel[AIMessage | AIMessageChunk]):
    """The output of a chat chain: the model's message.

    Its JSON schema writes a constant out as an enumeration of one too: LangServe's chat playground looks for
    ``"enum": ["ai"]`` and refuses to start otherwise.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The union's schema, with each message's constant written both ways."""
        schema = handler(core_schema)
        for option in schema["anyOf"]:
            kind = handler.resolve_ref_schema(option)["properties"]["type"]
            kind["enum"] = [kind["const"]]
        return schema
