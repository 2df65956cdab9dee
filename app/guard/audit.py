"""The audit log: one line of JSON for each request that a model was asked by, and for each that was refused.

Who (the key's id and name), which model, by which protocol, how many tokens, how long, how it ended. What was said is
left out. Lines are written by a thread of the log's own; the file is readable by its owner alone and bounded in size.
"""

import json
import logging
import os
import queue
import time
from datetime import UTC, datetime
from logging.handlers import QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol

from app.guard.call import Call

WAITING = 10_000
"""Lines that may wait for the disk; what comes on top is counted, and the count is written."""
FILE_BYTES = 20 * 1024 * 1024
FILES = 5


class Audit(Protocol):
    """Whoever notes requests."""

    def note(self, call: Call, *, status: int, outcome: str, seconds: float) -> None:
        """Note one that has ended."""
        ...


class AuditLog:
    """The log in a file.

    Args:
        path: Its file; the ones before are beside it, with numbers.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _PrivateFile(path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8", delay=True)
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(WAITING)
        self._listener = QueueListener(self._lines, self._file)
        self._dropped = 0
        self._listener.start()
        self._listening = True

    def note(self, call: Call, *, status: int, outcome: str, seconds: float) -> None:
        """Write a line soon."""
        line = describe(call, status=status, outcome=outcome, seconds=seconds)
        if self._dropped:
            line["lines_lost_before"] = self._dropped
        record = logging.LogRecord("audit", logging.INFO, "", 0, json.dumps(line, ensure_ascii=False), None, None)
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        if self._listening:
            self._listening = False
            self._listener.stop()
            self._file.close()


class _PrivateFile(RotatingFileHandler):
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
