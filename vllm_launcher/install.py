"""Engines: each in an environment of its own, made from its lock under ``engines/``.

An environment is ``<cache>/engines/<engine>-<digest of its lock>-py3XX`` and whole once its stamp is written, which is
the last step. A call that finds it half-made goes on: every distribution is checked against its own RECORD, broken
ones are installed again, and what pip had downloaded comes from pip's cache. Two calls at once: one waits.

``engines/<engine>.in`` says what is wanted, ``make lock`` pins it in ``.txt``, ``.toml`` says how it is installed.
"""

import asyncio
import contextlib
import csv
import hashlib
import shutil
import sys
import tomllib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vllm_launcher.alone import alone
from vllm_launcher.disk import GB, check_disk
from vllm_launcher.errors import LauncherError
from vllm_launcher.pip_output import PipOutput, explain
from vllm_launcher.progress import Progress, Report
from vllm_launcher.run import Run
from vllm_launcher.settings import Settings

ENGINES = Path(__file__).parent / "engines"
RUNTIME = ENGINES / "runtime"
STAMP = ".complete"
LOOK = 0.5
"""Seconds between two looks at how many distributions are installed."""


class InstallError(LauncherError):
    """An engine could not be installed. Calling again goes on from there."""

    permanent = True


class Recipe(BaseModel):
    """How one engine is installed: the keys of ``engines/<engine>.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    disk_gb: float
    probe: str
    torch: str | None = None
    torch_index: str | None = None
    local: tuple[str, ...] = ()
    """Distributions under ``engines/runtime`` that go in after the lock."""
    remove: tuple[str, ...] = ()
    """Files, relative to site-packages, that must not be there."""


@dataclass(frozen=True)
class InstalledEngine:
    """An environment that is whole."""

    name: str
    python: Path


def engine_names() -> list[str]:
    """Every engine that can be installed."""
    return sorted(path.stem for path in ENGINES.glob("*.toml"))


def environment_of(name: str, settings: Settings) -> Path:
    """Where the environment of an engine is or will be; another one for each lock, recipe and Python."""
    digest = hashlib.sha256()
    for path in _inputs(name):
        digest.update(path.read_bytes())
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    return settings.engines_dir / f"{name}-{digest.hexdigest()[:12]}-{version}"


def installed(name: str, settings: Settings) -> InstalledEngine | None:
    """The engine, if it is whole."""
    environment = environment_of(name, settings)
    return InstalledEngine(name, environment / "bin" / "python") if (environment / STAMP).exists() else None


async def install_engine(name: str, settings: Settings, run: Run, report: Report) -> InstalledEngine:
    """Install an engine, unless it is there; its interpreter.

    Raises:
        InstallError: with what is missing (network, disk, Python version) and what to do.
    """
    if found := installed(name, settings):
        return found
    if name not in engine_names():
        raise InstallError(f"There is no engine {name!r}.", f"Engines: {', '.join(engine_names())}.")
    environment = environment_of(name, settings)
    async with alone(environment, f"waiting for another installation of engine {name}", report):
        if found := installed(name, settings):
            return found
        return await Installation(name, environment, settings, run, report).carry_out()


class Installation:
    """One way from nothing, or from a half-made environment, to a whole one."""

    def __init__(self, name: str, environment: Path, settings: Settings, run: Run, report: Report) -> None:
        self._name = name
        self._recipe = read_recipe(name)
        self._lock = ENGINES / f"{name}.txt"
        self._environment = environment
        self._python = environment / "bin" / "python"
        self._settings = settings
        self._run = run
        self._report = report
        self._phase = f"installing engine {name}"

    async def carry_out(self) -> InstalledEngine:
        """Every step in its order; the stamp is the last."""
        self._report(Progress(phase=self._phase))
        if not self._environment.exists():
            check_disk(self._environment, int(self._recipe.disk_gb * GB), self._recipe.title)
        await self._make_environment()
        await asyncio.to_thread(forget_broken, self._site_packages())
        await self._install_locked()
        await asyncio.to_thread(_install_local, self._recipe, self._site_packages())
        await self._probe()
        (self._environment / STAMP).write_text(f"{self._name}\n", encoding="utf-8")
        return InstalledEngine(self._name, self._python)

    async def _make_environment(self) -> None:
        """An empty environment with the lock's own pip: older ones do not tell their progress."""
        if not (self._environment / "pyvenv.cfg").exists() or not self._python.exists():
            shutil.rmtree(self._environment, ignore_errors=True)
        done = await self._run(self._settings.launch(sys.executable, "-m", "venv", str(self._environment)))
        if done.code != 0:
            raise InstallError(
                f"python -m venv failed: {' '.join(done.tail[-3:])}",
                "Install the venv module; on Debian and Ubuntu: apt-get install python3-venv.",
            )
        pip = self._environment / "pip.txt"
        pip.write_text("\n".join(stanza(self._lock, "pip")), encoding="utf-8")
        await self._pip("--no-deps", "--require-hashes", "-q", "-r", str(pip))

    async def _install_locked(self) -> None:
        """Torch where the recipe wants it by itself, then everything in the lock."""
        if self._recipe.torch:
            await self._install_torch(self._recipe.torch)
        await self._pip("--no-deps", "--require-hashes", "--progress-bar=raw", "-r", str(self._lock))

    async def _install_torch(self, requirement: str) -> None:
        arguments = ("--no-deps", "--progress-bar=raw", requirement)
        index = self._recipe.torch_index
        if index is None:
            await self._pip(*arguments)
            return
        try:
            await self._pip(*arguments)
        except InstallError:
            await self._pip("--extra-index-url", index, *arguments)

    async def _pip(self, *arguments: str) -> None:
        output = PipOutput(self._phase, self._report, total=count(self._lock))
        launch = self._settings.launch(str(self._python), "-m", "pip", "install", "--no-input", *arguments)
        async with self._counting(output):
            done = await self._run(launch, output.line)
        if done.code != 0:
            reason, hint = explain(done.tail)
            raise InstallError(f"{self._recipe.title} could not be installed: {reason}", hint)

    @contextlib.asynccontextmanager
    async def _counting(self, output: PipOutput) -> AsyncGenerator[None, None]:
        """While pip unpacks, which it does in silence, count what is there."""

        async def look() -> None:
            while True:
                await asyncio.sleep(LOOK)
                if output.unpacking:
                    output.unpacked(sum(1 for _ in self._site_packages().glob("*.dist-info")))

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()

    async def _probe(self) -> None:
        """Import the engine once: an environment that cannot is not whole."""
        self._report(Progress(phase=f"{self._phase}: checking"))
        done = await self._run(self._settings.launch(str(self._python), "-c", self._recipe.probe))
        if done.code != 0:
            raise InstallError(
                f"{self._recipe.title} is installed and cannot be imported: {' '.join(done.tail[-2:])}",
                f"Remove {self._environment} and try again.",
            )

    def _site_packages(self) -> Path:
        return self._environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"


