"""What ``up`` puts together: the plan carried out on this machine. The launcher's composition root.

Nothing is decided here: ``plan`` decided, ``launcher`` keeps, ``service`` orders the parts.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vllm_launcher import view
from vllm_launcher.control import Around, ControlServer
from vllm_launcher.errors import LauncherError
from vllm_launcher.hardware import Hardware
from vllm_launcher.keeping import service
from vllm_launcher.keeping.child import SupervisedChild
from vllm_launcher.keeping.collaborators import External, ServerSpec, part_of
from vllm_launcher.keeping.health import HttpHealth
from vllm_launcher.keeping.launcher import Launcher
from vllm_launcher.keeping.ports import PortTable
from vllm_launcher.keys import MAKE_ONE, NO_KEYS, KeyStore, is_loopback
from vllm_launcher.planning.planned import PROCESSLESS, Plan
from vllm_launcher.prepare import Preparation, Project
from vllm_launcher.processes.process import Launch
from vllm_launcher.processes.run_directory import RunDirectory
from vllm_launcher.registry.entries import ExternalEngine, ModelSpec, SharedEngine
from vllm_launcher.reload import ModelList, write_accepted
from vllm_launcher.settings import PREFIX, Settings
from vllm_launcher.status import LauncherStatus

PR_SET_PDEATHSIG = 1
Follow = Callable[[AsyncIterator[LauncherStatus]], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Address:
    """Where the app listens."""

    host: str
    port: int
    tls_cert: Path | None = None
    """With its key: the app speaks HTTPS."""
    tls_key: Path | None = None
    grpc_port: int | None = None
    """Where it serves gRPC; None: nowhere."""
    workers: int | None = None
    """Processes that serve there; None: as the app's own settings say."""

    @property
    def ports(self) -> list[int]:
        """Every port it listens on."""
        return [self.port, *([self.grpc_port] if self.grpc_port else [])]

    @property
    def url(self) -> str:
        """As a browser takes it."""
        scheme = "https" if self.tls_cert else "http"
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """As the app reads it."""
        told = {"HOST": self.host, "PORT": str(self.port)}
        told |= {"GRPC_PORT": str(self.grpc_port)} if self.grpc_port else {}
        told |= {"WORKERS": str(self.workers)} if self.workers else {}
        files = {"TLS_CERT": self.tls_cert, "TLS_KEY": self.tls_key}
        told |= {name: str(path.absolute()) for name, path in files.items() if path}
        return {f"{PREFIX}{name}": value for name, value in told.items()}


async def up(  # noqa: PLR0913 - the command line names them
    project: Project,
    settings: Settings,
    *,
    hardware: Hardware,
    address: Address | None,
    console: Console,
    follow: Follow | None = None,
) -> None:
    """Serve the plan until SIGINT or SIGTERM; without ``address`` no app is started.

    ``hardware`` is what the plan was made for; ``follow`` tells of every change instead of the console.

    Raises:
        LauncherError: the port is taken, another launcher runs here, or the app cannot be kept running.
    """
    if address is not None:
        check_keys(address.host, settings)
        for port in address.ports:
            await service.check_port_free(address.host, port)
    with contextlib.closing(RunDirectory.open(settings.run_dir)) as directory:
        stop = service.stop_signals()
        run = directory.path
        preparation = Preparation(project, settings, logs=run / "logs", records=run / "servers")
        launcher = Launcher(
            server_specs(project, settings),
            prepare=preparation,
            spawn=directory.spawn,
            health=HttpHealth(),
            ports=PortTable(reserved=address.ports if address else []),
            capacity=project.plan.capacity,
            desired=run / "desired.json",
        )
        models = ModelList(
            project,
            hardware=hardware,
            settings=settings,
            specs=server_specs,
            launcher=launcher,
            preparation=preparation,
            run=run,
        )
        accepted = write_accepted(project.registry, run)
        around = Around(reload=models.reload, stop=stop.set, log=directory.log)
        app = app_child(accepted, address, settings, directory) if address else None
        told = follow(launcher.events()) if follow else show(launcher, address, console)
        aside = [
            asyncio.create_task(told),
            asyncio.create_task(models.watch()),
        ]
        try:
            control = ControlServer(launcher, directory.control_socket, around=around)
            await service.serve(launcher, run=directory, control=control, app=app, stop=stop)
        finally:
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)


