"""Bodies nobody should send, to every route of every protocol: an answer in that protocol's shape, never a 500."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.offering import CITY, DRAWS, EMBEDS, PICTURE, PIXEL, QUESTION, SEES, Offering
from tests.unit.scripted import MODEL, ScriptedEngine, Stream, answer, chunk

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

SEEN = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TURNS = [*QUESTION, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "a", "content": "x"}]
BLOCKS = [
    {"type": "text", "text": "a"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]},
]
ASKED: dict[str, Any] = {
    "messages": [
        {"type": "human", "content": [{"type": "text", "text": "a"}]},
        {"type": "ai", "content": "", "tool_calls": [{"type": "tool_call", "id": "a", "name": "f", "args": {}}]},
        {"type": "tool", "tool_call_id": "a", "content": "x"},
    ]
}
CONFIG = {"configurable": {"temperature": 1, "response_format": CITY}, "tags": ["a"], "metadata": {"a": "b"}}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": TURNS,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": CITY}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}},
        "stop": ["a"],
        "logit_bias": {"1": 1},
        "metadata": {"a": "b"},
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "n": 1,
    },
    "/v1/completions": {"model": f"{MODEL}:raw", "prompt": ["a"], "messages": [SEEN], "n": 1},
    "/v1/embeddings": {"model": EMBEDS, "input": ["a"], "dimensions": 5},
    "/v1/images/generations": {"model": DRAWS, "prompt": "a", "size": "8x8", "n": 1, "seed": 1},
    "/v1/messages": {
        "model": SEES,
        "max_tokens": 5,
        "messages": [{"role": "user", "content": BLOCKS}],
        "system": [{"type": "text", "text": "a"}],
        "tools": [{"name": "f", "input_schema": CITY}],
        "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled"},
        "output_config": {"format": {"type": "json_schema", "schema": CITY}},
        "metadata": {"user_id": "a"},
    },
    "/v1/messages/count_tokens": {"model": MODEL, "messages": QUESTION},
    "/api/chat": {
        "model": SEES,
        "messages": [
            {"role": "user", "content": "a", "images": [PIXEL]},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}], "thinking": "a"},
            {"role": "tool", "tool_name": "f", "content": "x"},
        ],
        "options": {"temperature": 1, "stop": ["a"], "num_predict": 5},
        "format": CITY,
        "stream": False,
    },
    "/api/generate": {"model": MODEL, "prompt": "a", "images": None, "raw": True, "stream": False},
    "/api/embed": {"model": EMBEDS, "input": ["a"], "dimensions": 5},
    "/api/show": {"model": MODEL},
    "/generate": {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": CITY}, "stop": ["a"], "seed": 1}},
    f"/models/{SEES}": {"inputs": {"images": [PIXEL], "text": "a"}, "parameters": {"temperature": 1}},
    f"/models/{EMBEDS}": {"inputs": ["a"], "truncate": True},
    f"/models/{DRAWS}": {"inputs": "a", "parameters": {"width": 8, "height": 8}},
    **{f"/{MODEL}/{way}": {"input": ASKED, "config": CONFIG} for way in ("invoke", "stream")},
    f"/{MODEL}/batch": {"inputs": [ASKED], "config": CONFIG},
    f"/models/{MODEL}/prompt": ASKED,
    f"/v2/models/{MODEL}/infer": {
        "id": "a",
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"]},
            {"name": "sampling_parameters", "datatype": "BYTES", "shape": [1], "data": ['{"max_tokens": 5}']},
        ],
        "outputs": [{"name": "text_output", "parameters": {"binary_data": False}}],
        "parameters": {"max_tokens": 5, "session_id": "a"},
    },
    f"/v2/models/{MODEL}/generate": {"text_input": "a", "parameters": {"max_tokens": 5}},
    "/documents/a/search": {"query": "a", "k": 1},
}
ODD: tuple[Any, ...] = (None, -1, 2**70, 1.5, "\x00", [[]], [None], {"": {}}, {"type": 5})


TRIED = 3
"""Odd values that each part of a body is replaced by; the next part is replaced by the next ones."""


def variants(value: Any, turn: Iterator[Any]) -> Iterator[Any]:
    """Yield the value with each of its parts, at any depth, replaced by the next odd ones, and removed."""
    yield from itertools.islice(turn, TRIED)
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value)
        for name, part in value.items():
            rest: dict[str, Any] = {other: each for other, each in value.items() if other != name}
            if name != "stream":  # the engine here answers in one piece
                yield rest
            yield from ({**rest, name: odd} for odd in variants(part, turn))
    if isinstance(value, list):
        value = cast("list[Any]", value)
        for index, part in enumerate(value):
            yield from ([*value[:index], odd, *value[index + 1 :]] for odd in variants(part, turn))


def talks(whole: dict[str, Any]) -> ScriptedEngine:
    """Return an engine that answers in one piece, or in two where a stream is asked for."""
    return ScriptedEngine(
        lambda body: Stream([chunk("x"), chunk("", "stop"), "[DONE]"]) if body.get("stream") else (200, whole)
    )


BROKEN = {
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "deep": b"[" * 100_000,
    "deep and whole": b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "beyond floats": b'{"input": 1e400, "model": "tiny", "messages": 1e400}',
    "beyond 64 bits": b'{"input": 99999999999999999999, "max_tokens": -9999999999999999999}',
    "thousands of digits": b'{"n": ' + b"9" * 10_000 + b"}",
    "NUL": b'{"model": "tiny\x00", "input": "\\u0000"}',
    "NUL bytes": b"\x00" * 64,
    "half a character": b'{"model": "\\ud800", "input": "\\udfff", "inputs": ["\\ud800"]}',
    "NaN": b'{"model": "tiny", "temperature": NaN, "input": -Infinity}',
    "cut off": b'{"model": "tiny", "messages": [',
    "nothing": b"",
    "null": b"null",
    "a number": b"5",
}


GROUPS = {
    "openai": [path for path in GOOD if path.startswith("/v1/") and not path.startswith("/v1/messages")],
    "anthropic": [path for path in GOOD if path.startswith("/v1/messages")],
    "ollama": [path for path in GOOD if path.startswith("/api/")],
    "tgi": [path for path in GOOD if path.startswith(("/generate", "/models/")) and not path.endswith("/prompt")],
    "kserve": [path for path in GOOD if path.startswith("/v2/")],
    "langserve": [path for path in GOOD if path.startswith((f"/{MODEL}/", f"/models/{MODEL}/"))],
    "documents": [path for path in GOOD if path.startswith("/documents/")],
}
"""One app for all routes of a protocol."""
SAID = answer("{}")
SAID["choices"][0]["text"] = "x"
WHOLE = SAID | {
    "data": [{"embedding": [1.0], "b64_json": PIXEL}],
    "count": 1,
    "max_model_len": 9,
    "tokens": [1],
    "prompt": "x",
}
"""An answer to everything an engine is asked."""


def test_every_route_is_in_one_group() -> None:
    """Nothing is left out."""
    assert sorted(itertools.chain(*GROUPS.values())) == sorted(GOOD)


@pytest.mark.parametrize("group", GROUPS)
async def test_broken_bodies_are_answered_with_what_is_wrong(group: str, tmp_path: Path) -> None:
    """Bytes that are no JSON, or JSON that nobody can use: a 4xx with a sentence."""
    wrong = list[Any]()
    async with Offering(tmp_path).client(talks(WHOLE)) as client:
        for path, (name, body) in itertools.product(GROUPS[group], BROKEN.items()):
            response = await client.post(path, content=body, headers={"content-type": "application/json"})
            if not 400 <= response.status_code < 500 or "error" not in response.json():
                wrong.append((path, name, response.status_code, response.text[:200]))
    assert not wrong


@pytest.mark.parametrize("group", GROUPS)
async def test_odd_bodies_are_answered_with_what_is_wrong(group: str, tmp_path: Path) -> None:
    """Each part of a good body replaced by odd values: 200 or a 4xx with a sentence."""
    wrong: list[Any] = []
    async with Offering(tmp_path).client(talks(WHOLE)) as client:
        for path in GROUPS[group]:
            for body in variants(GOOD[path], itertools.cycle(ODD)):
                response = await client.post(path, json=body)
                if response.status_code >= 500 or (response.status_code >= 400 and "error" not in response.json()):
                    wrong.append((path, body, response.status_code, response.text[:200]))
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"
