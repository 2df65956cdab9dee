"""Drawn pictures, kept for a while as files that a URL leads to.

All workers share the folder. A name is a secret: whoever knows it may look. Files go when they are old, the oldest
first when all of them together are too large.
"""

import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from image_generation import Picture

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
NAME = re.compile(rf"[A-Za-z0-9_-]{{32}}\.({'|'.join(MEDIA_TYPES)})")
PREFIX = "/pictures/"
SECRET_BYTES = 24


@dataclass(frozen=True)
class Gallery:
    """A folder of pictures. Its methods block.

    Args:
        folder: Made when the first picture comes, for its user alone.
        seconds: How long a picture is kept.
        most_bytes: Of all pictures together.
    """

    folder: Path
    seconds: float
    most_bytes: int

    def keep(self, picture: "Picture") -> str:
        """Keep a picture; return the path of its URL."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(len(picture.data))
        suffix = picture.mime_type.removeprefix("image/")
        name = f"{secrets.token_urlsafe(SECRET_BYTES)}.{suffix}"
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", delete=False) as file:
            file.write(picture.data)
        Path(file.name).rename(self.folder / name)
        return PREFIX + name

    def find(self, name: str) -> Path | None:
        """Return the file of a picture; None where there is none, or none any more."""
        path = self.folder / name
        if NAME.fullmatch(name) is None or not path.is_file():
            return None
        return path if path.stat().st_mtime > time.time() - self.seconds else None

    def _make_room(self, size: int) -> None:
        """Remove what is too old, and the oldest until ``size`` more bytes fit."""
        kept, total = sorted(self._files()), size
        total += sum(entry[1] for entry in kept)
        oldest = time.time() - self.seconds
        for made, length, path in kept:
            if made > oldest and total <= self.most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= length

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Time, size and path of every file; another worker may remove one meanwhile."""
        for entry in os.scandir(self.folder):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            yield stat.st_mtime, stat.st_size, Path(entry.path)
