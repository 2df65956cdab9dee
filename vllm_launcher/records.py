"""Which distributions of an environment are whole, by what pip wrote down about them.

The formats are those of https://packaging.python.org/en/latest/specifications/recording-installed-packages/.
"""

import csv
import shutil
from pathlib import Path


def forget_broken(site_packages: Path) -> list[str]:
    """Make pip install anew what was left half-installed; the names of the ``.dist-info`` folders taken away.

    pip takes a distribution for installed when that folder is there, and a kill in the middle can leave it beside
    missing or short files. So each file is compared with its size in RECORD, and INSTALLER has to be there: of what
    is installed pip writes it last, after the commands in ``bin``, which only the final RECORD knows.
    """
    found = broken(site_packages)
    for name in found:
        shutil.rmtree(site_packages / name)
    return found


def broken(site_packages: Path) -> list[str]:
    """The ``.dist-info`` folders of distributions that are not whole. Looks at every file of every distribution."""
    return [folder.name for folder in sorted(site_packages.glob("*.dist-info")) if not _is_whole(folder)]


def _is_whole(folder: Path) -> bool:
    try:
        with (folder / "RECORD").open(encoding="utf-8", newline="") as record:
            rows = [row for row in csv.reader(record) if row]
        written = bool(rows) and (folder / "INSTALLER").exists()
        return written and all(_is_there(folder.parent / row[0], row[2]) for row in rows)
    except (OSError, IndexError, UnicodeDecodeError, csv.Error):
        return False


def _is_there(path: Path, size: str) -> bool:
    """Byte code has no size in RECORD, and Python makes it anew where it is missing."""
    try:
        return not size or path.stat().st_size == int(size)
    except (OSError, ValueError):
        return False
