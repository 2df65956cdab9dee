"""How a protocol tells an answer in pieces: one implementation a protocol, whichever way the pieces come.

On the general way they come from LangChain (``delivery.py``). On the short one they come from the engine's events
(``chat_frames.py``): there a piece of text and nothing else, as nearly all are, is put between two halves of a frame
that was rendered once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import orjson
from langchain_core.messages import AIMessageChunk

from app.streams.sse import Event, one_line

MARK = "\x00the text\x00"
MARKED = orjson.dumps(MARK)
Shortcut = Callable[[bytes], bytes]
"""From a string of JSON, its quotation marks included and not empty, to the frame of a piece that is this text."""


Reader = Callable[[bytes], bytes | None]
"""From an event of the engine to its frame; None where it is of another kind than usual."""


class Telling(ABC):
    """Tells one answer, or several at once; knows what it has told so far."""

    @abstractmethod
    def render(self, chunk: AIMessageChunk, index: int = 0) -> Iterator[Event]:
        """Yield the events of a piece of the answer with that index."""

    @abstractmethod
    def end(self) -> Iterator[Event]:
        """Yield the events of the end."""

    def shortcut(self) -> Shortcut | None:
        """Return what makes the frames of further pieces of text, until a piece with more comes; None: ``render``.

        So it is where text that follows text changes nothing that is kept here, and its frame has it once.
        """
        frame = b"".join(event.encode() for event in self.render(AIMessageChunk(content=MARK)))
        before, found, after = frame.partition(MARKED)
        return (lambda literal: b"%b%b%b" % (before, one_line(literal), after)) if found else None

    def reader(self) -> Reader | None:
        """Return what makes frames of the engine's own events, where a protocol shows more of each than its text."""
        return None
