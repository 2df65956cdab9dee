"""What ``doctor`` looks at, read once: the machine, the settings' folders, the engines, the list of models.

``Machine`` is values only, so that the checks on it are pure; ``look`` reads them. Sizes are bytes.
"""

import contextlib
import os
import platform
import resource
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import psutil

from vllm_launcher.command import ROUTER_ENGINE
from vllm_launcher.fetching.disk import GB
from vllm_launcher.fetching.install import OUR_RECIPES, environment_of, installed
from vllm_launcher.fetching.recipes import Recipes
from vllm_launcher.fetching.records import broken
from vllm_launcher.hardware import Hardware, detect
from vllm_launcher.planning.plan_report import ServerReport, report_of
from vllm_launcher.planning.planned import PROCESSLESS, Rejected
from vllm_launcher.prepare import project_of
from vllm_launcher.registry import RegistryError, check_chains, load_registry
from vllm_launcher.registry.problems import Problem
from vllm_launcher.settings import Settings
from vllm_launcher.status import LauncherStatus
from vllm_launcher.up import Address


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of ours, or the nearest one above it that exists. ``mode`` is None while it does not exist itself."""

    path: Path
    free: int
    writable: bool = True
    executable: bool = True
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that the plan needs. ``broken``: distributions that are not whole; ``disk``: what it takes."""

    name: str
    environment: Path
    state: Literal["whole", "half-made", "absent"]
    disk: int = 0
    versions: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Models:
    """The list of models: what is wrong with it, or what the plan makes of it; of each model the first server."""

    path: Path
    problems: tuple[Problem, ...] = ()
    servers: tuple[ServerReport, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    replicated: bool = False
    """Some have several servers, and so a router."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was seen. ``nvidia``: the system has an NVIDIA device, whatever the driver's library says.

    ``listener``: who listens on the app's port, None if nobody does. ``shared_memory`` is None where there is no
    /dev/shm, ``instructions`` are those of the processor.
    """

    system: str
    python: tuple[int, int]
    hardware: Hardware
    nvidia: bool
    instructions: frozenset[str]
    cache: Folder
    run: Folder
    shared_memory: int | None
    open_files: int
    port: int
    listener: str | None
    launcher: LauncherStatus | None
    models: Models
    engines: tuple[Engine, ...] = ()
    offline: bool = False


def look(models: Path, settings: Settings, launcher: LauncherStatus | None, address: Address) -> Machine:
    """Read everything. Starts nothing, opens no connection and writes nothing."""
    hardware = detect()
    listed = read_models(models, hardware, settings)
    return Machine(
        system=platform.system(),
        python=(sys.version_info.major, sys.version_info.minor),
        hardware=hardware,
        nvidia=Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists(),
        instructions=read_instructions(Path("/proc/cpuinfo")),
        cache=read_folder(settings.cache),
        run=read_folder(settings.run_dir),
        shared_memory=_size_of(Path("/dev/shm")),  # noqa: S108 - looked at, not written to
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        port=address.port,
        listener=find_listener(address),
        launcher=launcher,
        models=listed,
        engines=tuple(read_engines(listed, settings)),
        offline=settings.offline,
    )


def read_models(path: Path, hardware: Hardware, settings: Settings) -> Models:
    """The list of models, with every problem in it."""
    try:
        registry = load_registry(path)
        problems = check_chains(path, registry)
    except RegistryError as error:
        return Models(path, error.problems)
    if problems:
        return Models(path, problems)
    project = project_of(path, registry, hardware, settings)
    firsts = tuple(server for server in report_of(project, hardware, settings).servers if not server.replica)
    replicated = any(server.replica for server in project.plan.servers)
    return Models(path, servers=firsts, rejected=project.plan.rejected, replicated=replicated)


def read_engines(models: Models, settings: Settings) -> Iterator[Engine]:
    """Every engine that the plan needs. Compares each of their files with its size on record."""
    router = {ROUTER_ENGINE} if models.replicated else set[str]()
    for name in sorted({server.engine for server in models.servers} - PROCESSLESS | router):
        yield read_engine(name, settings)


def read_engine(name: str, settings: Settings, recipes: Recipes = OUR_RECIPES) -> Engine:
    """One engine, installed or not."""
    environment = environment_of(name, settings, recipes)
    recipe = recipes.read(name)
    disk = int(recipe.disk_gb * GB)
    if installed(name, settings, recipes) is None:
        return Engine(name, environment, "half-made" if environment.exists() else "absent", disk)
    (packages,) = [*environment.glob("lib/python3.*/site-packages")] or [environment]
    versions = (folder.stem.replace("-", " ") for folder in sorted(packages.glob("vllm*.dist-info")))
    return Engine(name, environment, "whole", disk, tuple(versions), tuple(broken(packages, recipe.remove)))


def read_folder(path: Path) -> Folder:
    """A folder of the settings, whether it exists or will be made."""
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return Folder(
        path=path,
        free=shutil.disk_usage(place).free,
        writable=place.is_dir() and os.access(place, os.W_OK | os.X_OK),
        executable=not os.statvfs(place).f_flag & os.ST_NOEXEC,
        mode=stat.S_IMODE(path.stat().st_mode) if path.exists() else None,
    )


def read_instructions(cpuinfo: Path) -> frozenset[str]:
    """The instruction sets of the first core; none where the kernel does not tell."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


def find_listener(address: Address) -> str | None:
    """Who keeps the app from listening there, by the kernel's own table; None if nobody does."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            place = connection.laddr
            if connection.status == psutil.CONN_LISTEN and place and place.port == address.port:
                hosts = (place.ip, address.host)
                if place.ip == address.host or any(_is_everywhere(host) for host in hosts):
                    return _name_of(connection.pid)
    return None


def _is_everywhere(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _name_of(pid: int | None) -> str:
    if pid is None:
        return "a program of another user"
    with contextlib.suppress(psutil.Error):
        return f"{psutil.Process(pid).name()} (pid {pid})"
    return f"a program (pid {pid})"


def _size_of(path: Path) -> int | None:
    return shutil.disk_usage(path).total if path.is_dir() else None
