"""What ``up`` puts together: the plan carried out on this machine. The launcher's composition root.

Nothing is decided here: ``plan`` decided, ``launcher`` keeps, ``service`` orders the parts.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vllm_launcher import service, view
from vllm_launcher.child import SupervisedChild
from vllm_launcher.collaborators import Build, External, ServerSpec
from vllm_launcher.command import build_command
from vllm_launcher.control import ControlServer
from vllm_launcher.entries import ExternalEngine, ModelSpec
from vllm_launcher.errors import LauncherError
from vllm_launcher.health import HttpHealth
from vllm_launcher.install import install_engine
from vllm_launcher.launcher import Launcher
from vllm_launcher.plan import Plan, PlannedServer
from vllm_launcher.ports import PortTable
from vllm_launcher.process import Finished, Launch, run
from vllm_launcher.progress import Report
from vllm_launcher.registry import Registry
from vllm_launcher.run_directory import RunDirectory
from vllm_launcher.settings import Settings
from vllm_launcher.weights import Tools, fetch_weights

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Address:
    """Where the app listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """As a browser takes it."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class Project:
    """What there is to serve: the list of models, the file it came from, and the plan for this machine."""

    models: Path
    registry: Registry
    plan: Plan


async def up(project: Project, settings: Settings, *, address: Address | None, console: Console) -> None:
    """Serve the plan until SIGINT or SIGTERM; without ``address`` no app is started.

    Raises:
        LauncherError: the port is taken, another launcher runs here, or the app cannot be kept running.
    """
    if address is not None:
        await service.check_port_free(address.host, address.port)
    with contextlib.closing(RunDirectory.open(settings.run_dir)) as directory:
        stop = service.stop_signals()
        launcher = Launcher(
            server_specs(project, settings),
            prepare=Preparation(project, settings, directory),
            spawn=directory.spawn,
            health=HttpHealth(),
            ports=PortTable(reserved=[address.port] if address else []),
        )
        app = app_child(project, address, settings, directory) if address else None
        showing = asyncio.create_task(show(launcher, address, console))
        try:
            control = ControlServer(launcher, directory.control_socket)
            await service.serve(launcher, run=directory, control=control, app=app, stop=stop)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


async def show(launcher: Launcher, address: Address | None, console: Console) -> None:
    """Print the app's addresses, then every change."""
    if address is not None:
        console.print(f"[bold]{address.url}[/]  home page, playgrounds and REST ([dim]{address.url}/docs[/])")
    await view.follow(launcher.events(), console)


def server_specs(project: Project, settings: Settings) -> list[ServerSpec]:
    """Every model of the registry: those that the plan has a place for, and the others with the reason."""
    refusals = {rejected.model: LauncherError(rejected.reason, rejected.hint) for rejected in project.plan.rejected}
    return [
        ServerSpec(
            model=spec.id,
            served_name=served_name(spec),
            task=spec.task,
            load=spec.load,
            external=external(spec.engine, settings),
            refusal=refusals.get(spec.id),
            image_size=spec.drawing.size or "256x256",
        )
        for spec in project.registry.models
    ]


def served_name(spec: ModelSpec) -> str:
    """The name that requests to its server carry."""
    return (spec.engine.model if isinstance(spec.engine, ExternalEngine) else None) or spec.id


def external(engine: object, settings: Settings) -> External | None:
    """Where somebody else's server is, and the key for it."""
    if not isinstance(engine, ExternalEngine):
        return None
    key = settings.read_secret(engine.api_key_env) if engine.api_key_env else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return External(base_url=engine.url.rstrip("/").removesuffix("/v1"), headers=headers)


class Preparation:
    """Installs the engine and fetches the weights of a planned server; its command, still without a port."""

    def __init__(self, project: Project, settings: Settings, directory: RunDirectory) -> None:
        self._project = project
        self._settings = settings
        self._directory = directory

    async def __call__(self, model: str, report: Report) -> Build:
        """See ``collaborators.Prepare``."""
        spec, planned = self._project.registry.get(model), self._project.plan.server(model)
        if spec is None or planned is None:
            raise LauncherError(f"The plan has no server for {model!r}.")
        runner = Runner(self._directory, model)
        engine = await install_engine(planned.engine, self._settings, runner, report)
        tools = Tools(settings=self._settings, run=runner, report=report, python=engine.python)
        on_cpu = planned.engine.endswith("-cpu")
        dtype = str(planned.flags.get("dtype") or "bfloat16")
        checkpoint = await fetch_weights(spec, tools, dequantize=on_cpu, dtype=dtype)
        return self._build(spec, planned, engine.python, checkpoint.path)

    def _build(self, spec: ModelSpec, planned: PlannedServer, python: Path, checkpoint: Path) -> Build:
        def build(port: int) -> Launch:
            command = build_command(
                planned,
                spec,
                python=python,
                checkpoint=checkpoint,
                port=port,
                inherited=self._settings.inherited,
            )
            return Launch(argv=command.argv, env=command.env)

        return build


class Runner:
    """Runs installers and converters for one model, under a guard, with a log of their own."""

    def __init__(self, directory: RunDirectory, model: str) -> None:
        self._directory = directory
        self._name = f"{model}-prepare"

    async def __call__(self, launch: Launch, on_line: Callable[[str], None] | None = None) -> Finished:
        """Run to the end; how it ended."""
        return await run(
            launch,
            log=self._directory.log(self._name),
            record=self._directory.record(self._name),
            on_line=on_line,
        )


def app_child(project: Project, address: Address, settings: Settings, directory: RunDirectory) -> SupervisedChild:
    """The app, as one more supervised process."""
    env = {
        **settings.app_environment,
        "LANGSERVE_VLLM_MODELS": str(project.models.absolute()),
        "LANGSERVE_VLLM_CONTROL": str(directory.control_socket),
        "LANGSERVE_VLLM_HOST": address.host,
        "LANGSERVE_VLLM_PORT": str(address.port),
    }
    launch = Launch(argv=(sys.executable, "-m", "app"), env=env, cwd=settings.root)
    return SupervisedChild("app", launch, spawn=directory.spawn)


def exit_with_parent() -> None:
    """End, by SIGTERM, when the process that started this one ends (prctl(2)); at once if it has already."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if parent == 1 or os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
