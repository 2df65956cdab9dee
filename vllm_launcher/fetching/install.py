"""Engines: each in an environment of its own, made from its lock under ``engines/``.

An environment is ``<cache>/engines/<engine>-<digest of its lock>-py3XX`` and whole once its stamp is written, which is
the last step. A call that finds it half-made goes on: every distribution is checked against its own RECORD, broken
ones are installed again, and what pip had downloaded comes from pip's cache. Two calls at once: one waits.
"""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_launcher.errors import LauncherError
from vllm_launcher.fetching.alone import alone
from vllm_launcher.fetching.disk import GB, check_disk, disk_told
from vllm_launcher.fetching.pip_output import PipOutput, explain
from vllm_launcher.fetching.recipes import Recipe, Recipes, count, stanza
from vllm_launcher.fetching.records import forget_broken
from vllm_launcher.fetching.run import Run
from vllm_launcher.fetching.threads import to_the_end
from vllm_launcher.progress import Progress, Report
from vllm_launcher.settings import Settings

STAMP = ".complete"
LOOK = 0.5
"""Seconds between two looks at how many distributions are installed."""
OUR_RECIPES = Recipes()


class InstallError(LauncherError):
    """An engine could not be installed. Calling again goes on from there, and helps unless ``permanent``."""

    def __init__(self, reason: str, hint: str | None = None, *, permanent: bool = True) -> None:
        super().__init__(reason, hint)
        self.permanent = permanent


@dataclass(frozen=True)
class InstalledEngine:
    """An environment that is whole."""

    name: str
    python: Path

    @property
    def environment(self) -> Path:
        """Its folder."""
        return self.python.parent.parent


def environment_of(name: str, settings: Settings, recipes: Recipes = OUR_RECIPES) -> Path:
    """Where the environment of an engine is or will be; another one for each lock, recipe and Python."""
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    return settings.engines_dir / f"{name}-{recipes.digest(name)}-{version}"


def installed(name: str, settings: Settings, recipes: Recipes = OUR_RECIPES) -> InstalledEngine | None:
    """The engine, if it is whole; it is not if the Python that it was made with has gone."""
    environment = environment_of(name, settings, recipes)
    python = environment / "bin" / "python"
    return InstalledEngine(name, python) if (environment / STAMP).exists() and python.exists() else None


def check_plugins(name: str, plugins: Sequence[str], recipes: Recipes = OUR_RECIPES) -> None:
    """Raise InstallError unless the engine's lock holds these distributions: nothing is installed beside a lock."""
    if missing := recipes.missing(name, plugins):
        raise InstallError(
            f"The lock of engine {name} lacks {', '.join(missing)}, which this model's format needs.",
            f"Add it to vllm_launcher/engines/{name}.in and run: make lock-engines.",
        )


async def install_engine(
    name: str, settings: Settings, run: Run, report: Report, recipes: Recipes = OUR_RECIPES
) -> InstalledEngine:
    """Install an engine, unless it is there; its interpreter.

    Raises:
        InstallError: with what is missing (network, disk, Python version) and what to do.
        DiskFull: there is not enough room, before or in the middle.
        DiskRefused: the cache cannot be written.
    """
    if name not in recipes.names():
        raise InstallError(f"There is no engine {name!r}.", f"Engines: {', '.join(recipes.names())}.")
    if found := installed(name, settings, recipes):
        return found
    environment = environment_of(name, settings, recipes)
    with disk_told(f"Installing engine {name}"):
        async with alone(environment, f"waiting for another installation of engine {name}", report):
            if found := installed(name, settings, recipes):
                return found
            return await Installation(name, environment, settings, run, report, recipes).carry_out()


@dataclass(frozen=True)
class Installation:
    """One way from nothing, or from a half-made environment, to a whole one."""

    name: str
    environment: Path
    settings: Settings
    run: Run
    report: Report
    recipes: Recipes

    async def carry_out(self) -> InstalledEngine:
        """Every step in its order; the stamp is the last."""
        self.report(Progress(phase=self.phase))
        await to_the_end(self._clear)
        if not self.environment.exists():
            check_disk(self.environment, int(self.recipe.disk_gb * GB), self.recipe.title)
        await self._make_environment()
        await self._install_locked()
        await to_the_end(self.recipes.install_local, self.name, self._site_packages())
        await self._probe()
        (self.environment / STAMP).write_text(f"{self.name}\n", encoding="utf-8")
        return InstalledEngine(self.name, self.python)

    def _clear(self) -> None:
        """Keep of an earlier attempt what is whole. Blocks: it looks at every file of the environment."""
        (self.environment / STAMP).unlink(missing_ok=True)
        if not (self.environment / "pyvenv.cfg").exists() or not self.python.exists():
            shutil.rmtree(self.environment, ignore_errors=True)
        forget_broken(self._site_packages())  # before venv runs: it leaves a pip alone that looks installed

    async def _make_environment(self) -> None:
        """An empty environment with the lock's own pip: older ones do not tell their progress."""
        done = await self.run(self.settings.launch(sys.executable, "-m", "venv", str(self.environment)))
        if done.code != 0:
            raise InstallError(
                f"python -m venv failed: {' '.join(done.tail[-3:])}",
                "Install the venv module; on Debian and Ubuntu: apt-get install python3-venv.",
            )
        pip = self.environment / "pip.txt"
        pip.write_text("\n".join(stanza(self.lock, "pip")), encoding="utf-8")
        await self._pip("--no-deps", "--require-hashes", "-q", "-r", str(pip))

    async def _install_locked(self) -> None:
        """Torch where the recipe wants it by itself, then everything in the lock."""
        if self.recipe.torch:
            await self._install_torch(self.recipe.torch)
        await self._pip("--no-deps", "--require-hashes", "--progress-bar=raw", "-r", str(self.lock))

    async def _install_torch(self, requirement: str) -> None:
        arguments = ("--no-deps", "--progress-bar=raw", requirement)
        index = self.recipe.torch_index
        if index is None:
            await self._pip(*arguments)
            return
        try:
            await self._pip(*arguments)
        except InstallError:
            await self._pip("--extra-index-url", index, *arguments)

    async def _pip(self, *arguments: str) -> None:
        output = PipOutput(self.phase, self.report, total=count(self.lock))
        launch = self.settings.launch(str(self.python), "-m", "pip", "install", "--no-input", *arguments)
        async with self._counting(output):
            done = await self.run(launch, output.line)
        if done.code != 0:
            cause = explain(done.tail)
            reason = f"{self.recipe.title} could not be installed: {cause.reason}"
            raise InstallError(reason, cause.hint, permanent=cause.permanent)

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
            await asyncio.gather(task, return_exceptions=True)

    async def _probe(self) -> None:
        """Import the engine once: an environment that cannot is not whole."""
        self.report(Progress(phase=f"{self.phase}: checking"))
        done = await self.run(self.settings.launch(str(self.python), "-c", self.recipe.probe))
        if done.code != 0:
            raise InstallError(
                f"{self.recipe.title} is installed and cannot be imported: {' '.join(done.tail[-2:])}",
                f"Remove {self.environment} and try again.",
            )

    @property
    def recipe(self) -> Recipe:
        """How this engine is installed."""
        return self.recipes.read(self.name)

    @property
    def lock(self) -> Path:
        """What goes in."""
        return self.recipes.lock(self.name)

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.environment / "bin" / "python"

    @property
    def phase(self) -> str:
        """The head of every sentence about it."""
        return f"installing engine {self.name}"

    def _site_packages(self) -> Path:
        return self.environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
