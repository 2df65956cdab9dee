"""Changes of ``models.json`` while everything runs: read, checked, planned, and only then taken over.

An edit that is not valid changes nothing: what runs goes on, and the status says what is wrong, where, and what to
do. What was taken over is written to ``<run>/models.json``, which is the list that the app reads: so the app never
sees an edit before the launcher has accepted it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType] - of its stop_event, which is not used

from vllm_launcher.errors import InvalidModels, LauncherError
from vllm_launcher.hardware import Hardware
from vllm_launcher.keeping.launcher import Launcher, ServerSpec
from vllm_launcher.prepare import Preparation, Project, project_of
from vllm_launcher.registry import Registry, RegistryError, check_chains, load_registry
from vllm_launcher.registry.loader import MAX_BYTES
from vllm_launcher.settings import Settings

logger = logging.getLogger(__name__)

Specs = Callable[[Project, Settings], list[ServerSpec]]


def read_project(models: Path, hardware: Hardware, settings: Settings) -> Project:
    """Read the list of models, check it, and plan it for that machine.

    Raises:
        InvalidModels: With every problem of it, each with its line and fix.
    """
    try:
        registry = load_registry(models)
        problems = check_chains(models, registry)
    except RegistryError as error:
        raise InvalidModels(str(error)) from error
    if problems:
        raise InvalidModels(str(RegistryError(models, problems)))
    return project_of(models, registry, hardware, settings)


def write_accepted(registry: Registry, run: Path) -> Path:
    """Write the list that is served to the run directory, whole or not at all; the file."""
    accepted = run / "models.json"
    new = run / "models.json.new"
    new.write_text(registry.model_dump_json(by_alias=True, exclude_unset=True, indent=2) + "\n", encoding="utf-8")
    new.chmod(0o600)
    new.replace(accepted)
    return accepted


class ModelList:
    """Keeps the launcher at what ``models.json`` says.

    Args:
        project: What is served now.
        hardware: The machine as it was before anything of ours ran on it: our own servers must not count as others'.
        settings: What the launcher was told from outside.
        specs: From a project to servers.
        launcher: Takes the difference over.
        preparation: Prepares the project's models.
        run: The run directory.
    """

    def __init__(  # noqa: PLR0913 - the composition root names them
        self,
        project: Project,
        *,
        hardware: Hardware,
        settings: Settings,
        specs: Specs,
        launcher: Launcher,
        preparation: Preparation,
        run: Path,
    ) -> None:
        self._project = project
        self._hardware = hardware
        self._settings = settings
        self._specs = specs
        self._launcher = launcher
        self._preparation = preparation
        self._run = run
        self._one_at_a_time = asyncio.Lock()
        self._seen = _content(project.models)

    async def reload(self) -> None:
        """Take the list over as it is now. Does nothing where it says what it said before.

        Raises:
            InvalidModels: It is not valid; nothing has changed but the problem that the status tells.
        """
        async with self._one_at_a_time:
            try:
                self._seen = await asyncio.to_thread(_content, self._project.models)
                project = await asyncio.to_thread(read_project, self._project.models, self._hardware, self._settings)
            except InvalidModels as error:
                self._launcher.note_problem(error.reason)
                raise
            if project.registry == self._project.registry:
                self._launcher.note_problem(None)
                return
            try:
                await asyncio.to_thread(write_accepted, project.registry, self._run)
            except OSError as error:
                raise LauncherError(f"The list could not be taken over: {error.strerror} ({self._run}).") from error
            self._project = self._preparation.project = project
            await self._launcher.apply(self._specs(project, self._settings), project.plan.capacity)
            logger.info("%s was taken over", project.models)

    async def watch(self) -> None:
        """Take over every edit, until cancelled. The folder is watched: editors replace files, and so do volumes."""
        try:
            await self._watch()
        except (OSError, RuntimeError) as error:  # inotify's limits, a folder that is not there
            logger.warning("edits of %s are not noticed, 'reload' takes them over: %s", self._project.models, error)

    async def _watch(self) -> None:
        async for _ in self._changes():
            content = await asyncio.to_thread(_content, self._project.models)
            if content == self._seen:
                continue
            try:
                await self.reload()
            except InvalidModels as error:
                logger.error("not taken over: %s", error.reason)  # noqa: TRY400 - the trace tells nothing more
            except (LauncherError, OSError) as error:
                logger.error("models.json was not taken over: %s", error)  # noqa: TRY400 - likewise

    def _changes(self) -> AsyncIterator[object]:
        models = self._project.models.absolute()
        return awatch(models.parent, recursive=False, watch_filter=edits_of(models), debounce=400, step=50)


def edits_of(models: Path) -> Callable[[Change, str], bool]:
    """Which changes in the folder of ``models`` can be edits of it: of the file, or of the folder's content at once.

    All else is not looked at: our own log may lie there, and a line about its last line would never end. A name that
    begins with two dots is how Kubernetes swaps what a volume shows (``models.json -> ..data/models.json``).
    """

    def is_edit(_: Change, path: str) -> bool:
        name = Path(path).name
        return name == models.name or name.startswith("..")

    return is_edit


def _content(path: Path) -> bytes:
    """The beginning of the file, enough to tell whether it has changed or is too large; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        return b""
