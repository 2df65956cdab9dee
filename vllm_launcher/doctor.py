"""What could keep a machine from serving: checks, each with what was seen and what to do. Pure, over ``Machine``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.text import Text

from vllm_launcher import __version__
from vllm_launcher.machine import Engine, Folder, Machine
from vllm_launcher.planning.plan_table import machine_line
from vllm_launcher.planning.plan_view import say
from vllm_launcher.planning.planned import GIB, gib
from vllm_launcher.planning.variants import OLDEST
from vllm_launcher.processes.run_directory import LONGEST_SOCKET_PATH, control_socket

Level = Literal["ok", "warn", "fail"]
STYLES: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}

PYTHONS = ((3, 11), (3, 13))
"""The oldest and the newest that the engines' locks are made for."""
DRIVER = 580
"""What CUDA 13, which the engines for GPUs are built with, needs (CUDA release notes, table of minimum drivers)."""
SHARED_MEMORY = GIB
"""Processes of one server hand tensors to each other through it; containers get 64 MiB unless told."""
OPEN_FILES = 4096
"""The app holds up to 1024 connections to engines, and as many to clients."""
PRIVATE = 0o077


class Check(BaseModel):
    """One thing that was looked at. ``fix`` is what to do about a level other than ok."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    level: Level
    seen: str
    fix: str | None = None


class Diagnosis(BaseModel):
    """All of them; ``ok`` unless one fails. What ``doctor --json`` prints; fields may be added, none changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ok: bool
    checks: tuple[Check, ...]


def examine(machine: Machine) -> Diagnosis:
    """Every check."""
    checks = tuple(check for look in CHECKS for check in look(machine))
    return Diagnosis(ok=all(check.level != "fail" for check in checks), checks=checks)


def show(diagnosis: Diagnosis, console: Console) -> None:
    """A line for each check, and the fix below."""
    width = max(len(check.name) for check in diagnosis.checks)
    for check in diagnosis.checks:
        head = Text.assemble((f"{check.level:4}", STYLES[check.level]), f"  {check.name:{width}}  {check.seen}")
        console.print(head, soft_wrap=True)
        if check.fix:
            say(console, f"{'':{width + 8}}{check.fix}")


# --- the machine -------------------------------------------------------------------------


def check_system(machine: Machine) -> Iterator[Check]:
    """Linux, on a processor that the engines are built for."""
    seen = f"{machine.system}, {machine.hardware.architecture}"
    if machine.system != "Linux":
        yield Check(name="system", level="fail", seen=seen, fix="Use Linux, or WSL 2 on Windows.")
    elif machine.hardware.architecture not in ("x86_64", "aarch64"):
        yield Check(name="system", level="fail", seen=seen, fix="The engines are built for x86_64 and aarch64 alone.")
    elif machine.hardware.architecture == "x86_64" and machine.instructions and "avx2" not in machine.instructions:
        fix = "vLLM's CPU build ends with an illegal instruction here: serve on a GPU, or use a newer processor."
        level = "fail" if any(engine.name.endswith("-cpu") for engine in machine.engines) else "warn"
        yield Check(name="system", level=level, seen=f"{seen} without AVX2", fix=fix)
    else:
        yield Check(name="system", level="ok", seen=f"{seen}, {machine_line(machine.hardware)}")


def check_python(machine: Machine) -> Iterator[Check]:
    """One that the locks are made for."""
    seen = ".".join(map(str, machine.python))
    if PYTHONS[0] <= machine.python <= PYTHONS[1]:
        yield Check(name="python", level="ok", seen=seen)
    else:
        fix = "Install Python 3.11, 3.12 or 3.13 and make the environment anew: remove .venv, then make serve."
        yield Check(name="python", level="fail", seen=seen, fix=fix)


def check_driver(machine: Machine) -> Iterator[Check]:
    """NVIDIA's, where there is a GPU."""
    gpus, driver = machine.hardware.gpus, machine.hardware.driver
    if not gpus and not machine.nvidia:
        yield Check(name="driver", level="ok", seen="no NVIDIA GPU; servers run on the processor")
    elif not gpus:
        fix = "Run nvidia-smi: it says why. In a container, start it with --gpus all."
        yield Check(name="driver", level="fail", seen="an NVIDIA device, and no GPU that its driver shows", fix=fix)
    elif (major := _major(driver)) is not None and major < DRIVER:
        fix = f"Install driver {DRIVER} or newer: the engines are built with CUDA 13."
        yield Check(name="driver", level="fail", seen=f"NVIDIA driver {driver}", fix=fix)
    else:
        yield Check(name="driver", level="ok", seen=f"NVIDIA driver {driver or 'of unknown version'}")
    for gpu in gpus:
        if gpu.compute_capability < OLDEST:
            seen = f"GPU {gpu.index}, {gpu.name}, has compute capability {'.'.join(map(str, gpu.compute_capability))}"
            fix = f"vLLM needs {'.'.join(map(str, OLDEST))}: nothing is planned for this GPU."
            yield Check(name="driver", level="warn", seen=seen, fix=fix)


