"""``make new-package`` makes a LangChain template that passes its own tests."""

import subprocess  # noqa: TID251 - the command line is what is tested
import sys
from pathlib import Path

import pytest

from tests.surroundings import ROOT, environment


def make(name: str, into: Path) -> subprocess.CompletedProcess[str]:
    """Run the generator."""
    command = [sys.executable, str(ROOT / "new_package.py"), name, "--into", str(into)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_new_package_passes_its_own_tests_and_the_linter(tmp_path: Path) -> None:
    """As it comes, with nothing filled in."""
    assert make("tiny-talk-chat", tmp_path).returncode == 0
    folder = tmp_path / "tiny-talk-chat"
    tests = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    done = subprocess.run(
        [*tests, str(folder / "tests")],
        env=environment(PYTHONPATH=str(folder)),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    for check in (["check"], ["format", "--check"]):
        lint = [sys.executable, "-m", "ruff", *check, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        ignored = ["--ignore", "INP001,S101,PLR2004"] if check == ["check"] else []
        ruff = subprocess.run([*lint, *ignored, str(folder)], capture_output=True, text=True, check=False)
        assert ruff.returncode == 0, ruff.stdout


@pytest.mark.parametrize("name", ["My-Chat", "my_chat", "../x", ""])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    """In words, and nothing is written."""
    done = make(name, tmp_path)
    assert done.returncode == 1
    assert "No package was made" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_package_is_never_overwritten(tmp_path: Path) -> None:
    """The second one of a name is refused."""
    assert make("my-chat", tmp_path).returncode == 0
    assert "there already" in make("my-chat", tmp_path).stderr
