"""Reading a process's log while it is written: its last lines, and what is added. The file may be moved aside."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import NamedTuple

LONGEST = 4 * 1024 * 1024
"""Bytes looked through for the last lines."""
PIECE = 64 * 1024
POLL = 0.25
"""Seconds between two looks at a log that is followed."""


class Place(NamedTuple):
    """How far a file was read, and which file that was."""

    inode: int
    offset: int


def last_lines(path: Path, count: int) -> tuple[bytes, Place]:
    """The last ``count`` lines of a log, and where they end; nothing of a log that does not exist yet."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LONGEST))
            lines = file.read(LONGEST).splitlines(keepends=True)
            place = Place(path.stat().st_ino, file.tell())
    except FileNotFoundError:
        return b"", Place(0, 0)
    return b"".join(lines[-count:] if count else []), place


async def follow(path: Path, place: Place, ended: Awaitable[None]) -> AsyncGenerator[bytes, None]:
    """What is added after ``place``, piece by piece, until ``ended`` returns."""
    over = asyncio.ensure_future(ended)
    try:
        while True:
            piece, place = await asyncio.to_thread(_added, path, place)
            if piece:
                yield piece
            elif over.done():
                return
            else:
                await asyncio.wait({over}, timeout=POLL)
    finally:
        over.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await over


def _added(path: Path, place: Place) -> tuple[bytes, Place]:
    """The next piece: of the file itself, or, once that was moved aside, the rest of it and then of the new one."""
    for candidate in (path, path.with_name(path.name + ".1")):
        with contextlib.suppress(FileNotFoundError), candidate.open("rb") as file:
            inode = candidate.stat().st_ino
            if inode == place.inode and file.seek(0, 2) >= place.offset:
                file.seek(place.offset)
                if piece := file.read(PIECE):
                    return piece, Place(inode, place.offset + len(piece))
    with contextlib.suppress(FileNotFoundError):
        inode = path.stat().st_ino
        if inode != place.inode or path.stat().st_size < place.offset:
            return b"", Place(inode, 0)
    return b"", place
