"""Tokens counted, from LangChain's usage to what protocols tell."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages.ai import UsageMetadata


@dataclass(frozen=True)
class Tokens:
    """Of one question and all its answers."""

    given: int = 0
    made: int = 0
    cached: int = 0
    """Of those given."""
    reasoning: int = 0
    """Of those made."""


def count_usage(usages: Iterable[UsageMetadata | None]) -> Tokens:
    """Return the sum over several answers to one question: what was given is counted once."""
    given = made = cached = reasoning = 0
    for usage in usages:
        if usage is None:
            continue
        given, made = max(given, usage["input_tokens"]), made + usage["output_tokens"]
        cached = max(cached, _detail(usage, "input_token_details", "cache_read"))
        reasoning += _detail(usage, "output_token_details", "reasoning")
    return Tokens(given, made, cached, reasoning)


def _detail(usage: UsageMetadata, group: str, name: str) -> int:
    details: Any = cast("dict[str, Any]", usage).get(group)
    return (details and details.get(name)) or 0
