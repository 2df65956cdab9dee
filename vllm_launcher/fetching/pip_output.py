"""What pip prints, as progress and as reasons. Pure but for the report.

``pip --progress-bar=raw`` prints ``Progress DONE of TOTAL`` for each download; the other lines are those of pip 26.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from vllm_launcher.fetching.disk import MAKE_ROOM, NO_SPACE
from vllm_launcher.progress import Progress, Report

COLLECTING = re.compile(r"^Collecting ([A-Za-z0-9._-]+)")
DOWNLOADED = re.compile(r"^Progress (\d+) of (\d+)$")
LARGE = 8_000_000
"""Bytes from which on a single download is worth a bar of its own."""


class Cause(NamedTuple):
    """Why pip failed. ``permanent``: it will again until somebody mends it; ``hint`` says how."""

    kind: Literal["disk", "hashes", "network", "absent", "forbidden", "other"]
    reason: str
    hint: str | None
    permanent: bool = True


NO_NETWORK = (
    "Failed to establish a new connection|Failed to resolve|Temporary failure in name resolution"
    "|Name or service not known|Connection refused|Max retries exceeded|timed out|[Cc]onnection broken"
    "|IncompleteRead|ConnectionResetError|RemoteDisconnected"
)
CAUSES: tuple[tuple[str, Cause], ...] = (
    (NO_SPACE, Cause("disk", "the disk is full.", MAKE_ROOM)),
    (
        "DO NOT MATCH THE HASHES",
        Cause(
            "hashes",
            "a download is not the file that was pinned.",
            "Try again; if it stays so, the index or a proxy in between serves another file. Nothing of it was kept.",
        ),
    ),
    (
        NO_NETWORK,
        Cause(
            "network",
            "the package index cannot be reached.",
            "Check the network and pip's own settings (pip config list), then start again: it goes on from here.",
            permanent=False,
        ),
    ),
    (
        "No matching distribution found",
        Cause(
            "absent",
            "pip found no build for this machine.",
            "Use 64-bit Linux on x86 or ARM with Python 3.11, 3.12 or 3.13, and check pip's index settings.",
        ),
    ),
    (
        "Permission denied|Read-only file system",
        Cause("forbidden", "the cache folder cannot be written.", "Set LANGSERVE_VLLM_CACHE to a folder of yours."),
    ),
)


class PipOutput:
    """Turns pip's lines into progress: distributions collected, bytes of a large one, distributions unpacked."""

    def __init__(self, phase: str, report: Report, *, total: int) -> None:
        self._phase = phase
        self._report = report
        self._total = total
        self._collected = 0
        self._name = ""
        self.unpacking = False

    def line(self, text: str) -> None:
        """Take one line."""
        if found := COLLECTING.match(text):
            self._name = found[1]
            self._collected += 1
            self._tell("downloading", self._collected)
        elif found := DOWNLOADED.match(text.strip()):
            self._tell_bytes(int(found[1]), int(found[2]))
        elif text.startswith("Installing collected packages"):
            self.unpacking = True

    def unpacked(self, count: int) -> None:
        """So many distributions are there by now."""
        self._tell("unpacking", count)

    def _tell(self, doing: str, done: int) -> None:
        total = max(self._total, done)
        self._report(Progress(phase=f"{self._phase}: {doing}", done=done, total=total))

    def _tell_bytes(self, done: int, total: int) -> None:
        if total >= LARGE:
            phase = f"{self._phase}: downloading {self._name}"
            self._report(Progress(phase=phase, done=done, total=total, unit="bytes"))


def explain(tail: Sequence[str]) -> Cause:
    """Why pip failed, and what to do: a known cause, or its own last words."""
    text = "\n".join(tail)
    for pattern, cause in CAUSES:
        if re.search(pattern, text):
            return cause
    errors = [line for line in tail if line.startswith("ERROR")]
    return Cause("other", errors[-1] if errors else " ".join(tail[-2:]), None)
