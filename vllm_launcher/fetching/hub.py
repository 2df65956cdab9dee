"""Weights from the Hugging Face hub, by its own client in a process of its own (``hub_download.py``).

A thread that downloads can neither be stopped nor outlived: Ctrl-C would wait for the last of 90 GB.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import HubSource
from vllm_launcher.settings import Settings

if TYPE_CHECKING:
    from vllm_launcher.fetching.weights import Tools

GOES_ON = "The next start goes on from here."


class Failure(BaseModel):
    """Why a download gave up."""

    reason: str
    hint: str | None
    permanent: bool


class Told(BaseModel):
    """One line of what the download prints: how many bytes are there, or why it gave up."""

    model_config = ConfigDict(extra="forbid")

    done: int = 0
    total: int | None = None
    failure: Failure | None = None


async def fetch_from_hub(source: HubSource, folder: Path, tools: "Tools") -> None:
    """Fetch a repository, or one file of it with what stands beside it; files that a call before has fetched stay.

    Raises:
        WeightsError: gated, missing, no such revision or file, no network, no room: each with what to do.
    """
    if tools.settings.offline:
        hint = "Unset LANGSERVE_VLLM_OFFLINE and HF_HUB_OFFLINE once, and fetch it: python -m vllm_launcher fetch."
        raise WeightsError(f"{source.repo} is not in the cache, and the launcher is told to stay offline.", hint)
    tools.report(Progress(phase="downloading weights"))
    failures: list[Failure] = []

    def note(line: str) -> None:
        told = read(line)
        if told and told.failure:
            failures.append(told.failure)
        elif told:
            tools.report(Progress(phase="downloading weights", done=told.done, total=told.total, unit="bytes"))

    done = await tools.run(_launch(source, folder, tools.settings), note)
    if failures:
        raise WeightsError(failures[-1].reason, failures[-1].hint, permanent=failures[-1].permanent)
    if done.code != 0:
        reason = f"The download of {source.repo} ended with code {done.code}: {' '.join(done.tail[-1:])}"
        raise WeightsError(reason, GOES_ON, permanent=False)


def _launch(source: HubSource, folder: Path, settings: Settings) -> Launch:
    program = (sys.executable, "-m", "vllm_launcher.fetching.hub_download", source.model_dump_json(), str(folder))
    launch = settings.launch(*program)
    env = {**launch.env, "HF_HUB_DISABLE_TELEMETRY": "1"}
    if settings.hf_endpoint:
        env["HF_ENDPOINT"] = settings.hf_endpoint
    if settings.hf_token:
        env["HF_TOKEN"] = settings.hf_token.get_secret_value()
    return dataclasses.replace(launch, env=env, cwd=settings.root)


def read(line: str) -> Told | None:
    """What a line of the download's output says; None where it is somebody else's."""
    try:
        return Told.model_validate_json(line)
    except ValidationError:
        return None
