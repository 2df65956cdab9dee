"""Messages of any protocol as LangChain's, checked: roles and contents."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from chat_vllm import ChatInput
from langchain_core.messages import AIMessage, BaseMessage
from pydantic import ValidationError

from app.errors import InvalidInput
from app.responses import invalid


def read_turns(messages: Sequence[Mapping[str, Any]]) -> list[BaseMessage]:
    """Return messages in OpenAI's form as LangChain's; other protocols bring theirs into that form first.

    The reasoning of an earlier turn (``reasoning_content``, ``reasoning``) is kept for models that want it back.

    Raises:
        InvalidInput: Named with its place, ``messages.3.content`` for example.
    """
    written = [_written(message, index) for index, message in enumerate(messages)]
    try:
        turns = ChatInput.model_validate({"messages": written}).messages
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from error
    for turn, message in zip(turns, messages, strict=True):
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(turn, AIMessage) and isinstance(reasoning, str):
            turn.additional_kwargs["reasoning_content"] = reasoning
    return [*turns]


def _written(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return a message with the roles that chat templates know, and only with what a turn consists of."""
    role = message.get("role")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise InvalidInput(
            f"messages.{index}.tool_call_id: which call this answers.", param=f"messages.{index}.tool_call_id"
        )
    kept = {name: message[name] for name in KEPT if message.get(name) is not None}
    check_content(kept.get("content"), f"messages.{index}.content")
    return {**kept, "role": "system" if role == "developer" else role}


KEPT = ("role", "content", "name", "tool_calls", "tool_call_id")


def check_content(content: Any, place: str) -> None:
    """Refuse parts of a turn that no chain here takes; ``app/images`` looks at the pictures themselves.

    Raises:
        InvalidInput: Another kind of part, or one without what it is about.
    """
    if not isinstance(content, list):
        return
    for index, part in enumerate(cast("list[Any]", content)):
        here = f"{place}.{index}"
        told = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        match told.get("type"):
            case "text":
                if not isinstance(told.get("text"), str):
                    raise InvalidInput(f"{here}.text: a text.", param=f"{here}.text")
            case "image_url":
                pass
            case _:
                raise InvalidInput(f"{here}.type: text and image_url are supported.", param=f"{here}.type")
