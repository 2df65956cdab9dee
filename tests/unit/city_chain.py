"""A package whose chain always answers with a schema, written as docs/http-api.md says."""

from collections.abc import Mapping
from typing import Any

from chat_vllm import ConfigurableChat, chat_prompt
from langchain_core.runnables import Runnable

CITY = {
    "title": "City",
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}


def build_chain(
    llm: ConfigurableChat, *, system_prompt: str | None = None, variables: Mapping[str, str] | None = None
) -> Runnable[Any, Any]:
    """Return a chain from a conversation to a city."""
    return chat_prompt(system_prompt, variables) | llm.with_structured_output(CITY)
