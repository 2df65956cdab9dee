"""Checkpoints that a program of ours completes: what it makes is neither fetched nor kept in a repository.

A recipe is a Python program that an entry names. It is run as ``python RECIPE FOLDER`` in the engine's environment,
with a copy of the entry's folder, and prints how far it is as lines of JSON: ``{"done": 1, "total": 2}``.
"""

import hashlib
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_launcher.fetching.assembly import fingerprint
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.progress import Progress, Report

if TYPE_CHECKING:
    from vllm_launcher.fetching.weights import Tools

TOLD = re.compile(r'\{"done": (\d+), "total": (\d+)\}')
PHASE = "making weights"
KILLED = 128 + signal.SIGKILL


def told(phase: str, report: Report) -> Callable[[str], None]:
    """What passes on the progress that a program prints."""

    def note(line: str) -> None:
        for done, total in TOLD.findall(line):
            report(Progress(phase=phase, done=int(done), total=int(total)))

    return note


async def complete(recipe: Path, folder: Path, tools: "Tools") -> None:
    """Run a recipe on a folder.

    Raises:
        WeightsError: there is no such program, or it failed.
    """
    check(recipe)
    tools.report(Progress(phase=PHASE))
    done = await tools.run(
        tools.settings.launch(str(tools.python), str(recipe), str(folder)), told(PHASE, tools.report)
    )
    if done.code == KILLED:
        raise WeightsError(f"{recipe.name} was killed.", "Free some memory.")
    if done.code != 0:
        raise WeightsError(f"{recipe.name} failed: {' '.join(done.tail[-1:])}", "The log of this step says more.")


def recipe_digest(recipe: str) -> str:
    """Changes with the program, and with every file beside it, which it may read. Blocks to read them.

    Raises:
        WeightsError: there is no such program.
    """
    check(Path(recipe))
    return hashlib.sha256(fingerprint(Path(recipe).parent).encode()).hexdigest()


def check(recipe: Path) -> None:
    """Raise WeightsError unless the program is there."""
    if not recipe.is_file():
        raise WeightsError(f"{recipe} is no program.", "Name a Python program in source.recipe, or leave it out.")