def check_shared_memory(machine: Machine) -> Iterator[Check]:
    """Enough for the processes of one server; most of all where a model is cut over GPUs."""
    size = machine.shared_memory
    if size is not None and size >= SHARED_MEMORY:
        yield Check(name="shared memory", level="ok", seen=f"{gib(size)} in /dev/shm")
        return
    cut = any(server.tensor_parallel * server.pipeline_parallel > 1 for server in machine.models.servers)
    yield Check(
        name="shared memory",
        level="fail" if cut else "warn",
        seen="no /dev/shm" if size is None else f"{gib(size)} in /dev/shm",
        fix=f"Give it {gib(SHARED_MEMORY)} or more: docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm.",
    )


def check_open_files(machine: Machine) -> Iterator[Check]:
    """Connections are open files."""
    limit = machine.open_files
    if limit >= OPEN_FILES or limit < 0:  # -1 is no limit (getrlimit(2))
        yield Check(name="open files", level="ok", seen="no limit" if limit < 0 else f"up to {limit}")
    else:
        fix = f"Raise the limit before the start, beyond {OPEN_FILES}: ulimit -n 65536."
        yield Check(name="open files", level="warn", seen=f"up to {limit}", fix=fix)


# --- our folders -------------------------------------------------------------------------


def check_folders(machine: Machine) -> Iterator[Check]:
    """Ours to write, and logs for nobody else's eyes."""
    yield _writable("cache", machine.cache, "LANGSERVE_VLLM_CACHE", programs=True)
    run = _writable("run directory", machine.run, "LANGSERVE_VLLM_RUN", programs=False)
    path, mode = machine.run.path, machine.run.mode
    if run.level == "ok" and len(bytes(control_socket(path.absolute()))) > LONGEST_SOCKET_PATH:
        fix = "Set LANGSERVE_VLLM_RUN to a shorter path."
        run = Check(name=run.name, level="fail", seen=f"{path} is too long a path for a socket", fix=fix)
    elif run.level == "ok" and mode is not None and mode & PRIVATE:
        seen = f"{path} can be entered by others (mode {mode:o}), and logs hold prompts"
        run = Check(name=run.name, level="warn", seen=seen, fix=f"chmod 700 {path} (the next start does it).")
    yield run


def check_disk(machine: Machine) -> Iterator[Check]:
    """Room for what is still to be installed and fetched."""
    engines = sum(engine.disk for engine in machine.engines if engine.state == "absent")
    weights = sum(
        server.memory.weights * max(1, len(server.gpus))
        for server in machine.models.servers
        if server.weights == "to fetch"
    )
    seen = f"{gib(machine.cache.free)} free, about {gib(engines + weights)} still to install and fetch"
    if machine.cache.free > engines + weights:
        yield Check(name="disk", level="ok", seen=seen)
        return
    fix = "Free some, or set LANGSERVE_VLLM_CACHE to a folder on a larger disk."
    yield Check(name="disk", level="fail" if machine.cache.free < engines else "warn", seen=seen, fix=fix)


# --- what is to be served ----------------------------------------------------------------


def check_models(machine: Machine) -> Iterator[Check]:
    """The list is valid, its chains import, and every model has a place."""
    models = machine.models
    for problem in models.problems:
        seen = f"{models.path}:{problem.line}:{problem.column}: {problem.message}"
        yield Check(name="models", level="fail", seen=seen, fix=problem.fix)
    if not models.problems:
        yield Check(name="models", level="ok", seen=f"{models.path} is valid: {len(models.servers)} served here")
    for rejected in models.rejected:
        yield Check(name="models", level="warn", seen=f"{rejected.model}: {rejected.reason}", fix=rejected.hint)


