"""The audit log: one line of JSON for each request that a model was asked by, and for each that was refused.

Who (the key's id and name), which model, by which protocol, how many tokens, how long, how it ended. What was said is
left out. Lines are written by a thread of the log's own; the file is readable by its owner alone and bounded in size.
"""

import contextlib
import fcntl
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol

from app.guard.call import Call

_write = json.JSONEncoder(ensure_ascii=False).encode
WAITING = 10_000
"""Lines that may wait for the disk; what comes on top is counted, and the count is written."""
FILE_BYTES = 20 * 1024 * 1024
FILES = 5
GATHERED = 0.1
"""Seconds in which lines gather to be written together: a wake-up of a thread for each would cost more than it."""
TOGETHER = 100
"""Lines that are written by one call."""


class Audit(Protocol):
    """Whoever notes requests."""

    def note(self, call: Call, *, status: int, outcome: str, seconds: float) -> None:
        """Note one that has ended."""
        ...


class AuditLog:
    """The log in a file.

    Args:
        path: Its file; the ones before are beside it, with numbers. Several workers may write to it.
        file_bytes: What one of them may hold.
    """

    def __init__(self, path: Path, file_bytes: int = FILE_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = SharedFile(path, maxBytes=file_bytes, backupCount=FILES, encoding="utf-8", delay=True)
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING)
        self._dropped = 0
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="audit log", daemon=True)
        self._writer.start()

    def note(self, call: Call, *, status: int, outcome: str, seconds: float) -> None:
        """Write a line soon."""
        line = describe(call, status=status, outcome=outcome, seconds=seconds)
        if self._dropped:
            line["lines_lost_before"] = self._dropped
        try:
            self._lines.put_nowait(_write(line))
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        if not self._closing.is_set():
            self._closing.set()
            self._lines.put(None)
            self._writer.join()
            self._file.close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._lines.qsize() < TOGETHER:
                self._closing.wait(GATHERED)
            self._emit([line, *self._gathered()])

    def _gathered(self) -> Iterator[str]:
        """Yield what waits, up to a bound."""
        for _ in range(min(self._lines.qsize(), TOGETHER)):
            line = self._lines.get_nowait()
            if line is None:
                self._lines.put(None)
                return
            yield line

    def _emit(self, lines: Sequence[str]) -> None:
        self._file.handle(logging.LogRecord("audit", logging.INFO, "", 0, "\n".join(lines), None, None))


class SharedFile(RotatingFileHandler):
    """A file that several workers append to. One of them turns it over when it is full; the others follow."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write lines to the file that has the name now, by one call: no other worker's come between."""
        try:
            stream: Any = self.stream
            if stream is not None and not self._is_current():
                self._let_go()
            if self.shouldRollover(record):
                self.doRollover()
            stream = self.stream = self.stream or self._open()
            os.write(stream.fileno(), f"{self.format(record)}\n".encode())
        except OSError:
            self.handleError(record)

    def doRollover(self) -> None:  # noqa: N802 -- logging's name
        """Turn the file over, unless another worker just has."""
        with self._alone():
            if self._is_current():
                super().doRollover()
            else:
                self._let_go()
                self.stream = self._open()

    def _is_current(self) -> bool:
        """Whether the open file still has the name."""
        stream: Any = self.stream
        try:
            return os.path.samestat(os.fstat(stream.fileno()), Path(self.baseFilename).stat())
        except FileNotFoundError:
            return False

    def _let_go(self) -> None:
        stream: Any = self.stream
        self.stream = None  # opened again when needed
        stream.close()

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """Hold the folder, as the other workers do who want to turn the file over."""
        folder = os.open(Path(self.baseFilename).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _open(self) -> Any:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        return super()._open()


def describe(call: Call, *, status: int, outcome: str, seconds: float) -> dict[str, Any]:
    """Return one line's fields."""
    return {
        "time": datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(timespec="milliseconds"),
        "request_id": call.request_id,
        "key": call.key.id if call.key else None,
        "key_name": call.key.name if call.key else None,
        "protocol": call.protocol,
        "route": call.route,
        "model": call.model or None,
        "status": status,
        "outcome": outcome,
        "error": call.error,
        "finish": call.finish,
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "queued_seconds": round(call.queued, 4),
        "first_token_seconds": round(call.first - call.started, 4) if call.first else None,
        "seconds": round(seconds, 4),
    }
