"""What ``up`` puts together: the plan carried out on this machine. The launcher's composition root.

Nothing is decided here: ``plan`` decided, ``launcher`` keeps, ``service`` orders the parts.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import dataclass

from rich.console import Console

from vllm_launcher import view
from vllm_launcher.control import ControlServer
from vllm_launcher.errors import LauncherError
from vllm_launcher.keeping import service
from vllm_launcher.keeping.child import SupervisedChild
from vllm_launcher.keeping.collaborators import External, ServerSpec
from vllm_launcher.keeping.health import HttpHealth
from vllm_launcher.keeping.launcher import Launcher
from vllm_launcher.keeping.ports import PortTable
from vllm_launcher.prepare import Preparation, Project
from vllm_launcher.processes.process import Launch
from vllm_launcher.processes.run_directory import RunDirectory
from vllm_launcher.registry.entries import ExternalEngine, ModelSpec
from vllm_launcher.settings import Settings

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
            prepare=Preparation(project, settings, logs=directory.path / "logs", records=directory.path / "servers"),
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
        told = f"[bold]{address.url}[/]  home page, playgrounds, REST ([dim]{address.url}/docs[/])"
        console.print(told, soft_wrap=True)
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
