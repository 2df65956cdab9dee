"""The image model, in front of an engine that answers by a script."""

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from image_generation import Drawing, ImageLimits, ImageModel, Picture, build_chain, chain
from langchain_core.exceptions import ModelError, ModelInvalidRequestError
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import add_ai_message_chunks
from PIL import Image


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 4)) -> str:
    """A picture in base64."""
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


class Engine(httpx2.AsyncBaseTransport):
    """Answers each request with a picture, or as it is told."""

    def __init__(self, status: int = 200, answer: Any = None) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._status, self._answer = status, answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One answer."""
        assert request.url.path == "/v1/images/generations"
        asked = json.loads(await request.aread())
        self.asked.append(asked)
        drawn = {"data": [{"b64_json": picture(asked.get("output_format", "png").upper())}]}
        return httpx2.Response(self._status, json=self._answer or drawn)


def model(engine: Engine, **fields: Any) -> ImageModel:
    """A model on that engine."""
    return ImageModel(model="painter", http_async_client=httpx2.AsyncClient(transport=engine), **fields)


def seeds(message: AIMessage) -> list[int]:
    """The seed of each picture."""
    return [block["extras"]["parameters"]["seed"] for block in blocks(message)]


def blocks(message: AIMessage) -> list[dict[str, Any]]:
    """The image blocks of a message."""
    return [block for block in message.content if isinstance(block, dict)]


async def test_a_prompt_becomes_a_message_with_a_picture() -> None:
    """As LangChain's standard content writes one."""
    engine = Engine()
    message = await model(engine).ainvoke("a red apple")
    (block,) = blocks(message)
    assert block["type"] == "image"
    assert block["mime_type"] == "image/png"
    assert message.content_blocks[0]["type"] == "image"
    assert message.response_metadata["model_name"] == "painter"
    assert engine.asked[0]["prompt"] == "a red apple"
    assert engine.asked[0]["response_format"] == "b64_json"


async def test_a_png_says_inside_what_it_was_made_from() -> None:
    """The seed that was chosen, and its real size: what gives the same picture again. Its pixels are untouched."""
    block = blocks(await model(Engine()).ainvoke({"prompt": "ein grüner Drache", "size": "64x64"}))[0]
    png = base64.b64decode(block["base64"])
    with Image.open(io.BytesIO(png)) as image:
        texts: Any = image.info
        pixels = image.tobytes()
    told = json.loads(texts["parameters"])
    assert told == block["extras"]["parameters"]
    assert told["prompt"] == texts["Description"] == "ein grüner Drache"
    assert told["size"] == "8x4"
    assert told["seed"] >= 0
    assert pixels == Image.new("RGB", (8, 4), "red").tobytes()


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
async def test_other_formats_pass_as_they_are(kind: str) -> None:
    """With their own type."""
    block = blocks(await model(Engine()).ainvoke({"prompt": "x", "output_format": kind}))[0]
    assert block["mime_type"] == f"image/{kind}"
    assert block["base64"] == picture(kind.upper())


async def test_the_input_wins_over_the_config_and_the_config_over_the_defaults() -> None:
    """And what nobody says is left to the engine."""
    engine = Engine()
    drawing = Drawing.model_validate({"num_inference_steps": 9, "guidance_scale": 2.0, "size": "8x8"})
    config: Any = {"configurable": {"num_inference_steps": 7, "guidance_scale": 3.0}}
    await model(engine, drawing=drawing).ainvoke({"prompt": "x", "num_inference_steps": 5}, config)
    asked = engine.asked[0]
    assert (asked["num_inference_steps"], asked["guidance_scale"], asked["size"]) == (5, 3.0, "8x8")
    assert "true_cfg_scale" not in asked


async def test_several_pictures_are_drawn_one_by_one_with_seeds_that_count_on() -> None:
    """So each can be drawn again alone, and the first is there before the last is drawn."""
    engine = Engine()
    pieces = [piece async for piece in model(engine).astream({"prompt": "x", "n": 3, "seed": 41})]
    assert [seeds(piece) for piece in pieces] == [[41], [42], [43], []]
    assert [asked["n"] for asked in engine.asked] == [1, 1, 1]
    whole = add_ai_message_chunks(*[piece for piece in pieces if isinstance(piece, AIMessageChunk)])
    assert seeds(whole) == [41, 42, 43]
    assert whole.response_metadata["finish_reason"] == "stop"


async def test_the_last_seed_is_followed_by_the_first() -> None:
    """No request leaves the range the engine takes."""
    message = await model(Engine()).ainvoke({"prompt": "x", "n": 2, "seed": 2**63 - 1})
    assert seeds(message) == [2**63 - 1, 0]


async def test_pictures_are_kept_where_somebody_keeps_them() -> None:
    """Each block tells where."""
    kept: list[Picture] = []

    def keep(drawn: Picture) -> str:
        kept.append(drawn)
        return f"/pictures/{len(kept)}"

    message = await model(Engine(), keep=keep).ainvoke({"prompt": "x", "n": 2})
    assert [block["extras"]["url"] for block in blocks(message)] == ["/pictures/1", "/pictures/2"]
    assert kept[0].data == base64.b64decode(blocks(message)[0]["base64"])


@pytest.mark.parametrize(
    ("value", "config"),
    [({"prompt": "x", "size": "99x99"}, {}), ("x", {"size": "99x99"}), ("x", {"n": 9}), ("x", {"seed": "one"})],
)
async def test_what_is_beyond_the_limits_never_reaches_the_engine(value: Any, config: Any) -> None:
    """Be it in the input or in the config."""
    engine = Engine()
    with pytest.raises(ModelInvalidRequestError):
        await model(engine, limits=ImageLimits(pixels=1024)).ainvoke(value, {"configurable": config})
    assert engine.asked == []


@pytest.mark.parametrize("answer", [{"data": []}, {"data": [{"b64_json": "!"}]}, {"data": [{"b64_json": "aGk="}]}, {}])
async def test_an_answer_without_a_picture_is_an_error(answer: Any) -> None:
    """And never an empty message."""
    with pytest.raises(ModelError):
        await model(Engine(answer=answer or {"nothing": 1})).ainvoke("x")


async def test_the_engine_may_refuse() -> None:
    """In its own words."""
    refusal = {"error": {"message": "Too large for me.", "type": "Bad Request", "param": None, "code": 400}}
    with pytest.raises(ModelInvalidRequestError, match="Too large for me"):
        await model(Engine(400, refusal)).ainvoke("x")


def test_defaults_beyond_the_limits_are_refused_when_the_model_is_made() -> None:
    """Not at every request."""
    with pytest.raises(ValueError, match="at most 16 pixels"):
        model(Engine(), drawing=Drawing.model_validate({"size": "8x8"}), limits=ImageLimits(pixels=16))


def test_there_is_no_system_prompt() -> None:
    """It would be ignored."""
    with pytest.raises(ValueError, match="no system prompt"):
        build_chain(model(Engine()), system_prompt="Paint like Turner.")


def test_a_request_may_set_how_to_draw_in_its_config() -> None:
    """Every field but the prompt."""
    assert {spec.id for spec in chain.config_specs} == set(Drawing.model_fields)
