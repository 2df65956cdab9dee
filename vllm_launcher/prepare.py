"""From a planned server to one that can be started: its engine installed, its weights fetched, its command built."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from vllm_launcher import view
from vllm_launcher.command import ROUTER_ENGINE, build_command, build_router_command
from vllm_launcher.errors import LauncherError, UnknownModel
from vllm_launcher.fetching.install import InstalledEngine, check_plugins, install_engine
from vllm_launcher.fetching.tokenizer import fetch_tokenizer, needs_tokenizer
from vllm_launcher.fetching.weights import Tools, cached_checkpoint, fetch_weights
from vllm_launcher.hardware import Hardware
from vllm_launcher.keeping.board import Board
from vllm_launcher.keeping.collaborators import ROUTER, Build, parts
from vllm_launcher.keeping.router import POLICIES
from vllm_launcher.planning.facts import facts_of
from vllm_launcher.planning.plan import Plan, PlannedServer, plan
from vllm_launcher.planning.planned import PROCESSLESS
from vllm_launcher.processes.process import Finished, Launch, run
from vllm_launcher.progress import Progress, Report
from vllm_launcher.registry import Registry
from vllm_launcher.registry.entries import ModelSpec
from vllm_launcher.settings import Settings
from vllm_launcher.status import ServerStatus

T = TypeVar("T")


@dataclass(frozen=True)
class Project:
    """What there is to serve: the list of models, the file it came from, and the plan for this machine."""

    models: Path
    registry: Registry
    plan: Plan

    def planned(self, name: str) -> tuple[ModelSpec, PlannedServer]:
        """A model's entry and its place; of one of its replicas, where the name says which.

        Raises:
            UnknownModel: it is not in the registry.
            LauncherError: the plan has no place for it; says why.
        """
        model, part = parts(name)
        spec, servers = self.registry.get(model), self.plan.replicas(model)
        if spec is None:
            raise UnknownModel(model)
        planned = servers[min(int(part), len(servers) - 1) if part.isdigit() else 0] if servers else None
        if planned is None:
            refused = next(rejected for rejected in self.plan.rejected if rejected.model == model)
            raise LauncherError(refused.reason, refused.hint)
        return spec, planned


def project_of(models: Path, registry: Registry, hardware: Hardware, settings: Settings) -> Project:
    """The plan of a list of models; of what is in the cache, its own config is what is known."""
    if settings.memory is not None:
        hardware = hardware.model_copy(update={"memory_limit": int(settings.memory)})
    planned = plan(
        registry, hardware, facts=lambda spec: facts_of(spec, lambda spec: cached_checkpoint(spec, settings))
    )
    return Project(models=models, registry=registry, plan=planned)


class Preparation:
    """Prepares the models of a project; what the launcher calls before every start."""

    def __init__(self, project: Project, settings: Settings, *, logs: Path, records: Path) -> None:
        self.project = project
        """May be replaced while models run; the next start of each goes by it."""
        self._settings = settings
        self._logs = logs
        self._records = records

    async def __call__(self, model: str, report: Report) -> Build:
        """See ``collaborators.Prepare``."""
        if parts(model)[1] == ROUTER:
            return await self._router(model, report)
        spec, planned = self.project.planned(model)
        fetched = await self.fetch(model, report)
        if fetched.python is None or fetched.checkpoint is None:
            raise LauncherError(f"{model} is served by somebody else: there is nothing to start.")
        bind = partial(
            build_command,
            planned,
            spec,
            python=fetched.python,
            checkpoint=fetched.checkpoint,
            tokenizer=fetched.tokenizer,
            inherited=self._settings.inherited,
        )

        def build(port: int) -> Launch:
            command = bind(port=port)
            return Launch(argv=command.argv, env=command.env)

        return build

    async def _router(self, model: str, report: Report) -> Build:
        """The router in front of a model's replicas."""
        spec, _ = self.project.planned(model)
        engine = await install_engine(ROUTER_ENGINE, self._settings, self._runner(model), report)
        bind = partial(
            build_router_command,
            python=engine.python,
            policy=POLICIES[spec.balance],
            inherited=self._settings.inherited,
        )

        def build(port: int) -> Launch:
            command = bind(port=port)
            return Launch(argv=command.argv, env=command.env)

        return build

    def _runner(self, model: str) -> "Runner":
        return Runner(log=self._logs / f"{model}-prepare.log", record=self._records / f"{model}-prepare.json")

    async def fetch(self, model: str, report: Report) -> "Fetched":
        """Install the model's engine and fetch its weights, unless they are there."""
        spec, planned = self.project.planned(model)
        if planned.engine in PROCESSLESS:
            return Fetched(model, planned.engine)
        check_plugins(planned.engine, planned.plugins)
        runner = self._runner(model)
        if len(self.project.plan.replicas(spec.id)) > 1:
            await install_engine(ROUTER_ENGINE, self._settings, runner, report)
        engine = await install_engine(planned.engine, self._settings, runner, report)
        tools = Tools(settings=self._settings, run=runner, report=report, python=engine.python)
        checkpoint = await fetch_weights(spec, tools, dequantize=planned.dequantize, dtype=dtype_of(planned))
        tokenizer = await fetch_tokenizer(spec, tools) if needs_tokenizer(spec, planned) else None
        return Fetched(model, engine.name, engine.python, checkpoint.path, tokenizer)


