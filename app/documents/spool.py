"""Files that wait to be ingested, on disk: what was taken is not lost when the process is.

One folder a process, held by a lock that ends with it. A process that starts takes over what those before it left.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

PROCESSES = 64
"""Processes that may share one folder."""
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Waiting:
    """One file that waits. Ids sort by age."""

    id: str
    collection: str
    source: str
    media_type: str | None
    size: int


class Spool:
    """The waiting files of this process. All calls block.

    Args:
        folder: Shared by all processes of the app.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: list[FileLock] = []
        self._own: Path | None = None
        self._where: dict[str, Path] = {}

    def open(self) -> list[Waiting]:
        """Take a folder of its own, and return what waits there and in those of processes that have ended.

        Raises:
            OSError: It cannot be written, or too many processes share it.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        left: list[Waiting] = []
        for number in range(PROCESSES):
            slot = self._folder / str(number)
            if self._own is not None and not slot.is_dir():
                break
            slot.mkdir(exist_ok=True, mode=0o700)
            lock = FileLock(slot / ".lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            self._locks.append(lock)
            self._own = self._own or slot
            left.extend(self._read(slot))
        if self._own is None:
            raise OSError(f"more than {PROCESSES} processes share {self._folder}")
        return sorted(left, key=lambda each: each.id)

    def _read(self, slot: Path) -> Iterator[Waiting]:
        for path in sorted(slot.iterdir()):
            if path.name.startswith(PARTIAL):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir():
                self._where[path.name] = path
                yield Waiting(**json.loads((path / "waiting.json").read_text()))

    def save(self, waiting: Waiting, content: bytes) -> None:
        """Keep a file until it is removed; when this returns, it survives a crash."""
        if self._own is None:
            raise OSError("the spool is not open")
        partial = self._own / f"{PARTIAL}{waiting.id}"
        partial.mkdir(mode=0o700)
        _write(partial / "content", content)
        _write(partial / "waiting.json", json.dumps(asdict(waiting)).encode())
        whole = self._own / waiting.id
        partial.rename(whole)
        _sync(self._own)
        self._where[waiting.id] = whole

    def content(self, id_: str) -> bytes:
        """Return a waiting file's bytes."""
        return (self._where[id_] / "content").read_bytes()

    def remove(self, id_: str) -> None:
        """Forget a file."""
        if (path := self._where.pop(id_, None)) is not None:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Leave what waits to the next process."""
        for lock in self._locks:
            lock.release()
        self._locks, self._own = [], None


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
