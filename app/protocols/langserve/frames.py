"""LangServe's ``stream`` at the cost of a proxy: its frames. Tests compare every byte with the general path's."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import orjson
from langchain_core.messages import AIMessageChunk
from typing_extensions import override

from app.streams.frames import Frames
from app.streams.known_chain import Asked
from app.streams.sse import Event

Dumps = Callable[[Any], bytes]
"""LangServe's serializer."""

MARK, ID_MARK = "\x00the text\x00", b"lc_run--the-id"
END = Event("end").encode()


@cache
def _around_text(dumps: Dumps, provider: str) -> tuple[bytes, bytes]:
    """Return what stands before and after the text in the frame of a piece that is text alone, and has ``ID_MARK``."""
    piece = AIMessageChunk(content=MARK, id=ID_MARK.decode(), response_metadata={"model_provider": provider})
    before, after = _frame(dumps(piece)).split(orjson.dumps(MARK))
    return before, after


@cache
def _last(dumps: Dumps) -> bytes:
    """Return the frame of LangChain's last, empty piece; it has ``ID_MARK``."""
    return _frame(dumps(AIMessageChunk(content="", chunk_position="last", id=ID_MARK.decode())))


def _frame(data: bytes) -> bytes:
    return b"event: data\r\ndata: " + data + b"\r\n\r\n"


class LangServeFrames(Frames):
    """LangServe's frames of one stream: ``metadata``, ``data`` for every piece, ``end``.

    Args:
        asked: What the model was asked.
        run_id: Of the whole run.
        dumps: LangServe's serializer.
    """

    def __init__(self, asked: Asked, run_id: str, dumps: Dumps) -> None:
        super().__init__(asked)
        self._dumps = dumps
        self._run_id = run_id
        if asked.parser is not None:
            self._around = b"event: data\r\ndata: ", b"\r\n\r\n"
        else:
            before, after = _around_text(dumps, asked.llm.model_provider)
            self._around = before, after.replace(ID_MARK, self.message_id.encode())

    @override
    def first(self) -> bytes:
        return Event("metadata", json.dumps({"run_id": self._run_id})).encode()

    @override
    def message(self, message: AIMessageChunk) -> bytes:
        return _frame(self._dumps(self.asked.parse(message)))

    @override
    def last(self) -> bytes:
        if self.asked.parser is None:
            return _last(self._dumps).replace(ID_MARK, self.message_id.encode())
        return self.message(AIMessageChunk(content="", chunk_position="last", id=self.message_id))

    @override
    def end(self) -> bytes:
        return END
