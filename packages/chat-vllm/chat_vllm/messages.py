"""What goes into a chat chain and what comes out, as types that LangServe can show and check."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage, HumanMessage
from langchain_core.messages.utils import convert_to_messages
from langchain_core.prompt_values import PromptValue
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

ROLES = ("system", "developer", "user", "human", "assistant", "ai", "tool", "function")
HAVE_NO_CONTENT = ("assistant", "ai", "AIMessageChunk")
"""An assistant's turn may consist of tool calls alone."""


def parse_message(value: Any) -> Any:
    """One message in any form LangChain or OpenAI writes it, as a message object.

    Accepts ``{"role": "user", "content": ...}``, ``{"type": "human", "content": ...}``, ``("user", "...")``, the
    constructor form of LangChain's serializer, and message objects; other values are left for pydantic to refuse.
    """
    if isinstance(value, BaseMessage):
        return value
    if isinstance(value, list | tuple):
        value = from_pair(cast("Sequence[Any]", value))
    if not isinstance(value, Mapping):
        raise PydanticCustomError("message_type", "A message is an object with role and content, or [role, content].")
    message = cast("Mapping[str, Any]", value)
    if message.get("type") == "constructor" or "role" in message:
        return convert(message)
    if "type" not in message:
        raise PydanticCustomError("message_role_missing", 'A message needs a "role", as in {"role": "user", ...}.')
    return dict(message)


def from_pair(pair: Sequence[Any]) -> Mapping[str, Any]:
    """``(role, content)`` as an object."""
    if len(pair) != 2 or not isinstance(pair[0], str):  # noqa: PLR2004
        raise PydanticCustomError("message_pair", "A message as a list is [role, content].")
    return {"role": pair[0], "content": pair[1]}


def convert(message: Mapping[str, Any]) -> BaseMessage:
    """A message in OpenAI's form; langchain-core converts it, this function names what is wrong with it."""
    if "role" in message:
        role = message["role"]
        if role not in ROLES:
            raise PydanticCustomError(
                "message_role",
                "Unknown role {role}: use one of {roles}.",
                {"role": repr(role), "roles": ", ".join(ROLES)},
            )
        if message.get("content") is None and role not in HAVE_NO_CONTENT:
            raise PydanticCustomError(
                "message_content_missing", 'A message of role "{role}" needs a content.', {"role": role}
            )
        message = {"content": "", **message}
    try:
        return convert_to_messages([dict(message)])[0]
    except ValidationError:
        raise
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise PydanticCustomError("message", "Not a message: {why}", {"why": str(error)}) from error


class ChatInput(BaseModel):
    """The input of a chat chain: a conversation.

    Besides ``{"messages": [...]}`` it accepts a plain string, ``{"input": "..."}``, one message, a list of messages,
    or both ``messages`` (the history) and ``input`` (the new turn).
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "What is the capital of France?"}]}]},
    )

    messages: list[Annotated[AnyMessage, BeforeValidator(parse_message)]] = Field(
        description='The conversation so far, oldest first; also in OpenAI\'s form {"role": "user", "content": "..."}.'
    )

    @model_validator(mode="before")
    @classmethod
    def gather(cls, value: Any) -> Any:
        """Bring the short forms into the long one."""
        if isinstance(value, Mapping) and not is_message(cast("Mapping[str, Any]", value)):
            return with_new_turn(cast("Mapping[str, Any]", value))
        return value if isinstance(value, cls) else {"messages": turns(value)}

    @model_validator(mode="after")
    def must_say_something(self) -> "ChatInput":
        """An empty conversation has no answer; told here, as the engine's refusal would come late."""
        if not self.messages:
            raise PydanticCustomError("messages_empty", "messages is empty: give at least one message.")
        return self


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
