"""The registry: ``models.json`` as typed, frozen values.

The types are in ``entries.py``. The loader reports everything that is wrong at once, each with file, line,
column and fix; ``models.schema.json`` is generated from the same types for editors.
"""

import json
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vllm_launcher.registry.contradictions import contradictions, wrong_shares
from vllm_launcher.registry.entries import (
    ChainRef,
    Document,
    Drawing,
    Engine,
    Entry,
    ExternalEngine,
    Flag,
    HubSource,
    Limits,
    Memory,
    Metadata,
    ModelSpec,
    OmniEngine,
    PathSource,
    PypiSource,
    Sampling,
    SharedEngine,
    Source,
    Task,
    VllmEngine,
)
from vllm_launcher.registry.positions import JsonError, Lines, Located, Position, locate
from vllm_launcher.registry.problems import Problem, RegistryError, at, problems_of

__all__ = [
    "ChainRef", "Drawing", "Engine", "Entry", "ExternalEngine", "Flag", "HubSource", "Limits", "Memory", "Metadata",
    "ModelSpec", "OmniEngine", "PathSource", "Problem", "PypiSource", "Registry", "RegistryError", "Sampling",
    "SharedEngine", "Source", "Task", "VllmEngine", "check_chains", "load_registry", "place_in", "schema_text",
    "write_schema",
]  # fmt: skip

MAX_BYTES = 1 << 20
"""A list of models is written by people; a megabyte is a mistake in the path."""

START = Position(1, 1)


class Registry(Document):
    """The whole of ``models.json``: its entries, in its order."""

    def get(self, model: str) -> ModelSpec | None:
        """The entry of that id."""
        return next((spec for spec in self.models if spec.id == model), None)

    def server_of(self, spec: ModelSpec) -> ModelSpec:
        """The entry whose server answers for this one: its own, or the one that it shares."""
        owner = self.get(spec.engine.model) if isinstance(spec.engine, SharedEngine) else None
        return owner or spec

    @property
    def shared(self) -> dict[str, str]:
        """The entries that use another's server, each with that one's id."""
        return {spec.id: spec.engine.model for spec in self.models if isinstance(spec.engine, SharedEngine)}


def load_registry(path: Path) -> Registry:
    """Read and check ``models.json``. Relative paths in it become absolute, from its own folder.

    Raises:
        RegistryError: with every problem of the file, each with its line and fix.
    """
    located = _parse(path)
    problems = list(_problems(located))
    if problems:
        raise RegistryError(path, problems)
    document = Document.model_validate(located.value)
    return Registry(
        models=[_with_absolute_paths(spec, path.absolute().parent) for spec in document.models],
        **{"$schema": document.schema_},
    )


def check_chains(
    path: Path, registry: Registry, find: Callable[[str], ModuleSpec | None] = find_spec
) -> tuple[Problem, ...]:
    """The chain packages that cannot be imported, at their lines in ``path``; nothing is imported but parents."""
    located = _parse(path)
    return tuple(
        at(
            located.find(("models", index, "chain", "package")),
            f"no package {spec.chain.package!r} is installed for {spec.id!r}",
            "install it, or correct the name: packages/ holds one folder for each",
        )
        for index, spec in enumerate(registry.models)
        if spec.chain is not None and not _importable(spec.chain.package, find)
    )


def place_in(path: Path, model: str, key: tuple[str, ...]) -> Position:
    """Where a field of an entry stands in ``path``; the innermost thing around it where it is not written.

    Raises:
        RegistryError: the file cannot be read any more.
    """
    located = _parse(path)
    for index, entry in _entries(located):
        if isinstance(entry, dict) and entry.get("id") == model:  # pyright: ignore[reportUnknownMemberType]
            return located.find_key(("models", index, *key))
    return START


def schema_text() -> str:
    """The JSON Schema of ``models.json``, as it is checked in."""
    schema = Document.model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def write_schema(path: Path) -> None:
    """Write the JSON Schema of ``models.json``."""
    path.write_text(schema_text(), encoding="utf-8")


