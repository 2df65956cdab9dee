"""Fetches a repository of the Hugging Face hub into a folder: ``python -m vllm_launcher.fetching.hub_download``.

SOURCE is a ``HubSource`` as JSON. Prints ``hub.Told`` lines, and exits with 1 after one with a failure. A process of
its own: it can be killed at any moment, and the next one fetches the files that are missing. A connection that breaks
is resumed within a file; a killed process has that file to fetch again (huggingface_hub 2 keeps no half of it).
"""

import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import HfApi, snapshot_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from vllm_launcher.errors import LauncherError
from vllm_launcher.fetching.disk import FORBIDDEN, FULL, check_disk, disk_told
from vllm_launcher.fetching.hub import GOES_ON, Failure, Told
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.registry.entries import HubSource
from vllm_launcher.settings import Settings

BESIDE_A_FILE = ("*.json", "tokenizer*", "*.jinja")
"""What is fetched with a single file: the little that an engine reads beside it."""
IGNORED = ("*.pth", "*.msgpack", "*.h5", "*.onnx", "*.ot", "*.tflite", "original/*", "onnx/*", "openvino/*")
"""The same weights once more, in forms that no engine of ours loads."""
PICKLED = ("*.bin", "*.pt", "*.ckpt", "consolidated.*")
"""The same once more where the folder has safetensors; alone, Mistral's consolidated ones are the weights."""


class Wanted(NamedTuple):
    """A commit of a repository, and the files to fetch of it with their sizes in bytes."""

    commit: str
    files: dict[str, int | None]

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(size or 0 for size in self.files.values())


def main() -> None:
    """Fetch what the command line names."""
    source, folder = HubSource.model_validate_json(sys.argv[1]), Path(sys.argv[2])
    try:
        with disk_told(f"Downloading {source.repo}"):
            download(source, folder, Settings())
    except LauncherError as error:
        failure = Failure(reason=error.reason, hint=error.hint, permanent=bool(getattr(error, "permanent", False)))
        tell(Told(failure=failure))
        sys.exit(1)


def download(source: HubSource, folder: Path, settings: Settings) -> None:
    """List, download, and compare.

    Raises:
        WeightsError: see ``hub.fetch_from_hub``.
        DiskFull: the repository is larger than what the disk has left.
    """
    remove_halves(folder)
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    try:
        wanted = find(HfApi(endpoint=settings.hf_endpoint, token=token), source)
        check_disk(folder, wanted.size - _there(folder), f"Downloading {source.repo}")
        snapshot_download(
            source.repo,
            revision=wanted.commit,
            local_dir=folder,
            allow_patterns=list(wanted.files),
            token=token,
            endpoint=settings.hf_endpoint,
            tqdm_class=Bar,
        )
    except LauncherError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL | FORBIDDEN:
            raise
        raise translate(error, source) from error
    compare(wanted, folder, source)


def remove_halves(folder: Path) -> None:
    """Of files that a killed download had begun: under names of its own, which nobody takes up again."""
    for path in (folder / ".cache").rglob("*.incomplete"):
        path.unlink()


def find(api: HfApi, source: HubSource) -> Wanted:
    """The newest commit of the revision, and which of its files an engine loads."""
    info = api.model_info(source.repo, revision=source.revision, files_metadata=True)
    listed = {file.rfilename: file.size for file in info.siblings or []}
    if source.file and source.file not in listed:
        raise WeightsError(f"{source.repo} has no file {source.file}.", "Check source.file against the repository.")
    return Wanted(info.sha or source.revision or "main", {name: listed[name] for name in choose(listed, source.file)})


def choose(names: Iterable[str], file: str | None) -> list[str]:
    """What to fetch of a repository's files. Pure."""
    names = list(names)
    if file:
        return [name for name in names if name == file or _matches(name, BESIDE_A_FILE)]
    whole = [PurePosixPath(name) for name in names if fnmatch(name, "*.safetensors")]
    safe = {path.parent for path in whole if not path.name.startswith("consolidated")}
    return [name for name in names if not _is_twice(name, safe)]


def _is_twice(name: str, safe: set[PurePosixPath]) -> bool:
    """Whether the same weights come in another file too."""
    path = PurePosixPath(name)
    return _matches(name, IGNORED) or (path.parent in safe and _matches(path.name, PICKLED))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def compare(wanted: Wanted, folder: Path, source: HubSource) -> None:
    """Raise unless every file is there at its size: without a network the hub's client is content with less."""
    for name, size in wanted.files.items():
        path = folder / name
        if not path.is_file() or size not in (None, path.stat().st_size):
            raise WeightsError(f"{name} of {source.repo} did not arrive whole.", GOES_ON, permanent=False)


def _there(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
    """A progress bar that prints its bytes as lines instead of drawing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["disable"] = False
        super().__init__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]

    def display(self, *_args: Any, **_kwargs: Any) -> None:
        """Called by tqdm ten times a second at most."""
        if self.unit == "B":
            tell(Told(done=int(self.n), total=int(self.total) if self.total else None))


def tell(told: Told) -> None:
    """One line of the protocol."""
    print(told.model_dump_json(exclude_defaults=True), flush=True)  # noqa: T201 - the protocol


TOLD: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str, bool], ...] = (
    (
        GatedRepoError,
        "{name} is gated.",
        "Accept its terms on its page ({repo}), then set HF_TOKEN to your token.",
        True,
    ),
    (RevisionNotFoundError, "{repo} has no revision {revision}.", "Correct source.revision.", True),
    (
        (RepositoryNotFoundError, HFValidationError),
        "There is no repository {repo}, or it is private.",
        "Correct source.repo; for a private repository set HF_TOKEN.",
        True,
    ),
    (LocalEntryNotFoundError, "{name}: the hub cannot be reached.", GOES_ON, False),
    (EntryNotFoundError, "{name} lacks a file that was asked for.", "Correct source.file.", True),
)
"""The hub's errors, the more special ones first: what happened, what to do, whether it stays so."""


def translate(error: Exception, source: HubSource) -> WeightsError:
    """One of the hub's errors, as what to do."""
    name = f"{source.repo}@{source.revision}" if source.revision else source.repo
    for types, reason, hint, permanent in TOLD:
        if isinstance(error, types):
            words = {"name": name, "repo": source.repo, "revision": source.revision}
            return WeightsError(reason.format_map(words), hint.format_map(words), permanent=permanent)
    if isinstance(error, HfHubHTTPError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
        return WeightsError(f"The hub refuses the token for {name}.", "Set HF_TOKEN to a valid one, or unset it.")
    reason = f"{name} could not be downloaded: {type(error).__name__}: {error}"
    return WeightsError(reason, GOES_ON, permanent=False)


if __name__ == "__main__":
    main()
