"""Weights from the Hugging Face hub, by its own client."""

import asyncio
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from vllm_launcher.disk import check_disk
from vllm_launcher.entries import HubSource
from vllm_launcher.progress import Progress, Report
from vllm_launcher.settings import Settings
from vllm_launcher.weights_error import WeightsError

IGNORED = ["*.pth", "*.msgpack", "*.h5", "*.onnx", "original/*", "*.ot", "*.tflite", "onnx/*", "openvino/*"]
"""The same weights once more, in forms that no engine of ours loads."""


async def fetch_from_hub(source: HubSource, folder: Path, settings: Settings, report: Report) -> None:
    """Fetch a repository, or one file of it with what stands beside it; resumes what a call before left half-done.

    Raises:
        WeightsError: gated, missing, no such revision or file, no network: each with what to do.
        DiskFull: the repository is larger than what the disk has left.
    """
    loop = asyncio.get_running_loop()

    def tell(progress: Progress) -> None:
        loop.call_soon_threadsafe(report, progress)

    report(Progress(phase="downloading weights"))
    try:
        await asyncio.to_thread(_download, source, folder, settings, tell)
    except WeightsError:
        raise
    except Exception as error:
        raise _translate(error, source) from error


def _download(source: HubSource, folder: Path, settings: Settings, tell: Report) -> None:
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    patterns = [source.file, "*.json", "tokenizer*"] if source.file else None
    if not settings.offline:
        api = HfApi(endpoint=settings.hf_endpoint, token=token)
        size = _size(api, source)
        check_disk(folder, size, f"Downloading {source.repo}")
    snapshot_download(
        source.repo,
        revision=source.revision,
        local_dir=folder,
        allow_patterns=patterns,
        ignore_patterns=IGNORED,
        token=token,
        endpoint=settings.hf_endpoint,
        local_files_only=settings.offline,
        tqdm_class=_bars(tell),
    )


def _size(api: HfApi, source: HubSource) -> int:
    """Bytes to fetch, as the hub lists them."""
    files = api.model_info(source.repo, revision=source.revision, files_metadata=True).siblings or []
    wanted = [file for file in files if source.file in (None, file.rfilename)]
    if not wanted:
        raise WeightsError(f"{source.repo} has no file {source.file}.", "Check source.file against the repository.")
    return sum(file.size or 0 for file in wanted)


def _bars(tell: Report) -> type[Any]:
    """A progress bar that reports bytes instead of drawing."""

    class Reported(tqdm):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = False
            super().__init__(*args, **kwargs)

        def display(self, *_args: Any, **_kwargs: Any) -> None:
            if self.unit == "B":
                done, total = int(self.n), int(self.total) if self.total else None
                tell(Progress(phase="downloading weights", done=done, total=total, unit="bytes"))

    return Reported


def _translate(error: Exception, source: HubSource) -> WeightsError:
    """The hub's errors, as what to do."""
    name = f"{source.repo}@{source.revision}" if source.revision else source.repo
    match error:
        case GatedRepoError():
            page = f"its page on the hub ({source.repo})"
            return WeightsError(f"{name} is gated.", f"Accept its terms on {page}, then set HF_TOKEN to your token.")
        case RevisionNotFoundError():
            return WeightsError(f"{source.repo} has no revision {source.revision}.", "Correct source.revision.")
        case RepositoryNotFoundError():
            hint = "Correct source.repo; for a private repository set HF_TOKEN."
            return WeightsError(f"There is no repository {source.repo}, or it is private.", hint)
        case OfflineModeIsEnabled() | LocalEntryNotFoundError():
            hint = "Fetch it once with a network (python -m vllm_launcher fetch), or give a local path."
            return WeightsError(f"{name} is not in the cache, and the hub cannot be reached.", hint, permanent=False)
        case EntryNotFoundError():
            return WeightsError(f"{name} lacks a file that was asked for.", "Correct source.file.")
        case _:
            reason = f"{name} could not be downloaded: {type(error).__name__}: {error}"
            return WeightsError(reason, "The next start goes on from here.", permanent=False)
