"""From the events of an engine's answer to the frames of one stream: what the protocols' fast paths have in common.

Almost every event is a piece of text and nothing else. Its frame is that text, as the engine wrote it, between two
halves made once a stream. Any other event goes through ``ChatVLLM``'s own conversion, as on the general path.
"""

from abc import ABC, abstractmethod
from typing import cast

import orjson
from chat_vllm.events import DONE, EventSplitter, Usual, read_plain
from chat_vllm.model import has_finished, require_finish
from langchain_core.messages import AIMessageChunk

from app.memory.conversation import Gathered
from app.streams.known_chain import Asked, message_id


class Frames(ABC):
    """The frames of one stream; ``app/protocols/relay.Renderer``. A protocol says what they look like.

    Args:
        asked: What the model was asked.
    """

    def __init__(self, asked: Asked) -> None:
        self.ended = self.begun = False
        self.error: Exception | None = None
        self.asked = asked
        self.message_id = message_id()
        """What LangChain would call the answer."""
        self._splitter = EventSplitter()
        self._said = ""
        """By the last event of the piece, where it was text alone."""
        self._usual: Usual | None = None
        """The shape of the events that it is made of, while the next one may be of that shape."""
        self._around: tuple[bytes, bytes] | None = None
        """What stands before and after a text in its frame, where that is always the same."""
        self._finished = False
        self._gathered: Gathered | None = None
        self._texts: list[str] = []

    def gather(self, into: Gathered) -> None:
        """Gather the answer's pieces too, those of text alone as one."""
        self._gathered = into

    # --- what they look like -----------------------------------------------------------------

    @abstractmethod
    def first(self) -> bytes:
        """Return what comes before the first output."""

    def text(self, literal: bytes) -> bytes:
        """Return the frame of a piece of text: a string of JSON, its quotation marks included. Empty: none."""
        if self._around is None:
            raise NotImplementedError
        before, after = self._around
        return before + literal + after

    @abstractmethod
    def message(self, message: AIMessageChunk) -> bytes:
        """Return the frame of a piece that is more than text, as the chat model's ``astream`` yields it."""

    @abstractmethod
    def last(self) -> bytes:
        """Return what follows the engine's last word: the answer is complete, and may now be kept."""

    @abstractmethod
    def end(self) -> bytes:
        """Return the end of the stream, after the answer was kept."""

    # --- what a relay asks -------------------------------------------------------------------

    def feed(self, piece: bytes) -> bytes:
        """Return the frames of the events that ``piece`` completes."""
        if self._usual is not None and (literal := self._usual.literal(piece)) is not None:
            if self._gathered is not None:
                self._texts.append(literal[1:-1].decode())
            around = self._around
            return self.text(literal) if around is None else around[0] + literal + around[1]
        return self._read_events(piece)

    def _read_events(self, piece: bytes) -> bytes:
        frames: list[bytes] = []
        self._said = ""
        try:
            for event in self._splitter.feed(piece):
                if event.startswith(DONE):
                    self._finish(frames)
                    break
                self._take(event, frames)
        except Exception as error:  # noqa: BLE001 -- the stream's last word
            self.error, self.ended = error, True
        if not self._splitter.is_between:
            self._usual = None
        elif self._usual is None and self._said and self.begun:
            self._usual = Usual.like(piece, self._said)
        return b"".join(frames)

    def close(self) -> bytes:
        """Return the last frames, where the engine's answer ended without a word."""
        frames: list[bytes] = []
        try:
            self._finish(frames)
        except Exception as error:  # noqa: BLE001 -- the stream's last word
            self.error, self.ended = error, True
        return b"".join(frames)

    def _take(self, event: bytes, frames: list[bytes]) -> None:
        plain = read_plain(event)
        if plain is not None and not plain[1]:
            self._said = plain[0]
            frame = self.text(orjson.dumps(self._said))
            if self._gathered is not None:
                self._texts.append(self._said)
        else:
            chunk = self.asked.llm.read_chunk(event)
            if chunk is None:
                return
            self._finished = self._finished or has_finished(chunk)
            message = cast("AIMessageChunk", chunk.message)
            message.id = message.id or self.message_id
            message.response_metadata = {**(chunk.generation_info or {}), **message.response_metadata}
            frame = self.message(message)
            self._keep(message)
        if not frame:
            return
        if not self.begun:
            self.begun = True
            frames.append(self.first())
        frames.append(frame)

    def _keep(self, message: AIMessageChunk | None = None) -> None:
        if self._gathered is None:
            return
        if self._texts:
            text, self._texts = "".join(self._texts), []
            provider = {"model_provider": self.asked.llm.model_provider}
            self._gathered.add(AIMessageChunk(content=text, id=self.message_id, response_metadata=provider))
        if message is not None:
            self._gathered.add(message)

    def _finish(self, frames: list[bytes]) -> None:
        require_finish(None, finished=self._finished)
        self._keep()
        frames.append(self.last())
        self.ended = True
