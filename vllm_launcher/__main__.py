"""The command line: ``python -m vllm_launcher up | fetch | install-engine | plan | doctor | status | schema``.

Exit statuses: 0 done; 1 it failed, and the last line says why and what to do; 2 the command was not understood;
3 ``models.json`` is not valid; 4 no launcher is running.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from vllm_launcher import __version__, doctor, view
from vllm_launcher.control import ControlClient
from vllm_launcher.errors import LauncherError, LauncherGone
from vllm_launcher.hardware import Hardware, detect
from vllm_launcher.machine import look
from vllm_launcher.planning import plan_view
from vllm_launcher.planning.plan_report import read_machine, report_of
from vllm_launcher.prepare import EXTERNAL, Project, install, project_of
from vllm_launcher.prepare import fetch as fetch_models
from vllm_launcher.processes.run_directory import control_socket
from vllm_launcher.registry import RegistryError, check_chains, load_registry, schema_text
from vllm_launcher.settings import Settings
from vllm_launcher.up import Address, exit_with_parent
from vllm_launcher.up import up as serve_project

T = TypeVar("T")
FAILED, INVALID, NOT_RUNNING = 1, 3, 4

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="From models.json to ready model servers.")
out = Console()
err = Console(stderr=True)

Models = Annotated[Path, typer.Option("--models", help="The list of models.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
WithParent = Annotated[bool, typer.Option("--exit-with-parent", help="Stop when the calling process ends.")]
DEFAULT_MODELS = Path("models.json")


@cli.command()
def up(
    models: Models = DEFAULT_MODELS,
    *,
    host: Annotated[str, typer.Option(help="Address of the app.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the app.")] = 8000,
    app: Annotated[bool, typer.Option(help="Start the app in front of the servers.")] = True,
    with_parent: WithParent = False,
) -> None:
    """Start everything that models.json names, and keep it running until Ctrl-C."""
    if with_parent:
        exit_with_parent()
    project = load(models)
    for rejected in project.plan.rejected:
        err.print(f"{rejected.model}: not served: {rejected.reason} {rejected.hint}", markup=False, soft_wrap=True)
    address = Address(host, port) if app else None
    run(serve_project(project, Settings(), address=address, console=out))


@cli.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="All that load at startup.")] = None,
    *,
    models: Models = DEFAULT_MODELS,
    as_json: AsJson = False,
    with_parent: WithParent = False,
) -> None:
    """Install the engines of models and fetch their weights, without starting anything."""
    if with_parent:
        exit_with_parent()
    project = load(models)
    startup = [spec.id for spec in project.registry.models if spec.load == "startup" and project.plan.server(spec.id)]
    fetched = run(fetch_models(project, Settings(), names or startup, err if as_json else out))
    if as_json:
        print_json(fetched)


@cli.command()
def install_engine(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="All that the plan needs.")] = None,
    *,
    models: Models = DEFAULT_MODELS,
    as_json: AsJson = False,
    with_parent: WithParent = False,
) -> None:
    """Install engines, each in an environment of its own; goes on where a call before was stopped."""
    if with_parent:
        exit_with_parent()
    engines = run(install(names or needed_engines(load(models)), Settings(), err if as_json else out))
    if as_json:
        print_json(engines)


@cli.command()
def plan(
    models: Models = DEFAULT_MODELS,
    *,
    why: Annotated[bool, typer.Option("--why", help="With the reason for each choice.")] = False,
    machine: Annotated[
        Path | None, typer.Option("--machine", metavar="FILE", help="Plan for a machine that plan --json recorded.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would run where, with the command lines, and what would not and why; starts nothing."""
    try:
        hardware = read_machine(machine) if machine else detect()
    except LauncherError as error:
        give_up(error, FAILED)
    project = load(models, hardware)
    report = report_of(project, hardware, Settings())
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        plan_view.show(project.plan, report, out, why=why)


@cli.command(name="doctor")
def examine(
    models: Models = DEFAULT_MODELS,
    *,
    host: Annotated[str, typer.Option(help="Address of the app.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the app.")] = 8000,
    as_json: AsJson = False,
) -> None:
    """Check what could keep this machine from serving, and say what to do; exits with 1 if something would."""
    settings = Settings()
    try:
        launcher = asyncio.run(ControlClient(control_socket(settings.run_dir)).status())
    except LauncherGone:
        launcher = None
    diagnosis = doctor.examine(look(models, settings, launcher, Address(host, port)))
    if as_json:
        typer.echo(diagnosis.model_dump_json(indent=2))
    else:
        doctor.show(diagnosis, out)
    raise typer.Exit(0 if diagnosis.ok else FAILED)


@cli.command()
def status(*, as_json: AsJson = False) -> None:
    """Show what the running launcher's servers are doing."""
    now = run(ControlClient(control_socket(Settings().run_dir)).status())
    if as_json:
        typer.echo(now.model_dump_json(indent=2))
    else:
        out.print(view.table(now))


@cli.command()
def schema() -> None:
    """Print the JSON Schema of models.json."""
    typer.echo(schema_text(), nl=False)


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def load(models: Path, hardware: Hardware | None = None) -> Project:
    """Read the list of models and plan it, for this machine if for no other; exits with every problem of it."""
    try:
        registry = load_registry(models)
    except RegistryError as error:
        refuse(error)
    if problems := check_chains(models, registry):
        refuse(RegistryError(models, problems))
    return project_of(models, registry, hardware or detect(), Settings())


def needed_engines(project: Project) -> list[str]:
    """The engines of the plan's servers, each once."""
    return sorted({server.engine for server in project.plan.servers} - {EXTERNAL})


def print_json(values: Sequence[object]) -> None:
    """Values of ours, as a list of objects."""
    typer.echo(TypeAdapter(list[object]).dump_json([*values], indent=2))


def refuse(error: RegistryError) -> NoReturn:
    """Print every problem of the list of models, and exit."""
    err.print(str(error), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(INVALID)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; an error of ours is told in a sentence."""
    try:
        return asyncio.run(work)
    except LauncherGone as error:
        give_up(error, NOT_RUNNING)
    except LauncherError as error:
        give_up(error, FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def give_up(error: LauncherError, code: int) -> NoReturn:
    """Say what happened and what to do, and exit."""
    err.print(f"[bold red]error:[/] {escape(error.reason)}", soft_wrap=True)
    if error.hint:
        err.print(error.hint, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)])
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    cli()


if __name__ == "__main__":
    main()
