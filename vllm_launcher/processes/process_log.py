"""The log of one process: a bounded file, its last lines in memory, and a callback for each line."""

import contextlib
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path

LINE_END = re.compile(rb"\r\n|\n|\r")  # a lone \r redraws a progress bar: a line of its own here
LONGEST_LINE = 16 * 1024
KEPT_LINES = 400


class ProcessLog:
    """Takes bytes, keeps ``path`` below ``max_bytes`` by moving a full file to ``path.1``.

    A process that is started again appends: the lines of the crash before are the ones people look for.
    """

    def __init__(
        self, path: Path, *, on_line: Callable[[str], None] | None = None, max_bytes: int = 8 * 1024 * 1024
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._max_bytes = max_bytes
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def feed(self, data: bytes) -> None:
        """Write ``data`` through, and cut it into lines."""
        with contextlib.suppress(OSError, ValueError):  # a full disk costs the file, not the tail and not the server
            self._write(data)
        *lines, self._rest = LINE_END.split(self._rest + data)
        if len(self._rest) > LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._add(line)

    def tail(self, count: int = 50) -> list[str]:
        """The last ``count`` lines that are not blank, an unfinished one included; at most 400 are kept."""
        unfinished = [self._rest.decode(errors="replace")] if self._rest.strip() else []
        return [*self._lines, *unfinished][-count:]

    def close(self) -> None:
        """Close the file; the tail stays readable."""
        if self._rest:
            self._add(self._rest)
            self._rest = b""
        self._file.close()

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > self._max_bytes:
            self._rotate()
        self._file.write(data)
        self._size += len(data)

    def _add(self, line: bytes) -> None:
        if not line.strip():
            return
        text = line[:LONGEST_LINE].decode(errors="replace")
        self._lines.append(text)
        if self._on_line is not None:
            self._on_line(text)

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._file = self._path.open("ab", buffering=0)
        self._size = 0
