"""What a person sees: the servers as a table, their progress as bars on a terminal and as plain lines without one.

Pure rendering of ``LauncherStatus``: nothing in here changes or asks for anything.
"""

import time
from collections.abc import AsyncIterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vllm_launcher.progress import Progress
from vllm_launcher.status import LauncherStatus, ServerStatus, State

STYLES: dict[State, str] = {
    "absent": "dim",
    "fetching": "cyan",
    "starting": "yellow",
    "warming": "yellow",
    "ready": "green",
    "asleep": "blue",
    "draining": "magenta",
    "stopped": "dim",
    "failed": "bold red",
}
PLAIN_STEPS = 10
"""Without a terminal a line of progress is printed for each of so many parts of a phase."""


def table(status: LauncherStatus, *, now: float | None = None) -> Table:
    """The servers as a table: state, requests, speed, cache, memory, restarts, age; replicas below their model.

    What a server is doing is a sentence, and stands below the table (``notes``): it has no room in 80 columns.
    """
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("MODEL", overflow="fold")  # a name cut off could not be typed after ``load``
    for heading in ("STATE", *RIGHT, "FOR"):
        grid.add_column(heading, no_wrap=True, justify="right" if heading in RIGHT else "left")
    for server in rows(status):
        grid.add_row(
            called(server),
            Text(server.state, style=STYLES[server.state]),
            "" if server.requests is None else str(server.requests),
            "" if server.tokens_per_second is None else f"{server.tokens_per_second:.1f}",
            "" if server.cache_usage is None else f"{server.cache_usage:.0%}",
            size(server.memory_bytes) if server.memory_bytes else "",
            str(server.restarts),
            duration((time.time() if now is None else now) - server.since) if server.since else "",
        )
    return grid


RIGHT = ("REQS", "TOK/S", "CACHE", "MEMORY", "RESTARTS")


def rows(status: LauncherStatus) -> list[ServerStatus]:
    """Every server with a row of its own."""
    return [row for server in served(status) for row in (server, *server.replicas)]


def called(server: ServerStatus) -> str:
    """The model; of a replica its number alone."""
    _, _, number = server.model.partition("@")
    if number:
        return f"  @{number}"
    return f"{server.model} (pinned)" if server.pinned else server.model


def notes(status: LauncherStatus) -> list[str]:
    """What each server is doing, or why it does not, where there is something to say."""
    return [f"{server.model}: {told}" for server in rows(status) if (told := describe(server))]


def served(status: LauncherStatus) -> list[ServerStatus]:
    """Those that this machine has a place for."""
    return [server for server in status.servers if not server.refused]


def remarks(status: LauncherStatus) -> list[str]:
    """What else there is to say: models that are not served, an edit that was not taken over."""
    told: list[str] = []
    if refused := [server.model for server in status.servers if server.refused]:
        told.append(f"not served on this machine: {', '.join(refused)} ('plan' tells why)")
    if status.problem:
        told.append(f"models.json was edited and not taken over: {status.problem}")
    return told


def describe(server: ServerStatus) -> str:
    """What the server is doing, or why it does not."""
    if server.state == "failed":
        return " ".join(part for part in (server.reason, server.hint) if part)
    if server.state == "ready":
        return server.phase
    phase = "" if server.phase == server.state else server.phase
    doing = " ".join(part for part in (phase, amount(server.progress)) if part)
    waits = server.state == "starting" and server.pid is None  # for its next attempt
    return f"{doing} (it failed: {server.reason})" if doing and waits and server.reason else doing


def amount(progress: Progress | None) -> str:
    """How far a phase has come, in words: ``45.1 of 98.4 MB``, ``12 of 272``."""
    if progress is None or not (progress.done or progress.total):
        return ""
    if progress.unit == "items":
        return f"{progress.done} of {progress.total}" if progress.total else str(progress.done)
    return f"{size(progress.done)} of {size(progress.total)}" if progress.total else size(progress.done)


def size(count: int) -> str:
    """Bytes for people, in powers of 1000: ``98.4 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - SI prefixes
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min``, ``2 h 5 min``."""
    whole = max(0, int(seconds))
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


async def follow(events: AsyncIterator[LauncherStatus], console: Console) -> None:
    """Show every change until the events end: a live table on a terminal, a line a change without one."""
    if console.is_terminal:
        await follow_live(events, console)
    else:
        await follow_plainly(events, console)


async def follow_live(events: AsyncIterator[LauncherStatus], console: Console) -> None:
    """The table with a bar under it for each running step, redrawn in place."""
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        async for status in events:
            live.update(everything(status))


def everything(status: LauncherStatus) -> Group:
    """Table, notes, bars and remarks, for a terminal."""
    said = [Text(note) for note in notes(status)]
    return Group(table(status), *said, *bars(status), *(Text(remark, style="dim") for remark in remarks(status)))


def show(status: LauncherStatus, console: Console) -> None:
    """Print it once: on a terminal with bars, else as plain lines of which none is broken."""
    if console.is_terminal:
        console.print(everything(status))
        return
    console.print(table(status))
    for said in (*notes(status), *remarks(status)):
        console.print(said, highlight=False, markup=False, soft_wrap=True)


def bars(status: LauncherStatus) -> list[RenderableType]:
    """One bar for each server whose step has a known end."""
    drawn: list[RenderableType] = []
    for server in rows(status):
        if server.progress is not None and server.progress.total:
            grid = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=server.progress.total, completed=server.progress.done, width=40)
            grid.add_row(server.model, bar, amount(server.progress))
            drawn.append(grid)
    return drawn


async def follow_plainly(events: AsyncIterator[LauncherStatus], console: Console) -> None:
    """A line for each new state or phase, and for each tenth of a step; a remark when it is new."""
    said: dict[str, tuple[str, str, int]] = {}
    remarked: list[str] = []
    async for status in events:
        for remark in remarks(status):
            if remark not in remarked:
                console.print(remark, highlight=False, markup=False, soft_wrap=True)
        remarked = remarks(status)
        for server in served(status):
            mark = milestone(server)
            if said.get(server.model) != mark and not (server.model not in said and server.state == "absent"):
                said[server.model] = mark
                console.print(line(server), highlight=False, soft_wrap=True)


def milestone(server: ServerStatus) -> tuple[str, str, int]:
    """What has to change before a plain line is worth printing."""
    told = server.progress
    part = told.done * PLAIN_STEPS // told.total if told and told.total else 0
    return server.state, server.phase, part


def line(server: ServerStatus) -> str:
    """One server in one line."""
    told = describe(server)
    return f"{server.model}: {server.state}" + (f" - {told}" if told else "")
