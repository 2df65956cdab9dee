"""What documents are made of here: values alone.

A document is parsed into blocks, each with its place, and blocks are cut into passages: what is embedded, found and
cited. Lines and pages count from 1.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of text under one heading, on one page. ``line``: of its first line, where the source has lines."""

    text: str
    headings: tuple[str, ...] = ()
    line: int | None = None
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document's text."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its document a passage stands. ``index`` counts the document's passages from 0."""

    index: int
    headings: tuple[str, ...] = ()
    line: int | None = None
    end_line: int | None = None
    page: int | None = None

    def __str__(self) -> str:
        """For people: “Settings > The app's”, page 3, lines 4-9."""
        parts = [f"“{' > '.join(self.headings)}”"] if self.headings else []
        if self.page is not None:
            parts.append(f"page {self.page}")
        if self.line is not None:
            parts.append(f"line {self.line}" if self.end_line == self.line else f"lines {self.line}-{self.end_line}")
        return ", ".join(parts) or f"passage {self.index + 1}"


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, small enough for the embedding model."""

    text: str
    title: str
    place: Place

    @property
    def embedded(self) -> str:
        """What is embedded: the text below its headings, which often hold the words of the question."""
        above = " > ".join(dict.fromkeys([self.title, *self.place.headings[-2:]]))
        return f"{above}\n{self.text}" if above else self.text
