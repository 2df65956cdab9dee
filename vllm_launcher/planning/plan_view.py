"""What a person sees of a plan: the machine, its servers, their commands, and what is not served and why.

Tables are drawn on a terminal and plain columns without one, where every line can be cut and searched.
"""

import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_launcher.planning.plan_report import PlanReport, ServerReport
from vllm_launcher.planning.plan_table import COLUMNS, machine_line, name_of, reason_rows, rejected_rows, server_rows
from vllm_launcher.planning.planned import Plan, gib

Rows = Sequence[Sequence[str]]
GAP = "  "


def show(plan: Plan, report: PlanReport, console: Console, *, why: bool = False) -> None:
    """Print a plan. ``why`` adds the reason for each choice."""
    say(console, machine_line(report.machine))
    if plan.servers:
        show_rows(console, COLUMNS, server_rows(plan), wrap=False)
    for server in report.servers:
        planned = plan.replicas(server.model)[server.replica]
        say(console, "", f"{name_of(planned)}: {summary(server)}")
        if why:
            show_rows(console, ("choice", "value", "why"), reason_rows(planned))
        if server.command:
            say(console, f"    {shell_line(server)}")
    if plan.rejected:
        say(console, "", "Not served here:")
    for model, reason, hint in rejected_rows(plan):
        say(console, f"  {model}: {reason}", f"    {hint}")


def summary(server: ServerReport) -> str:
    """Where one server stands, in a line."""
    if not server.command:
        return "served by somebody else; nothing is started for it"
    told = [
        f"{gib(server.memory.total)} of {gib(server.memory.available)}",
        f"known from: {server.facts_from}",
        f"engine {server.engine} {'installed' if server.engine_installed else 'to install'}",
        f"weights {server.weights}",
    ]
    rules = {
        "started at the first request": server.on_demand,
        "takes turns with others": server.shares,
        "pinned": server.pinned,
        f"sleeps at level {server.sleep}": server.sleep is not None,
    }
    return ", ".join([*told, *(rule for rule, holds in rules.items() if holds)])


def shell_line(server: ServerReport) -> str:
    """The server's command with its variables, as a shell takes it; ``PORT`` is bound at the start."""
    env = [f"{name}={shlex.quote(value)}" for name, value in server.env.items()]
    return " ".join([*env, shlex.join(server.command)])


def say(console: Console, *lines: str) -> None:
    """Lines as they are: no markup, no colours of their own, never broken."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def show_rows(console: Console, header: Sequence[str], rows: Rows, *, wrap: bool = True) -> None:
    """A table on a terminal, else plain columns; so too where cells may not be broken and the terminal is narrow."""
    lines = list(columns(header, rows))
    if not console.is_terminal or (not wrap and max(map(len, lines)) > console.width):
        say(console, *lines)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        grid.add_column(name)
    for cells in rows:
        grid.add_row(*(Text(cell) for cell in cells))
    console.print(grid)


def columns(header: Sequence[str], rows: Rows) -> Iterator[str]:
    """Rows as aligned text."""
    table = [header, *rows]
    widths = [max(len(cells[index]) for cells in table) for index in range(len(header))]
    for cells in table:
        yield GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
