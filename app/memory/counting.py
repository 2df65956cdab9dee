"""Tokens as the engine counts them, with its own tokenizer and chat template.

A stored turn is counted once, when it is stored; after that its count stands beside it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chat_vllm import TokenCount
from langchain_core.exceptions import ModelError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from app.errors import ServiceError
from app.memory.conversation import without_system

log = logging.getLogger(__name__)

OPENING = (HumanMessage("x"), AIMessage("y"))
"""What a turn is counted after: its tokens are those that it adds to a conversation."""
SHARE = 4
"""Where a request names no length, the answer is left this part of the context."""


class Tokenizer(Protocol):
    """What counts: ``chat_vllm.ChatVLLM``."""

    async def acount_tokens(self, messages: Sequence[BaseMessage], *, generation_prompt: bool = True) -> TokenCount:
        """Tokens of a conversation, and the model's context."""
        ...


@dataclass(frozen=True)
class Counter:
    """Counts for one model. ``limit``: its context by the registry, where the engine does not tell."""

    llm: Tokenizer
    limit: int | None = None

    async def prompt(self, messages: Sequence[BaseMessage]) -> TokenCount | None:
        """Count a prompt with all that the template puts around it; None where the engine has no tokenizer to ask."""
        try:
            return await self.llm.acount_tokens(messages)
        except (ModelError, ServiceError) as error:
            log.debug("the engine does not count: %r", error)
            return None if self.limit is None else TokenCount(estimate(messages), self.limit)

    async def turn(self, messages: Sequence[BaseMessage]) -> int:
        """Count what a turn adds to a later prompt; an estimate where the engine or the template refuses it."""
        said = without_system(messages)
        try:
            before = await self.llm.acount_tokens(OPENING, generation_prompt=False)
            after = await self.llm.acount_tokens([*OPENING, *said], generation_prompt=False)
        except (ModelError, ServiceError) as error:
            log.debug("the engine does not count: %r", error)
            return estimate(said)
        return max(after.count - before.count, 1)


def estimate(messages: Sequence[BaseMessage]) -> int:
    """Return more tokens than a text is likely to have, for engines that cannot be asked: one in two bytes."""
    return sum(len(message.text.encode()) // 2 + 8 for message in messages)


def room_for_prompt(limit: int, max_tokens: int | None) -> int:
    """Return how many tokens a prompt may have where the answer may have ``max_tokens``."""
    return max(limit - (limit // SHARE if max_tokens is None else max_tokens), 0)
