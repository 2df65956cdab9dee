"""Bodies nobody should send, to every route of every protocol: an answer in that protocol's shape, never a 500."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.unit.offering import CITY, DRAWS, EMBEDS, PICTURE, PIXEL, QUESTION, SEES, Offering, replies
from tests.unit.scripted import MODEL, answer

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

SEEN = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TURNS = [*QUESTION, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "a", "content": "x"}]
BLOCKS = [
    {"type": "text", "text": "a"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]},
]
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
}
ODD: tuple[Any, ...] = (None, -1, 2**70, 1.5, "\x00", [[]], [None], {"": {}}, {"type": 5})


def variants(value: Any) -> Iterator[Any]:
    """Yield the value with each of its parts, at any depth, replaced by each odd one, and removed."""
    yield from ODD
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value)
        for name, part in value.items():
            rest: dict[str, Any] = {other: each for other, each in value.items() if other != name}
            if name != "stream":  # the engine here answers in one piece
                yield rest
            yield from ({**rest, name: odd} for odd in variants(part))
    if isinstance(value, list):
        value = cast("list[Any]", value)
        for index, part in enumerate(value):
            yield from ([*value[:index], odd, *value[index + 1 :]] for odd in variants(part))


@pytest.mark.parametrize("path", GOOD)
async def test_odd_bodies_are_answered_with_what_is_wrong(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each part of a good body replaced by each odd value: 200 or a 4xx with a sentence."""
    stage = Offering(tmp_path_factory.mktemp("app"))
    said = answer("{}")
    said["choices"][0]["text"] = "x"
    engine = replies({**said, "data": [{"embedding": [1.0], "b64_json": PIXEL}], "count": 1})
    wrong: list[Any] = []
    async with stage.client(engine) as client:
        for body in variants(GOOD[path]):
            response = await client.post(path, json=body)
            if response.status_code >= 500 or (response.status_code >= 400 and "error" not in response.json()):
                wrong.append((body, response.status_code, response.text[:200]))
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"
