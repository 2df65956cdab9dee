"""Images on their way to a vision model: checked at every door, before the model is started for them."""

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.server import create_app
from tests.unit.corpus import BAD, GOOD, encoded, halves, image_url, opened, sideways, uri
from tests.unit.scripted import (
    MODEL,
    ScriptedEngine,
    ScriptedLauncher,
    Stage,
    caller,
    limits,
    running,
    says,
    server,
    settings,
)

REGISTRY = {
    "models": [
        {
            "id": MODEL,
            "task": "vision-chat",
            "source": {"type": "path", "path": "checkpoint"},
            "chain": {"package": "glm4v_chat"},
            "limits": {"max_images": 2, "max_pixels": 10000},
        }
    ]
}
LARGE = encoded(halves(size=(400, 200)), "PNG")

pytestmark = [  # langserve's own
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The app."""
    return Stage(tmp_path_factory.mktemp("app"), REGISTRY)


@asynccontextmanager
async def asleep(stage: Stage, engine: ScriptedEngine) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an app whose model is not loaded, and in the end still was not asked for."""
    launcher = ScriptedLauncher(server("absent"))
    async with stage.client(engine, launcher) as client:
        yield client
    assert launcher.asked == []


def asking(*images: bytes, text: str = "What is this?") -> list[dict[str, Any]]:
    """A conversation that shows these."""
    content = [{"type": "text", "text": text}, *(image_url(uri(image)) for image in images)]
    return [{"role": "user", "content": content}]


def doors(messages: Any) -> list[tuple[str, dict[str, Any]]]:
    """The routes that take a conversation with images, each with its body."""
    return [
        (f"/{MODEL}/invoke", {"input": {"messages": messages}}),
        (f"/{MODEL}/batch", {"inputs": [{"messages": messages}]}),
        (f"/{MODEL}/stream", {"input": {"messages": messages}}),
        (f"/{MODEL}/stream_events", {"input": {"messages": messages}}),
        (f"/{MODEL}/chat/stream", {"input": {"messages": messages}}),
        ("/v1/chat/completions", {"model": MODEL, "messages": messages}),
        ("/v1/chat/completions", {"model": MODEL, "messages": messages, "stream": True}),
        ("/v1/chat/completions", {"model": f"{MODEL}:raw", "messages": messages}),
    ]


DOORS = range(len(doors([])))


def shown(request: Mapping[str, Any]) -> list[Any]:
    """The pictures that the engine was given."""
    parts: list[Any] = [part for message in request["messages"] for part in message["content"]]
    return [opened(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]


@pytest.mark.parametrize("door", DOORS)
async def test_an_image_reaches_the_engine_upright_and_small(stage: Stage, door: int) -> None:
    """Through every protocol alike; text and answer stay what they are."""
    engine = ScriptedEngine(says("A ", "flag."))
    path, body = doors(asking(LARGE, sideways()))[door]
    async with stage.client(engine) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert "flag." in answer.text
    large, turned = shown(engine.requests[0])
    assert large.width * large.height <= 10_000
    assert turned.size == (32, 64)
    assert engine.requests[0]["messages"][0]["content"][0] == {"type": "text", "text": "What is this?"}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["text", "svg with a script", "truncated jpeg", "20000 x 20000", "1 x 5000"])
async def test_a_bad_image_is_told_before_the_model_is_started(stage: Stage, door: int, kind: str) -> None:
    """The launcher is never asked, the engine never reached."""
    engine = ScriptedEngine(says("?"))
    path, body = doors(asking(BAD[kind]))[door]
    async with asleep(stage, engine) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code in (400, 413, 422), answer.text
    assert answer.json()["error"]["message"].endswith(".")
    assert engine.requests == []


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.png", "file:///etc/passwd", "https://images.example/a.png"])
async def test_no_address_reaches_the_engine(stage: Stage, door: int, address: str) -> None:
    """It would fetch it."""
    engine = ScriptedEngine(says("?"))
    messages = [{"role": "user", "content": [image_url(address)]}]
    path, body = doors(messages)[door]
    async with asleep(stage, engine) as client:
        answer = await client.post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert engine.requests == []


async def test_the_place_of_what_is_wrong_is_told(stage: Stage) -> None:
    """In the body as it came."""
    body = {"inputs": [{"messages": asking(GOOD["png"])}, {"messages": asking(GOOD["png"], BAD["text"])}]}
    async with stage.client(ScriptedEngine(says("?"))) as client:
        answer = await client.post(f"/{MODEL}/batch", json=body)
    assert answer.json()["error"]["param"] == "inputs.1.messages.0.content.2"


async def test_more_images_than_the_model_takes_are_refused(stage: Stage) -> None:
    """With the number it takes."""
    async with stage.client(ScriptedEngine(says("?"))) as client:
        answer = await client.post(
            f"/{MODEL}/invoke", json={"input": {"messages": asking(GOOD["png"], GOOD["png"], GOOD["gif"])}}
        )
    assert answer.status_code == 413
    assert "takes 2" in answer.json()["error"]["message"]


async def test_bodies_with_images_may_be_larger_than_others_up_to_a_limit_of_their_own(tmp_path: Path) -> None:
    """A photograph fits; what is larger is refused by its announced length."""
    padded = base64.b64encode(GOOD["png"]).decode() + "\n" * 4000
    small = limits(body_bytes=3000, image_body_bytes=9000)
    told = settings(tmp_path, limits=small)
    told.models.write_text(json.dumps(REGISTRY))
    app = create_app(told, launcher=ScriptedLauncher(server()), connections=ScriptedEngine(says("A flag.")))
    async with running(app), caller(app) as client:
        for copies, code in ((1, 200), (2, 413)):
            block = {"type": "image", "base64": padded, "mime_type": "image/png"}
            messages = [{"role": "user", "content": [block] * copies}]
            answer = await client.post(f"/{MODEL}/invoke", json={"input": {"messages": messages}})
            assert answer.status_code == code, answer.text


async def test_its_page_shows_pictures(stage: Stage) -> None:
    """With nothing from another host, and no inline script."""
    async with stage.client(ScriptedEngine(says("?"))) as client:
        page = await client.get(f"/{MODEL}/playground/")
        chat = await client.get(f"/{MODEL}/chat/playground/")
    assert page.status_code == chat.status_code == 200
    assert 'type="file"' in page.text
    assert "'unsafe-inline'" not in page.headers["content-security-policy"]
