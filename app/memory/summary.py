"""What is told of turns that no longer fit: a summary that the model itself writes."""

from collections.abc import Awaitable, Callable, Sequence

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from app.memory.conversation import text_of

Ask = Callable[[Sequence[BaseMessage]], Awaitable[BaseMessage]]
"""Asks the model: messages in, its answer out."""

TOKENS = 256
"""Of a summary, at most."""
CHARACTERS = 2
"""Of a text, for each token that there is room for: more than one token a character is rare, two bytes are not."""

INSTRUCTION = (
    "Summarise the conversation below for somebody who has to continue it. Keep names, numbers, decisions and open "
    "questions. Write plain sentences, at most 120 words, and nothing else.\n\n"
)
HEADING = "Summary of the earlier conversation:\n"


async def summarise(ask: Ask, before: str | None, messages: Sequence[BaseMessage], *, room: int) -> str | None:
    """Return a summary of an earlier summary and what was said after it; None where the model says nothing.

    Args:
        ask: Asks the model.
        before: The earlier summary.
        messages: What was said after it, oldest first.
        room: Tokens that may be asked with; what is older than they hold is left out.
    """
    told = (f"{HEADING}{before}\n\n" if before else "") + text_of(messages)
    told = told[-room * CHARACTERS :]
    answer = await ask([HumanMessage(INSTRUCTION + told)])
    return answer.text.strip() or None


def with_summary(system: SystemMessage | None, summary: str | None) -> SystemMessage | None:
    """Return a system prompt that also tells the summary."""
    if not summary:
        return system
    told = HEADING + summary
    return SystemMessage(f"{system.text}\n\n{told}" if system else told)
