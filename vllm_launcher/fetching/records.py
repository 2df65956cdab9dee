"""Which distributions of an environment are whole, by what pip wrote down about them.

The formats are those of https://packaging.python.org/en/latest/specifications/recording-installed-packages/.
"""

import csv
import shutil
from collections.abc import Collection
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


def broken(site_packages: Path, removed: Collection[str] = ()) -> list[str]:
    """The ``.dist-info`` folders of distributions that are not whole. Looks at every file of every distribution.

    Two distributions may bring the same file, and the later one's is there: any recorded size of it will do.
    ``removed``: files that were taken out on purpose.
    """
    records = {folder: _read(folder) for folder in sorted(site_packages.glob("*.dist-info"))}
    sizes: dict[str, set[int]] = {}
    for files in records.values():
        for name, size in (files or {}).items():
            sizes.setdefault(name, set()).add(size)
    for name in removed:
        sizes.pop(name, None)
    bad = {name for name, recorded in sizes.items() if _size(site_packages / name) not in recorded}
    return [folder.name for folder, files in records.items() if files is None or bad.intersection(files)]


def _read(folder: Path) -> dict[str, int] | None:
    """Files of a distribution with their recorded sizes; None if it was not installed to the end.

    Byte code is left out: Python makes it anew, also what a wheel brought.
    """
    try:
        with (folder / "RECORD").open(encoding="utf-8", newline="") as record:
            rows = [row for row in csv.reader(record) if row]
        if not rows or not (folder / "INSTALLER").exists():
            return None
        return {row[0]: int(row[2]) for row in rows if row[2] and not row[0].endswith(".pyc")}
    except (OSError, IndexError, ValueError, csv.Error):  # ValueError: no UTF-8, or no number
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a null byte
        return None
