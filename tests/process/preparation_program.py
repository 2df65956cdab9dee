"""Installs an engine or fetches a model, to be killed: ``preparation_program.py WORK``, WORK being a file of JSON.

Prints what happens as lines of JSON: each report, each program that is run, and how it ended.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_launcher.errors import LauncherError
from vllm_launcher.fetching.install import install_engine
from vllm_launcher.fetching.recipes import Recipes
from vllm_launcher.fetching.weights import Tools, fetch_weights
from vllm_launcher.processes.process import Finished, Launch
from vllm_launcher.processes.process import run as run_process
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import ModelSpec
from vllm_launcher.settings import Settings


def say(**what: object) -> None:
    """One line of JSON."""
    print(json.dumps(what), flush=True)  # noqa: T201 - the test reads it


def report(progress: Progress) -> None:
    """Say how far it is."""
    say(report=progress.model_dump())


async def run(launch: Launch, on_line: Callable[[str], None] | None = None) -> Finished:
    """Run as the product does, and say so."""
    say(run=list(launch.argv))
    log = Settings().cache.parent / f"{id(launch)}.log"
    return await run_process(launch, log=log, on_line=on_line)


async def main(work: dict[str, Any]) -> None:
    """Do one piece of work."""
    try:
        if "engine" in work:
            recipes = Recipes(Path(work["recipes"]))
            engine = await install_engine(work["engine"], Settings(), run, report, recipes)
            say(done=str(engine.python))
        else:
            tools = Tools(settings=Settings(), run=run, report=report, python=Path(work["python"]))
            spec = ModelSpec.model_validate_json(json.dumps(work["spec"]))
            checkpoint = await fetch_weights(spec, tools, dequantize=work.get("dequantize", True), dtype="float32")
            say(done=str(checkpoint.path))
    except LauncherError as error:
        say(failed=error.reason, hint=error.hint)


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
