"""Which passages an answer rests on: as numbers in its text, as a list below it, and as values."""

import re
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document

MARK = re.compile(r"\[(\d{1,2}(?:\s*,\s*\d{1,2})*)\]")


def numbered(passages: Sequence[Document]) -> str:
    """Return the passages as the model is shown them."""
    return "\n\n".join(
        f"[{number}] {passage.metadata['source']}, {passage.metadata['place']}\n{passage.page_content}"
        for number, passage in enumerate(passages, start=1)
    )


def cited(answer: str, count: int) -> list[int]:
    """Return the numbers of passages that an answer names, each once, in the order of the passages."""
    named = {int(number) for mark in MARK.findall(answer) for number in mark.split(",")}
    return sorted(number for number in named if 1 <= number <= count)


def citations(answer: str, passages: Sequence[Document]) -> list[dict[str, Any]]:
    """Return every passage that the model was given, as values; ``cited`` tells whether the answer names it."""
    named = cited(answer, len(passages))
    return [
        {"number": number, "cited": number in named, **passage.metadata, "text": passage.page_content}
        for number, passage in enumerate(passages, start=1)
    ]


def listed(made: Sequence[dict[str, Any]]) -> str:
    """Return the list below an answer: what it cites; where it cites nothing, what it was given, and so called."""
    shown = [each for each in made if each["cited"]]
    title = "Sources" if shown else "Passages given to the model"
    return f"\n\n{title}:\n" + "\n".join(map(_line, shown or made))


def _line(citation: dict[str, Any]) -> str:
    line = f"[{citation['number']}] {citation['source']}, {citation['place']}"
    return f"{line}: {citation['url']}" if citation["url"] else line
