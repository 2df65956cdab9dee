"""The frames of a chat's stream on the short way, in whatever protocol; ``telling.py`` knows how they look."""

import orjson
from langchain_core.messages import AIMessageChunk
from typing_extensions import override

from app.protocols.chat_service import as_chunk
from app.protocols.telling import Shortcut, Telling
from app.streams.frames import Frames
from app.streams.known_chain import Asked

NOTHING = b'""'


class ChatFrames(Frames):
    """The frames of one answer.

    Args:
        asked: What the model was asked.
        telling: Renders.
    """

    def __init__(self, asked: Asked, telling: Telling) -> None:
        super().__init__(asked)
        self._telling = telling
        self._read = telling.reader() if asked.parser is None else None
        self._shortcut: Shortcut | None = None
        self._end = b""

    @override
    def first(self) -> bytes:
        return b""

    @override
    def text(self, literal: bytes) -> bytes:
        if self._shortcut is not None and literal != NOTHING:
            return self._shortcut(literal)
        frame = self._render(AIMessageChunk(content=orjson.loads(literal)))
        if literal != NOTHING:
            self._shortcut = self._telling.shortcut()
        return frame

    @override
    def message(self, message: AIMessageChunk) -> bytes:
        self._shortcut = None
        chunk = as_chunk(self.asked.parse(message))
        return b"" if chunk is None else self._render(chunk)

    def _render(self, chunk: AIMessageChunk) -> bytes:
        return b"".join([event.encode() for event in self._telling.render(chunk)])

    @override
    def last(self) -> bytes:
        """Render the end now, while an error can be told; it is sent once the answer was kept."""
        self._end = b"".join([event.encode() for event in self._telling.end()])
        return b""

    @override
    def end(self) -> bytes:
        return self._end

    @override
    def _take(self, event: bytes, frames: list[bytes]) -> None:
        short = self._read if self._gathered is None else None  # what is kept is read whole
        frame = short(event) if short is not None else None
        if frame is None:
            super()._take(event, frames)
        elif frame:
            self.begun = True
            frames.append(frame)
