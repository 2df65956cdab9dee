"""The events of a vLLM stream: from bytes to what they say, without building more than is needed.

Almost every event of a stream carries one piece of text and nothing else. Those are read by a decoder that knows just
their shape; any other is read whole.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import httpx2
import msgspec
import openai

from chat_vllm.errors import typed

DONE = b"[DONE]"
EVENT_LIMIT = 16 * 1024 * 1024
"""Bytes of one event; more is no event."""
CONTENT = b'"content":'
PLAIN = bytes(set(range(0x20, 0x100)) - {0x7F, *b'"\\'})
"""What stands for itself in a string of JSON, however that is written."""
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
_REQUEST = httpx2.Request("POST", "http://engine.invalid/v1/chat/completions")
"""What the openai SDK's exceptions want to be told; nobody reads it."""


class EventSplitter:
    """Cuts the bytes of an event stream into the data of its events (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    @property
    def is_between(self) -> bool:
        """Whether every event that has begun has ended."""
        return not self._rest and not self._data

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of every event that ends in ``piece``.

        Raises:
            ValueError: An event has no end.
        """
        if (
            piece[:6] == b"data: "
            and piece[-2:] == b"\n\n"
            and not self._rest
            and not self._data
            and b"\r" not in piece
        ):
            events = piece[6:-2].split(b"\n\ndata: ")  # as vLLM writes them: whole, one line each
            if piece.count(b"\n") == 2 * len(events):
                return events
        return self._by_line(piece)

    def _by_line(self, piece: bytes) -> list[bytes]:
        *lines, self._rest = _LINE_END.split(self._rest + piece)
        if len(self._rest) > EVENT_LIMIT:
            raise ValueError("An event of the engine has no end.")
        events: list[bytes] = []
        for line in lines:
            if not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return events


# --- what an event says ----------------------------------------------------------------------


class _Delta(msgspec.Struct):
    content: str | None = None
    role: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Any = None
    function_call: Any = None
    id: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: Any = None
    logprobs: Any = None
    stop_reason: Any = None
    token_ids: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice]
    usage: Any = None
    error: Any = None
    type: Any = None
    prompt_token_ids: Any = None
    prompt_logprobs: Any = None
    metrics: Any = None


_decode = msgspec.json.Decoder(_Event).decode
"""Knows every field that ``ChatVLLM`` looks at; a test compares."""


def read_plain(data: bytes) -> tuple[str, str] | None:
    """Return the text and the reasoning of an event that says nothing else, one of the two empty; else None."""
    try:
        event = _decode(data)
    except msgspec.DecodeError:  # another shape, or no JSON: whoever reads it whole will tell
        return None
    if len(event.choices) != 1:
        return None
    choice = event.choices[0]
    delta = choice.delta
    more = (
        choice.finish_reason or choice.logprobs or choice.stop_reason is not None or choice.token_ids is not None
        or delta.tool_calls or delta.function_call or delta.id is not None or delta.role not in (None, "assistant")
        or event.usage or event.error or event.type or event.prompt_token_ids is not None
        or event.prompt_logprobs is not None or event.metrics is not None
    )  # fmt: skip
    reasoning = delta.reasoning or delta.reasoning_content or ""
    if more or (reasoning and delta.content):
        return None
    return delta.content or "", reasoning


class Usual:
    """The event that a stream is made of: the same bytes again and again around another piece of text.

    A stream's id and model do not change, so once one event was read, others like it need no parsing. Text with a
    backslash or a quotation mark in it is left to ``read_plain``.

    Args:
        before: The bytes up to the text, its quotation mark included.
        after: Those from the closing one on, the event's end included.
    """

    __slots__ = ("_after", "_before", "_begin", "_end")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after = before, after
        self._begin, self._end = len(before), -len(after)

    @classmethod
    def like(cls, piece: bytes, text: str) -> "Usual | None":
        """Return the shape of an event that says ``text`` and nothing else; None where it is not certain."""
        before, found, after = piece.partition(CONTENT + msgspec.json.encode(text))
        certain = found and text and piece.count(CONTENT[:-1]) == piece.count(b"data: ") == 1
        return cls(before + CONTENT + b'"', b'"' + after) if certain else None

    def literal(self, piece: bytes) -> bytes | None:
        """Return what an event of this shape says, as a string of JSON; None where the piece is anything else."""
        if not piece.startswith(self._before) or not piece.endswith(self._after):
            return None
        text = piece[self._begin : self._end]
        if not text or text.translate(None, PLAIN) or not (text.isascii() or _is_utf8(text)):
            return None
        return b'"%b"' % text


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_event(data: bytes) -> dict[str, Any]:
    """Return what an event says.

    Raises:
        EngineStreamError: It reports an error.
        ValueError: It is no JSON.
    """
    event: Any = json.loads(data)
    if isinstance(event, dict) and (error := cast("dict[str, Any]", event).get("error")):
        raise typed(openai.APIError(_message(error), _REQUEST, body=error))
    return cast("dict[str, Any]", event)


def _message(error: Any) -> str:
    said = cast("Mapping[str, Any]", error).get("message") if isinstance(error, Mapping) else None
    return said if said and isinstance(said, str) else "An error occurred during streaming"


# --- what an answer's head says ----------------------------------------------------------------


def refusal(status: int, body: bytes) -> openai.APIError:
    """Return the error that an engine's HTTP error means, as a member of the tree of ``chat_vllm.errors``."""
    text = body.decode(errors="replace").strip()
    try:
        said: Any = json.loads(text)
    except ValueError:
        said = text
    error = cast("object", cast("Mapping[str, Any]", said).get("error", said) if isinstance(said, Mapping) else said)
    response = httpx2.Response(status, content=body, request=_REQUEST)
    message: Any = cast("Mapping[str, Any]", error).get("message") if isinstance(error, Mapping) else None
    told = f"Error code: {status}" + (f" - {message}" if message else "")
    return typed(openai.APIStatusError(told, response=response, body=cast("object", error)))
