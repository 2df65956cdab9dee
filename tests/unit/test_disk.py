"""What a disk says no to, in words with a fix."""

import errno
import re
from pathlib import Path

import pytest

from vllm_launcher.errors import LauncherError
from vllm_launcher.fetching.disk import DiskFull, DiskRefused, check_disk, disk_told


def test_too_little_room_is_told_in_numbers_before_anything_is_written(tmp_path: Path) -> None:
    """What needs how much, where, and how much is left there."""
    with pytest.raises(
        DiskFull, match=rf"^vLLM needs 1000000\.0 GB of disk, and {tmp_path} has [\d.]+ GB left\."
    ) as no:
        check_disk(tmp_path / "not" / "yet", 10**15, "vLLM")
    assert "LANGSERVE_VLLM_CACHE" in (no.value.hint or "")
    assert no.value.permanent
    assert not (tmp_path / "not").exists()


def test_enough_room_is_no_matter(tmp_path: Path) -> None:
    """A byte fits."""
    check_disk(tmp_path, 1, "vLLM")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_in_the_middle_is_told_as_full(number: int) -> None:
    """A quota is a disk too."""
    with pytest.raises(DiskFull, match=r"^Fetching m stopped: the disk is full"), disk_told("Fetching m"):
        raise OSError(number, "said so")


def test_a_folder_of_somebody_else_is_told_with_its_name() -> None:
    """And where to put the cache instead."""
    refused = pytest.raises(DiskRefused, match=re.escape("Fetching m stopped: Permission denied (/cache/x)."))
    with refused as caught, disk_told("Fetching m"):
        raise PermissionError(errno.EACCES, "Permission denied", "/cache/x")
    assert "LANGSERVE_VLLM_CACHE" in (caught.value.hint or "")


def test_our_own_errors_pass_as_they_are() -> None:
    """They have their words already."""
    with pytest.raises(LauncherError, match=r"^already said$"), disk_told("Fetching m"):
        raise LauncherError("already said")
