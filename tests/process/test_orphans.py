"""Processes of an earlier launcher: what is ours is ended, and what only looks like it is not touched."""

import contextlib
import os
import subprocess  # noqa: TID251 - a process that no launcher started
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import pytest

from vllm_launcher.processes import orphans
from vllm_launcher.processes.orphans import Record

Stranger = subprocess.Popen[bytes]


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """A process in a session of its own that the launcher has nothing to do with."""
    with _sleeping({}) as process:
        yield process


@contextlib.contextmanager
def _sleeping(env: dict[str, str]) -> Generator[Stranger, None, None]:
    command = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(600)"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it has executed: its environment is its own
        yield process
    finally:
        process.kill()
        process.communicate()


def record(pid: int | None = None, *, marker: str = "0" * 32) -> Record:
    """A record of the process ``pid`` as it is there now."""
    ticks = None if pid is None else orphans.start_ticks(pid)
    return Record(marker=marker, boot_id=orphans.boot_id(), pid=pid, start_ticks=ticks)


def swept(tmp_path: Path, found: Record) -> list[int]:
    """What a launcher that finds this record ends."""
    orphans.write_record(tmp_path / "model.json", found)
    ended = orphans.sweep(tmp_path)
    assert not list(tmp_path.iterdir())
    return ended


def test_a_process_with_the_marker_is_ended(tmp_path: Path) -> None:
    """Even if the launcher died before it could note the pid."""
    with _sleeping({orphans.MARKER: "5" * 32}) as process:
        assert swept(tmp_path, record(marker="5" * 32)) == [process.pid]
        assert process.poll() is not None


def test_a_process_with_pid_and_start_time_is_ended(tmp_path: Path, stranger: Stranger) -> None:
    """The two together identify a process within one boot."""
    assert swept(tmp_path, record(stranger.pid)) == [stranger.pid]


def test_the_session_of_a_recorded_leader_is_ended(tmp_path: Path) -> None:
    """A child of the leader in its session goes with it, whatever its environment says."""
    script = "import os, time; print(flush=True); os.fork(); time.sleep(600)"
    command = [sys.executable, "-I", "-S", "-c", script]
    with subprocess.Popen(command, env={}, stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        while not (children := psutil.Process(leader.pid).children()):
            pass
        assert swept(tmp_path, record(leader.pid)) == sorted([leader.pid, children[0].pid])


@pytest.mark.parametrize(
    "changes",
    [
        {"start_ticks": 1},
        {"start_ticks": None},
        {"boot_id": "another boot"},
        {"boot_id": "another boot", "marker": "7" * 32},
        {"pid": None, "start_ticks": None},
    ],
)
def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path: Path, changes: dict[str, object]) -> None:
    """A pid that was used again, another boot, another marker: none of them is proof enough."""
    with _sleeping({orphans.MARKER: "7" * 32}) as process:
        assert swept(tmp_path, record(process.pid).model_copy(update=changes)) == []
        assert process.poll() is None


def test_a_stranger_in_a_session_whose_number_was_used_again_is_left_alone(tmp_path: Path, stranger: Stranger) -> None:
    """A session is ours only while its recorded leader is."""
    ticks = orphans.start_ticks(stranger.pid)
    assert ticks is not None
    assert swept(tmp_path, record(stranger.pid).model_copy(update={"start_ticks": ticks - 1})) == []
    assert stranger.poll() is None


def test_the_launcher_itself_is_never_ended(tmp_path: Path) -> None:
    """Not even if it was started from within a process that carries the marker."""
    assert swept(tmp_path, record(os.getpid())) == []


def test_a_file_that_is_no_record_is_removed_and_nothing_is_ended(tmp_path: Path) -> None:
    """Of another version, or half written."""
    (tmp_path / "model.json").write_text("{")
    assert orphans.sweep(tmp_path) == []
    assert not list(tmp_path.iterdir())
