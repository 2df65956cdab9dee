"""The events of a stream, read by what they have in common."""

import json

import msgspec
import pytest
from chat_vllm.events import Usual, read_plain


def event(text: str, **delta: object) -> bytes:
    """One event as vLLM writes it."""
    choice = {"index": 0, "delta": {"content": text, **delta}, "logprobs": None, "finish_reason": None}
    said = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usual(text: str = " a") -> Usual:
    """The shape of such events."""
    shape = Usual.like(event(text), text)
    assert shape is not None
    return shape


@pytest.mark.parametrize("text", [" France", "in", "{}[],:", "東京", "é", "\u2028", "\x80", "😀", "</b>", "content"])
def test_an_event_of_the_usual_shape_says_what_parsing_says(text: str) -> None:
    """To the byte, as a string of JSON."""
    literal = usual().literal(event(text))
    assert literal is not None
    assert json.loads(literal) == text
    assert literal == msgspec.json.encode(text)
    assert read_plain(event(text)[6:-2]) == (text, "")


@pytest.mark.parametrize("text", ["", '"', "\\", "\n", "\x07", "\x7f", 'a","finish_reason":"stop', "a\\u0041"])
def test_what_may_be_written_in_two_ways_is_parsed(text: str) -> None:
    """Quotation marks, backslashes, control characters, nothing."""
    assert usual().literal(event(text)) is None


@pytest.mark.parametrize(
    "piece",
    [
        event("a", role="assistant"),
        event("a").replace(b"chatcmpl-1", b"chatcmpl-2"),
        event("a").replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        event("a") + event("b"),
        event("a")[:-1],
        event("a")[:60],
        event("a").replace(b'"a"', b"null"),
        event("a").replace(b'"a"', b'"a","content":"b"'),
        event("a").replace(b'"a"', b'"\xff"'),
        event("a").replace(b'"a"', b'"a\nb"'),
        b": ping\n\n",
        b"",
    ],
)
def test_an_event_of_another_shape_is_parsed(piece: bytes) -> None:
    """Whatever differs, were it one byte."""
    assert usual().literal(piece) is None


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        (event("a") + event("a"), "a"),
        (event("a"), "b"),
        (event(""), ""),
        (event("a", content_of='"content":"a"'), "b"),
        (event("a", more={"content": "a"}), "a"),
        (b'data:{"content":"a"}\n\n', "a"),
    ],
)
def test_a_shape_is_learned_only_from_what_is_certain(piece: bytes, text: str) -> None:
    """One event, one text, at one place."""
    assert Usual.like(piece, text) is None
