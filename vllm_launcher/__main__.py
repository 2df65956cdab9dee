"""The command line: ``python -m vllm_launcher``, or ``langserve-vllm`` where it is installed.

Exit statuses: 0 done; 1 it failed, and the last line says why and what to do; 2 the command was not understood;
3 ``models.json`` is not valid; 4 no launcher is running.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from vllm_launcher import __version__, doctor, ingest, keys_cli, verbs, view
from vllm_launcher.command import ROUTER_ENGINE
from vllm_launcher.control_client import ControlClient
from vllm_launcher.errors import InvalidModels, LauncherError, LauncherGone
from vllm_launcher.hardware import Hardware, detect
from vllm_launcher.machine import look
from vllm_launcher.planning import plan_view
from vllm_launcher.planning.plan_report import read_machine, report_of
from vllm_launcher.planning.planned import PROCESSLESS
from vllm_launcher.prepare import Project, install
from vllm_launcher.prepare import fetch as fetch_models
from vllm_launcher.processes.run_directory import control_socket
from vllm_launcher.registry import RegistryError, load_registry, schema_text
from vllm_launcher.reload import read_project
from vllm_launcher.settings import PREFIX, Settings
from vllm_launcher.status import LauncherStatus, ServerStatus
from vllm_launcher.up import Address, exit_with_parent
from vllm_launcher.up import up as serve_project

T = TypeVar("T")
PROGRAM = "langserve-vllm"
FAILED, MISUNDERSTOOD, INVALID, NOT_RUNNING = 1, 2, 3, 4

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="From models.json to ready model servers.")
cli.add_typer(keys_cli.cli, name="keys")
out = Console()
err = Console(stderr=True)

Models = Annotated[Path, typer.Option("--models", help="The list of models.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
WithParent = Annotated[bool, typer.Option("--exit-with-parent", help="Stop when the calling process ends.")]
DEFAULT_MODELS = Path("models.json")


def complete_model(incomplete: str) -> list[str]:
    """The ids in models.json that begin so; for the shell's completion, which must never fail."""
    try:
        return [spec.id for spec in load_registry(DEFAULT_MODELS).models if spec.id.startswith(incomplete)]
    except (RegistryError, OSError):
        return []


Model = Annotated[str, typer.Argument(help="Its id in models.json.", autocompletion=complete_model)]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is ready, or has failed.")]


@cli.command()
def up(  # noqa: PLR0913 - options
    models: Models = DEFAULT_MODELS,
    *,
    host: Annotated[str, typer.Option(help="Address of the app.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the app.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the app's gRPC; 0: none.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Processes of the app that serve together; 1 if not set.", show_default=False
        ),
    ] = None,
    app: Annotated[bool, typer.Option(help="Start the app in front of the servers.")] = True,
    tls_cert: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A certificate chain (PEM): the app speaks HTTPS.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The certificate's private key (PEM).")
    ] = None,
    as_json: AsJson = False,
    with_parent: WithParent = False,
) -> None:
    """Start everything that models.json names, and keep it running until Ctrl-C."""
    if with_parent:
        exit_with_parent()
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key come together")
    hardware = detect()
    project = read_models(models, hardware)
    address = Address(host, port, tls_cert, tls_key, grpc_port=grpc_port or None, workers=workers) if app else None
    follow = print_each if as_json else None
    run(serve_project(project, settings(), hardware=hardware, address=address, console=out, follow=follow))


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
    project = read_models(models)
    startup = [spec.id for spec in project.registry.models if spec.load == "startup" and project.plan.server(spec.id)]
    fetched = run(fetch_models(project, settings(), names or startup, err if as_json else out))
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
    engines = run(install(names or needed_engines(read_models(models)), settings(), err if as_json else out))
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
    project = read_models(models, hardware)
    report = report_of(project, hardware, settings())
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
    told = settings()
    try:
        launcher = asyncio.run(ControlClient(control_socket(told.run_dir)).status())
    except LauncherGone:
        launcher = None
    diagnosis = doctor.examine(look(models, told, launcher, Address(host, port)))
    if as_json:
        typer.echo(diagnosis.model_dump_json(indent=2))
    else:
        doctor.show(diagnosis, out)
    raise typer.Exit(0 if diagnosis.ok else FAILED)


@cli.command()
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow every change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the running launcher's servers are doing."""
    client = verbs.client_of(settings().run_dir)
    if watch:
        run(verbs.watch(client, print_each if as_json else lambda events: view.follow(events, out)))
        return
    now = run(client.status())
    if as_json:
        typer.echo(now.model_dump_json(indent=2))
    else:
        view.show(now, out)


