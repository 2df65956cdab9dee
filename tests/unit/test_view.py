"""The launcher's face on a terminal and without one."""

import io
from collections.abc import AsyncIterator

import pytest
from rich.console import Console

from vllm_launcher.progress import Progress
from vllm_launcher.status import LauncherStatus, ServerStatus
from vllm_launcher.view import amount, duration, follow, line, size, table


def status(*servers: ServerStatus) -> LauncherStatus:
    """A status of these servers."""
    return LauncherStatus(version="0", pid=1, started_at=0, servers=servers)


async def stream(*values: LauncherStatus) -> AsyncIterator[LauncherStatus]:
    """The values, one after the other."""
    for value in values:
        yield value


def fetching(done: int) -> LauncherStatus:
    """A download at ``done`` of 1000 bytes."""
    progress = Progress(phase="downloading weights", done=done, total=1000, unit="bytes")
    return status(ServerStatus(model="m", served_name="m", state="fetching", phase=progress.phase, progress=progress))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (3_500_000_000, "3.5 GB")]
)
def test_bytes_are_told_in_the_unit_that_fits(count: int, text: str) -> None:
    """Sizes use SI prefixes with one digit."""
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (42.9, "42 s"), (200, "3 min"), (7500, "2 h 5 min")])
def test_durations_are_told_in_words(seconds: float, text: str) -> None:
    """Ages never show more than two units."""
    assert duration(seconds) == text


def test_progress_without_a_total_tells_what_is_done() -> None:
    """A download of unknown length still shows its bytes."""
    assert amount(Progress(phase="p", done=1500, unit="bytes")) == "1.5 kB"


async def test_without_a_terminal_a_step_prints_a_line_a_tenth() -> None:
    """A thousand reports of one download are ten lines and not a thousand."""
    written = io.StringIO()
    await follow(stream(*map(fetching, range(1000))), Console(file=written, force_terminal=False, width=200))
    lines = written.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[3] == "m: fetching - downloading weights 300 B of 1.0 kB"


async def test_on_a_terminal_the_table_is_redrawn_in_place() -> None:
    """A terminal gets the table with a bar and no scrolling log."""
    written = io.StringIO()
    await follow(stream(fetching(100), fetching(900)), Console(file=written, force_terminal=True, width=120))
    text = written.getvalue()
    assert "MODEL" in text
    assert "━" in text


def test_a_failed_server_tells_reason_and_hint() -> None:
    """What went wrong and what to do stand in the same line."""
    failed = ServerStatus(
        model="m", served_name="m", state="failed", reason="Out of memory.", hint="Lower max_model_len."
    )
    assert line(failed) == "m: failed - Out of memory. Lower max_model_len."


def test_a_server_that_waits_for_its_restart_tells_why() -> None:
    """Whoever sees the launcher try again need not read the log first."""
    again = ServerStatus(
        model="m", served_name="m", state="starting", phase="waiting 2 s before restart 2", reason="Out of memory."
    )
    assert line(again) == "m: starting - waiting 2 s before restart 2 (it failed: Out of memory.)"
    assert line(again.model_copy(update={"phase": "", "pid": 7})) == "m: starting"


def test_no_name_is_cut_off() -> None:
    """In 80 columns, every one of them full, a usual name is whole, and a longer one goes on below."""
    busy = ServerStatus(
        model="qwen3-embedding",
        served_name="m",
        state="draining",
        since=1,
        memory_bytes=123_400_000,
        requests=12,
        tokens_per_second=1234.5,
        cache_usage=1.0,
        restarts=12,
    )
    long = ServerStatus(model="a-name-longer-than-the-column-that-it-stands-in", served_name="m")
    written = io.StringIO()
    Console(file=written, width=80).print(table(status(busy, long), now=80_000))
    heading, first, *below = written.getvalue().splitlines()
    assert heading.split() == ["MODEL", "STATE", "REQS", "TOK/S", "CACHE", "MEMORY", "RESTARTS", "FOR"]
    assert " ".join(first.split()) == "qwen3-embedding draining 12 1234.5 100% 123.4 MB 12 22 h 13 min"
    assert "".join(row.split()[0] for row in below) == long.model
    assert all(len(row) <= 80 for row in (first, *below))


def test_the_table_has_a_row_for_every_server() -> None:
    """Absent servers are listed too."""
    shown = table(status(ServerStatus(model="a", served_name="a"), ServerStatus(model="b", served_name="b")), now=0)
    assert shown.row_count == 2
