"""Room on a disk, asked for before it is needed."""

import shutil
from pathlib import Path

from vllm_launcher.errors import LauncherError

GB = 1_000_000_000


class DiskFull(LauncherError):  # noqa: N818 - the name says what happened
    """There is not enough room for what comes next."""

    permanent = True


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise DiskFull if the disk of ``folder`` has less than ``needed`` bytes left."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskFull(
            f"{what} needs {needed / GB:.1f} GB of disk, and {place} has {free / GB:.1f} GB left.",
            "Free some, or set LANGSERVE_VLLM_CACHE to a folder on a larger disk.",
        )