@dataclass(frozen=True)
class Fetched:
    """What a model is served from; of an external or shared one there is nothing here."""

    model: str
    engine: str
    python: Path | None = None
    checkpoint: Path | None = None
    tokenizer: Path | None = None


def dtype_of(planned: PlannedServer) -> str:
    """The torch dtype that a GGUF is dequantized to for that server."""
    return str(planned.flags.get("dtype") or "auto").replace("auto", "bfloat16")


class Runner:
    """Runs installers and converters under a guard, with a log and a record of their own."""

    def __init__(self, *, log: Path, record: Path) -> None:
        self._log = log
        self._record = record

    async def __call__(self, launch: Launch, on_line: Callable[[str], None] | None = None) -> Finished:
        """Run to the end; how it ended."""
        return await run(launch, log=self._log, record=self._record, on_line=on_line)


async def fetch(project: Project, settings: Settings, models: Sequence[str], console: Console) -> list[Fetched]:
    """Prepare these models and start nothing; progress goes to the console.

    Raises:
        LauncherError: the first that failed.
    """
    logs, records = settings.run_dir / "logs", settings.run_dir / "servers"
    preparation = Preparation(project, settings, logs=logs, records=records)
    return await each(models, preparation.fetch, console)


async def install(engines: Sequence[str], settings: Settings, console: Console) -> list[InstalledEngine]:
    """Install these engines; progress goes to the console.

    Raises:
        LauncherError: the first that failed.
    """

    async def one(engine: str, report: Report) -> InstalledEngine:
        log = settings.run_dir / "logs" / f"{engine}-install.log"
        record = settings.run_dir / "servers" / f"{engine}-install.json"
        return await install_engine(engine, settings, Runner(log=log, record=record), report)

    return await each(engines, one, console)


async def each(names: Sequence[str], step: Callable[[str, Report], Awaitable[T]], console: Console) -> list[T]:
    """One after the other, with the progress of all on the console."""
    board = Board(ServerStatus(model=name, served_name=name) for name in names)
    done: list[T] = []
    async with _shown(board, console):
        for name in names:
            done.append(await step(name, lambda progress, name=name: _note(board, name, progress)))
            _note(board, name, Progress(phase="done"))
    return done


def _note(board: Board, name: str, progress: Progress) -> None:
    now = board[name]
    since = now.since if now.phase == progress.phase else time.time()
    told = {"state": "fetching", "phase": progress.phase, "progress": progress, "since": since}
    board.put(now.model_copy(update=told), minor=now.phase == progress.phase)


@contextlib.asynccontextmanager
async def _shown(board: Board, console: Console) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(view.follow(board.changes(), console))
    try:
        yield
    finally:
        board.close()
        await task