async def show(launcher: Launcher, address: Address | None, console: Console) -> None:
    """Print the app's addresses, then every change."""
    if address is not None:
        told = f"[bold]{address.url}[/]  home page, playgrounds, REST ([dim]{address.url}/docs[/])"
        console.print(told, soft_wrap=True)
        if address.grpc_port:
            console.print(f"[bold]{address.host}:{address.grpc_port}[/]  gRPC", soft_wrap=True)
    await view.follow(launcher.events(), console)


def server_specs(project: Project, settings: Settings) -> list[ServerSpec]:
    """Every model of the registry with a server of its own: those that have a place, the others with the reason."""
    own = (spec for spec in project.registry.models if not isinstance(spec.engine, SharedEngine))
    return [server_spec(spec, project.plan, settings) for spec in own]


def server_spec(spec: ModelSpec, plan: Plan, settings: Settings) -> ServerSpec:
    """One model of the registry as the launcher keeps it; with its replicas, where the plan has several."""
    servers = plan.replicas(spec.id)
    whole = single_spec(spec, plan, settings)
    if len(servers) < 2:  # noqa: PLR2004 - several
        return whole
    replicas = [
        replace(whole, model=part_of(spec.id, number), needs=server.needs, idle_seconds=None)
        for number, server in enumerate(servers)
    ]
    needs = Counter[str]()
    for server in servers:
        needs.update(server.needs)
    return replace(whole, replicas=tuple(replicas), needs=dict(needs), balance=spec.balance)


def single_spec(spec: ModelSpec, plan: Plan, settings: Settings) -> ServerSpec:
    """One server of a model."""
    planned = plan.server(spec.id)
    refused = next((rejected for rejected in plan.rejected if rejected.model == spec.id), None)
    return ServerSpec(
        model=spec.id,
        served_name=served_name(spec),
        task=spec.task,
        load=spec.load,
        external=external(spec.engine, settings),
        refusal=LauncherError(refused.reason, refused.hint) if refused else None,
        image_size=spec.drawing.size or "256x256",
        needs=planned.needs if planned and planned.engine not in PROCESSLESS else {},
        pinned=spec.residency.pinned,
        shares=planned.shares if planned else False,
        idle_seconds=spec.residency.idle_seconds,
        sleep=planned.sleep if planned else None,
        fingerprint=fingerprint(spec),
    )


def fingerprint(spec: ModelSpec) -> str:
    """Changes when the entry asks for another server.

    What the plan computes is left out: adding a model must not restart the others because their shares changed.
    """
    shapes = {"task", "source", "engine", "limits", "drawing", "replicas", "balance"}
    text = spec.model_dump_json(include=shapes) + str(spec.residency.sleep)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def app_child(models: Path, address: Address, settings: Settings, directory: RunDirectory) -> SupervisedChild:
    """The app, as one more supervised process."""
    settings.sessions_file.parent.mkdir(parents=True, exist_ok=True)
    env: dict[str, str] = {
        "LANGSERVE_VLLM_SESSIONS_URL": f"sqlite:///{settings.sessions_file.absolute()}",
        **settings.app_environment,
        "LANGSERVE_VLLM_MODELS": str(models.absolute()),
        "LANGSERVE_VLLM_CONTROL": str(directory.control_socket),
        "LANGSERVE_VLLM_KEYS": str(settings.keys_file),
        **address.environment,
    }
    env.setdefault("LANGSERVE_VLLM_AUDIT_LOG", str(directory.path / "logs" / "audit.jsonl"))
    launch = Launch(argv=(sys.executable, "-m", "app"), env=env, cwd=settings.root)
    return SupervisedChild("app", launch, spawn=directory.spawn)


def check_keys(host: str, settings: Settings) -> None:
    """Refuse to open the service to others without keys.

    Raises:
        LauncherError: There is no key that could be used.
    """
    if is_loopback(host):
        return
    with KeyStore.opened(settings.keys_file) as store:
        if not store.any_active():
            raise LauncherError(NO_KEYS.format(host=host), MAKE_ONE)


def exit_with_parent() -> None:
    """End, by SIGTERM, when the process that started this one ends (prctl(2)); at once if it has already."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if parent == 1 or os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