@cli.command()
def load(model: Model, *, wait: Wait = True, as_json: AsJson = False) -> None:
    """Have a model ready, a failed one included; others make room for it where they have to."""
    done = run(verbs.load(verbs.client_of(settings().run_dir), model, err if as_json else out, wait=wait))
    tell(done, as_json=as_json)


@cli.command()
def unload(model: Model, *, as_json: AsJson = False) -> None:
    """Finish a model's requests, stop its server, and leave it so until somebody asks for it."""
    tell(run(verbs.client_of(settings().run_dir).unload(model)), as_json=as_json)


@cli.command()
def restart(model: Model, *, wait: Wait = True, as_json: AsJson = False) -> None:
    """Finish a model's requests and start its server anew."""
    done = run(verbs.restart(verbs.client_of(settings().run_dir), model, err if as_json else out, wait=wait))
    tell(done, as_json=as_json)


@cli.command()
def logs(
    model: Model,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000, help="How many of the last lines.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a model's server has printed."""

    async def print_lines() -> None:
        async for line in verbs.client_of(settings().run_dir).logs(model, lines=lines, follow=follow):
            typer.echo(json.dumps({"model": model, "line": line}) if as_json else line)

    run(print_lines())


@cli.command()
def reload(*, as_json: AsJson = False) -> None:
    """Take over models.json as it is now, the difference only; one that is not valid changes nothing."""
    now = run(verbs.client_of(settings().run_dir).reload())
    if as_json:
        typer.echo(now.model_dump_json(indent=2))
    else:
        view.show(now, out)


@cli.command(name="ingest")
def ingest_documents(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders with all in them.")],
    *,
    collection: Annotated[str, typer.Option(help="Where chains look for them.")] = "docs",
    url: Annotated[str, typer.Option(help="Of the running app.")] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None, typer.Option(envvar=f"{PREFIX}API_KEY", help="An API key, where one is asked for.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have the running app read documents, for chains that answer from them; only what changed is embedded."""
    console = err if as_json else out
    try:
        files = ingest.files_in(paths, Path.cwd())
    except LauncherError as error:
        give_up(error, MISUNDERSTOOD)
    outcome = run(ingest.ingest(ingest.App(url, key), collection, files, console))
    if as_json:
        print_json([outcome])
    else:
        out.print(f"{outcome.ingested} ingested, {outcome.unchanged} unchanged, {len(outcome.failed)} failed")
    raise typer.Exit(FAILED if outcome.failed else 0)


@cli.command()
def stop(*, as_json: AsJson = False) -> None:
    """Stop the running launcher and everything it has started; returns when nothing of it is left."""
    told = settings()
    run(verbs.stop(verbs.client_of(told.run_dir), told.run_dir))
    typer.echo(json.dumps({"status": "stopped"}) if as_json else "stopped")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of models.json."""
    typer.echo(schema_text(), nl=False)


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def read_models(models: Path, hardware: Hardware | None = None) -> Project:
    """Read the list of models and plan it, for this machine if for no other; exits with every problem of it."""
    try:
        return read_project(models, hardware or detect(), settings())
    except InvalidModels as error:
        refuse(error)


def settings() -> Settings:
    """What the environment says; exits where that cannot be."""
    try:
        return Settings()
    except ValidationError as error:
        told = (f"{PREFIX}{str(part['loc'][0]).upper()}: {part['msg']}" for part in error.errors())
        give_up(LauncherError(f"The environment is not valid: {'; '.join(told)}."), MISUNDERSTOOD)


async def print_each(events: AsyncIterator[LauncherStatus]) -> None:
    """A line of JSON for each change."""
    async for now in events:
        typer.echo(now.model_dump_json())


def tell(server: ServerStatus, *, as_json: bool) -> None:
    """How a server is now."""
    typer.echo(server.model_dump_json(indent=2) if as_json else view.line(server))


def needed_engines(project: Project) -> list[str]:
    """The engines of the plan's servers, each once."""
    routers = {ROUTER_ENGINE for server in project.plan.servers if server.replica}
    return sorted({server.engine for server in project.plan.servers} - PROCESSLESS | routers)


def print_json(values: Sequence[object]) -> None:
    """Values of ours, as a list of objects."""
    typer.echo(TypeAdapter(list[object]).dump_json([*values], indent=2))


def refuse(error: InvalidModels) -> NoReturn:
    """Print every problem of the list of models, and exit."""
    err.print(error.reason, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(INVALID)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; an error of ours is told in a sentence."""
    try:
        return asyncio.run(work)
    except LauncherGone as error:
        give_up(error, NOT_RUNNING)
    except InvalidModels as error:
        refuse(error)
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
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts changes; what came of them is ours to say
    cli(prog_name=PROGRAM)  # also under python -m, whose own name no shell could complete


if __name__ == "__main__":
    main()
