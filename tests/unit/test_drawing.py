"""The image chain behind LangServe's routes, in front of an engine that follows a script."""

import asyncio
import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.server import create_app
from tests.unit.scripted import (
    MODEL,
    Exchange,
    ScriptedEngine,
    ScriptedLauncher,
    caller,
    events,
    refusal,
    running,
    server,
    settings,
)

REGISTRY = {
    "models": [
        {
            "id": MODEL,
            "task": "image-generation",
            "source": {"type": "path", "path": "checkpoint"},
            "engine": {"type": "vllm-omni"},
            "chain": {"package": "image_generation"},
            "drawing": {"size": "8x8", "num_inference_steps": 9},
            "limits": {"max_images": 3, "max_pixels": 64},
        }
    ]
}

pytestmark = [pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")]  # langserve's own


def png() -> str:
    """A picture in base64."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def draws(_: Mapping[str, Any]) -> Any:
    """What vLLM-Omni answers."""
    return 200, {"created": 1, "data": [{"b64_json": png()}]}


def easel(folder: Path, engine: ScriptedEngine, **fields: Any) -> Any:
    """An app with a ready image model."""
    told = settings(folder, REGISTRY, pictures=folder / "pictures", **fields)
    return create_app(told, launcher=ScriptedLauncher(server()), connections=engine)


async def post(folder: Path, engine: ScriptedEngine, route: str, body: Any) -> Any:
    """The answer to one request."""
    app = easel(folder, engine)
    async with running(app), caller(app) as client:
        return await client.post(f"/{MODEL}/{route}", json=body)


async def test_a_prompt_is_answered_with_a_picture_and_where_it_is_kept(tmp_path: Path) -> None:
    """The address gives the same bytes, as a picture and nothing else."""
    engine = ScriptedEngine(draws)
    app = easel(tmp_path, engine)
    async with running(app), caller(app) as client:
        answer = await client.post(f"/{MODEL}/invoke", json={"input": "a red apple"})
        (block,) = answer.json()["output"]["content"]
        kept = await client.get(block["extras"]["url"])
        lost = await client.get("/pictures/nothing.png")
    assert block["type"] == "image"
    assert kept.content == base64.b64decode(block["base64"])
    assert kept.headers["content-type"] == "image/png"
    assert kept.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in kept.headers["content-security-policy"]
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "unknown_picture")
    assert engine.urls[0].endswith("/v1/images/generations")
    assert engine.requests[0]["num_inference_steps"] == 9


async def test_a_stream_tells_each_picture_when_it_is_drawn(tmp_path: Path) -> None:
    """The first is out before the second is asked for."""
    more = asyncio.Event()

    async def slow(body: Mapping[str, Any]) -> Any:
        if body["seed"] == 6:
            await more.wait()
        return draws(body)

    app = easel(tmp_path, ScriptedEngine(slow))
    async with running(app):
        exchange = Exchange(app, f"/{MODEL}/stream", {"input": {"prompt": "x", "n": 2, "seed": 5}})
        assert await exchange.start() == 200
        first = await exchange.until('"seed":5')
        more.set()
        rest = await exchange.until("event: end")
        await exchange.end()
    assert '"seed":6' not in first
    assert '"seed":6' in rest


async def test_a_batch_is_answered_in_its_order(tmp_path: Path) -> None:
    """Each input with its own number of pictures."""
    inputs = ["a dog", {"prompt": "a cat", "n": 2}]
    answer = await post(tmp_path, ScriptedEngine(draws), "batch", {"inputs": inputs})
    outputs = [output["content"] for output in answer.json()["output"]]
    assert [len(blocks) for blocks in outputs] == [1, 2]
    assert outputs[1][0]["extras"]["parameters"]["prompt"] == "a cat"


async def test_whoever_leaves_frees_the_engine(tmp_path: Path) -> None:
    """The picture at hand is given up, and the others are never asked for."""
    begun = asyncio.Event()
    ended = asyncio.Event()

    async def endless(_: Mapping[str, Any]) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    engine = ScriptedEngine(endless)
    app = easel(tmp_path, engine)
    async with running(app):
        exchange = Exchange(app, f"/{MODEL}/invoke", {"input": {"prompt": "x", "n": 3}})
        async with asyncio.timeout(20):
            await begun.wait()
            exchange.leave()
            await ended.wait()
        await exchange.end()
    assert len(engine.requests) == 1


@pytest.mark.parametrize("route", ["invoke", "stream"])
@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        ({"input": {"prompt": "x", "size": "9x9"}}, 422, "input.size"),
        ({"input": {"prompt": "x", "size": "large"}}, 422, "input.size"),
        ({"input": {"prompt": "x", "n": 4}}, 422, "input.n"),
        ({"input": {"prompt": "x", "num_inference_steps": 101}}, 422, "input.num_inference_steps"),
        ({"input": {"prompt": ""}}, 422, "input.prompt"),
        ({"input": "x", "config": {"configurable": {"n": 4}}}, 422, "config.configurable.n"),
        ({"input": "x", "config": {"configurable": {"size": "9x9"}}}, 400, None),
    ],
)
async def test_what_is_beyond_a_limit_is_told_and_not_drawn(
    tmp_path: Path, route: str, body: Any, code: int, place: str | None
) -> None:
    """With the place, before the engine hears of it."""
    engine = ScriptedEngine(draws)
    answer = await post(tmp_path, engine, route, body)
    assert answer.status_code == code, answer.text
    assert answer.json()["error"]["param"] == place
    assert engine.requests == []


FAILURES: list[tuple[tuple[int, Any], int, str]] = [
    ((400, refusal("The requested size 9x8 is too odd.", code=400)), 400, "refused"),
    ((500, refusal("Traceback", code=500)), 502, "engine_failed"),
    ((200, {"data": []}), 502, "engine_failed"),
    ((200, {"data": [{"b64_json": "aGVsbG8="}]}), 502, "engine_failed"),
]


@pytest.mark.parametrize(("reply", "code", "kind"), FAILURES)
@pytest.mark.parametrize("route", ["invoke", "stream"])
async def test_a_failure_of_the_engine_keeps_its_meaning(
    tmp_path: Path, route: str, reply: Any, code: int, kind: str
) -> None:
    """As for text."""
    answer = await post(tmp_path, ScriptedEngine(lambda _: reply), route, {"input": "x"})
    assert answer.status_code == code
    assert answer.json()["error"]["type"] == kind


async def test_there_is_no_chat_about_pictures(tmp_path: Path) -> None:
    """Its playground would refuse to start."""
    app = easel(tmp_path, ScriptedEngine(draws))
    async with running(app), caller(app) as client:
        assert (await client.get(f"/{MODEL}/chat/playground/")).status_code == 404
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert f"/{MODEL}/invoke" in paths
    assert paths[f"/{MODEL}/invoke"]["post"]["requestBody"]["content"]["application/json"]["example"] == {
        "input": {"prompt": "a red apple"}
    }


async def test_every_stream_route_ends_well(tmp_path: Path) -> None:
    """stream_events and stream_log tell the run too."""
    app = easel(tmp_path, ScriptedEngine(draws))
    async with running(app), caller(app) as client:
        for route in ("stream", "stream_events"):
            answer = await client.post(f"/{MODEL}/{route}", json={"input": "x"})
            assert events(answer.text)[-1][0] == "end"
            assert "/pictures/" in answer.text
