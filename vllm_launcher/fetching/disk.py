"""Room on a disk, asked for before it is needed; and what a disk says no to, in words."""

import contextlib
import errno
import shutil
from collections.abc import Generator
from pathlib import Path

from vllm_launcher.errors import LauncherError

GB = 1_000_000_000
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
MAKE_ROOM = "Free some, or set LANGSERVE_VLLM_CACHE to a folder on a larger disk."
NO_SPACE = "No space left on device|Disk quota exceeded"
"""How programs that ran out of room say so (strerror(3)): a regular expression."""


class DiskFull(LauncherError):  # noqa: N818 - the name says what happened
    """There is not enough room for what comes next."""

    permanent = True


class DiskRefused(LauncherError):  # noqa: N818 - the name says what happened
    """The cache cannot be read or written."""

    permanent = True


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise DiskFull if the disk of ``folder`` has less than ``needed`` bytes left."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskFull(f"{what} needs {size(needed)} of disk, and {place} has {size(free)} left.", MAKE_ROOM)


@contextlib.contextmanager
def disk_told(what: str) -> Generator[None, None, None]:
    """Turn what the operating system says within into DiskFull or DiskRefused. ``what`` was to be done."""
    try:
        yield
    except OSError as error:
        raise _told(error, what) from error


def _told(error: OSError, what: str) -> LauncherError:
    if error.errno in FULL:
        return DiskFull(f"{what} stopped: the disk is full.", MAKE_ROOM)
    place = f" ({error.filename})" if error.filename else ""
    hint = "Set LANGSERVE_VLLM_CACHE to a folder of yours." if error.errno in FORBIDDEN else None
    return DiskRefused(f"{what} stopped: {error.strerror or type(error).__name__}{place}.", hint)


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 1_000_000:.1f} MB"