def check_engines(machine: Machine) -> Iterator[Check]:
    """Installed and whole, or installed at the start."""
    for engine in machine.engines:
        yield _engine(engine, offline=machine.offline)


def check_weights(machine: Machine) -> Iterator[Check]:
    """Here, or fetched at the start."""
    for server in machine.models.servers:
        if server.weights == "missing":
            fix = "Correct source.path of its entry."
            yield Check(name="weights", level="fail", seen=f"{server.model}: its path does not exist", fix=fix)
        elif server.weights == "to fetch" and machine.offline:
            fix = f"Once online: python -m vllm_launcher fetch {server.model}"
            yield Check(name="weights", level="fail", seen=f"{server.model}: not in the cache, and offline", fix=fix)
        elif server.weights != "elsewhere":
            told = "in place" if server.weights == "here" else "not fetched yet: the next start fetches them"
            yield Check(name="weights", level="ok", seen=f"{server.model}: {told}")


def check_launcher(machine: Machine) -> Iterator[Check]:
    """Whether one runs, and how its servers are."""
    running = machine.launcher
    if running is None:
        yield Check(name="launcher", level="ok", seen="none is running here")
        return
    ready = sum(server.state == "ready" for server in running.servers)
    seen = f"running (pid {running.pid}, version {running.version}), {ready} of {len(running.servers)} servers ready"
    if running.version == __version__:
        yield Check(name="launcher", level="ok", seen=seen)
    else:
        fix = f"Restart it: this is version {__version__}."
        yield Check(name="launcher", level="warn", seen=seen, fix=fix)
    for server in running.servers:
        if server.state == "failed":
            seen = f"{server.model} has failed: {server.reason or 'for no known reason'}"
            yield Check(name="launcher", level="fail", seen=seen, fix=server.hint or "Its log says more.")


def check_port(machine: Machine) -> Iterator[Check]:
    """The app's is free, or the app's own launcher runs."""
    seen = f"{machine.port} is free" if machine.listener is None else f"{machine.port} is taken by {machine.listener}"
    if machine.listener is None or machine.launcher is not None:
        yield Check(name="port", level="ok", seen=seen)
    else:
        yield Check(name="port", level="fail", seen=seen, fix="Stop that program, or start with another: up --port N.")


CHECKS: tuple[Callable[[Machine], Iterator[Check]], ...] = (
    check_system, check_python, check_driver, check_shared_memory, check_open_files, check_folders, check_disk,
    check_models, check_engines, check_weights, check_launcher, check_port,
)  # fmt: skip


# --- parts -------------------------------------------------------------------------------


def _major(driver: str | None) -> int | None:
    head = (driver or "").partition(".")[0]
    return int(head) if head.isdigit() else None


def _writable(name: str, folder: Folder, variable: str, *, programs: bool) -> Check:
    fix = f"Set {variable} to a folder of yours."
    if not folder.writable:
        return Check(name=name, level="fail", seen=f"{folder.path} cannot be written", fix=fix)
    if programs and not folder.executable:
        seen = f"{folder.path} lies on a disk that programs may not run from (noexec), and engines are programs"
        return Check(name=name, level="fail", seen=seen, fix=f"Set {variable} to a folder on another disk.")
    return Check(name=name, level="ok", seen=str(folder.path) if folder.mode is not None else _to_come(folder.path))


def _to_come(path: Path) -> str:
    return f"{path} (made at the first start)"


def _engine(engine: Engine, *, offline: bool) -> Check:
    name, again = "engine", f"python -m vllm_launcher install-engine {engine.name}"
    if engine.broken:
        first = ", ".join(part.removesuffix(".dist-info") for part in engine.broken[:3])
        seen = f"{engine.name}: {len(engine.broken)} distributions are not whole: {first}"
        return Check(name=name, level="fail", seen=seen, fix=f"Remove {engine.environment}, then: {again}")
    if engine.state == "whole":
        return Check(name=name, level="ok", seen=f"{engine.name}: {', '.join(engine.versions) or 'installed'}")
    if offline:
        seen = f"{engine.name}: {engine.state}, and the launcher is told to stay offline"
        return Check(name=name, level="warn", seen=seen, fix=f"Where pip reaches an index: {again}")
    if engine.state == "half-made":
        return Check(
            name=name, level="warn", seen=f"{engine.name}: half-made", fix=f"The next start goes on, or: {again}"
        )
    return Check(name=name, level="ok", seen=f"{engine.name}: not installed yet: the next start installs it")