# --- reading -----------------------------------------------------------------------------


def _parse(path: Path) -> Located:
    text = _read(path)
    try:
        return locate(text)
    except JsonError as error:
        place = Lines(text).position(error.offset)
        raise RegistryError(path, [at(place, f"not valid JSON: {error.message}", error.fix)]) from None


def _read(path: Path) -> str:
    """The file's text; bounded, so that a path to a checkpoint is refused before it is read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RegistryError(path, [at(START, "there is no such file", "create it, or give its path")]) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise RegistryError(
            path, [at(START, f"cannot be read: {reason}", "give the path of a readable file")]
        ) from None
    if len(content) > MAX_BYTES:
        message = f"larger than {MAX_BYTES // 1024} KiB: this is no list of models"
        raise RegistryError(path, [at(START, message, "check the path")])
    return _decode(path, content)


def _decode(path: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RegistryError(path, [at(START, "UTF-16 text", "save it as UTF-8")])
    if content.startswith(b"\xef\xbb\xbf"):
        raise RegistryError(path, [at(START, "starts with a byte order mark", "save it as UTF-8 without one")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        place = Lines(content[: error.start].decode()).position(len(content[: error.start].decode()))
        message = f"not UTF-8: byte 0x{content[error.start]:02x}"
        raise RegistryError(path, [at(place, message, "save it as UTF-8")]) from None


# --- checking ----------------------------------------------------------------------------


def _problems(located: Located) -> Iterator[Problem]:
    for path, offset in located.repeated:
        yield at(located.lines.position(offset), f"{path[-1]!r} is written twice", "keep one of the two")
    try:
        Document.model_validate(located.value)
    except ValidationError as error:
        yield from problems_of(error, Document, located)
    yield from _repeated_ids(located)
    yield from _contradictions(located)


def _entries(located: Located) -> Iterator[tuple[int, Any]]:
    models: Any = located.value.get("models") if isinstance(located.value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(models, list):
        yield from enumerate(models)  # pyright: ignore[reportUnknownArgumentType]


def _repeated_ids(located: Located) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, entry in _entries(located):
        identity = entry.get("id") if isinstance(entry, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not isinstance(identity, str):
            continue
        place = located.find(("models", index, "id"))
        if identity in first:
            message = f"the id {identity!r} is taken by the entry on line {first[identity]}"
            yield at(place, message, "give every entry an id of its own")
        first.setdefault(identity, place.line)


def _contradictions(located: Located) -> Iterator[Problem]:
    """Of the entries that are sound in themselves; the others are reported for what they are."""
    sound: dict[int, ModelSpec] = {}
    for index, entry in _entries(located):
        try:
            spec = ModelSpec.model_validate(entry)
        except ValidationError:
            continue
        sound[index] = spec
        for clash in contradictions(spec):
            yield at(located.find_key(("models", index, *clash.path)), clash.message, clash.fix)
    if len(sound) == len(list(_entries(located))):
        for index, clash in wrong_shares(list(sound.values())):
            yield at(located.find_key(("models", index, *clash.path)), clash.message, clash.fix)


# --- completing --------------------------------------------------------------------------


def _with_absolute_paths(spec: ModelSpec, folder: Path) -> ModelSpec:
    if not isinstance(spec.source, PathSource):
        return spec
    update: dict[str, str] = {"path": str(folder / spec.source.path)}
    if spec.source.recipe is not None:
        update["recipe"] = str(folder / spec.source.recipe)
    if spec.source.tokenizer is not None and spec.source.tokenizer.startswith(("./", "../")):
        update["tokenizer"] = str(folder / spec.source.tokenizer)
    return spec.model_copy(update={"source": spec.source.model_copy(update=update)})


def _importable(package: str, find: Callable[[str], ModuleSpec | None]) -> bool:
    try:
        return find(package) is not None
    except (ImportError, ValueError):  # a parent that fails to import, or __spec__ is None
        return False