def read_recipe(name: str) -> Recipe:
    """The recipe of an engine."""
    return Recipe.model_validate(tomllib.loads((ENGINES / f"{name}.toml").read_text(encoding="utf-8")))


def stanza(lock: Path, name: str) -> list[str]:
    """The lines of one distribution in a lock: its pin and its hashes."""
    found: list[str] = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}==") or (found and line.startswith(" ")):
            found.append(line)
        elif found:
            break
    return found


def count(lock: Path) -> int:
    """How many distributions a lock pins."""
    return sum(line[:1].isalnum() and "==" in line for line in lock.read_text(encoding="utf-8").splitlines())


def forget_broken(site_packages: Path) -> list[str]:
    """Make pip install anew what was left half-installed; the names.

    pip takes a distribution for installed when its ``.dist-info`` folder is there. A kill in the middle can leave that
    folder beside missing or short files, so each file is compared with the size in RECORD.
    """
    broken = [folder for folder in sorted(site_packages.glob("*.dist-info")) if not _is_whole(folder)]
    for folder in broken:
        shutil.rmtree(folder)
    return [folder.name for folder in broken]


def _is_whole(folder: Path) -> bool:
    try:
        with (folder / "RECORD").open(encoding="utf-8", newline="") as record:
            return all(_is_there(folder.parent / row[0], row[2]) for row in csv.reader(record) if row)
    except (OSError, IndexError, UnicodeDecodeError):
        return False


def _is_there(path: Path, size: str) -> bool:
    try:
        return not size or path.stat().st_size == int(size)
    except OSError:
        return False


def _install_local(recipe: Recipe, site_packages: Path) -> None:
    """Put the recipe's own small distributions in, and what must not be there out."""
    for name in recipe.local:
        for part in sorted((RUNTIME / name).iterdir()):
            if part.is_dir() and part.name not in {"tests", "__pycache__"}:
                shutil.copytree(part, site_packages / part.name, dirs_exist_ok=True)
    for name in recipe.remove:
        (site_packages / name).unlink(missing_ok=True)


def _inputs(name: str) -> list[Path]:
    """Every file that decides what the environment holds."""
    local = [path for part in read_recipe(name).local for path in sorted((RUNTIME / part).rglob("*")) if path.is_file()]
    kept = [path for path in local if "__pycache__" not in path.parts and "tests" not in path.parts]
    return [ENGINES / f"{name}.txt", ENGINES / f"{name}.toml", *kept]
