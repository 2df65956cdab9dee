"""Processes of ours that outlived their launcher: how they are recorded, recognised and ended.

The guard (``guard.py``) leaves none behind. This is for the day when the guard was killed as well: the kernel's
out-of-memory killer, ``kill -9`` on a whole list. Recognised means certain. A pid alone proves nothing, because
pids are used again; a process is ours if one of these holds:

- its environment carries the record's marker, a random id made for that one start;
- its pid and its start time (in clock ticks after boot, within the same boot) are those of the record;
- the process so identified still leads a session, and this one is in it.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

MARKER = "LANGSERVE_VLLM_RUN_ID"
"""Environment variable that every process of one start carries."""


class OrphansRemain(Exception):  # noqa: N818 - told as a fact, like StopIteration
    """Processes survived SIGKILL: stuck in the kernel, most likely in a driver."""


class Record(BaseModel):
    """What identifies the processes of one start; ``pid`` is the guard's, absent while it is being started."""

    model_config = ConfigDict(frozen=True)

    marker: str
    boot_id: str
    pid: int | None = None
    start_ticks: int | None = None


def boot_id() -> str:
    """Names this boot of the machine: start times of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_ticks(pid: int) -> int | None:
    """Start time in clock ticks after boot, exact and immune to clock changes; None if there is no such process."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[19])  # the 22nd field of proc_pid_stat(5)
    return None


def write_record(path: Path | None, record: Record) -> None:
    """Write a record whole or not at all; None where none is kept."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(record.model_dump_json(), encoding="utf-8")
    partial.replace(path)


def remove_record(path: Path | None) -> None:
    """Forget a record: nothing it describes is left."""
    if path is not None:
        path.unlink(missing_ok=True)


def find(record: Record) -> list[psutil.Process]:
    """The living processes of ``record``."""
    if record.boot_id != boot_id():
        return []
    leads = record.pid is not None and start_ticks(record.pid) == record.start_ticks
    return [process for process in _candidates() if _belongs(process.pid, record, leads=leads)]


def end(record: Record, *, timeout: float = 10.0) -> list[int]:
    """Kill what is left of ``record`` and wait until it is gone; the pids. Blocks up to ``timeout`` seconds."""
    ended: set[int] = set()
    deadline = time.monotonic() + timeout
    while left := find(record):
        if time.monotonic() > deadline:
            raise OrphansRemain(f"still there after SIGKILL: {sorted(process.pid for process in left)}")
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil compares the start time first: never a process that took over the pid
        psutil.wait_procs(left, timeout=1)
        ended.update(process.pid for process in left)
    return sorted(ended)


def sweep(records: Path) -> list[int]:
    """End what the records of an earlier launcher describe, and remove them; the pids that were ended."""
    ended: list[int] = []
    for path in sorted(records.glob("*.json")):
        with contextlib.suppress(ValueError):  # not ours, or of another version: nothing can be recognised by it
            ended += end(Record.model_validate_json(path.read_bytes()))
        path.unlink(missing_ok=True)
    return ended


def _candidates() -> Iterator[psutil.Process]:
    """Living processes of this user, without this one and what it descends from."""
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if pid not in family and process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _belongs(pid: int, record: Record, *, leads: bool) -> bool:
    if leads and (pid == record.pid or _session(pid) == record.pid):
        return True
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARKER}={record.marker}".encode() in environment.split(b"\0")


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None
