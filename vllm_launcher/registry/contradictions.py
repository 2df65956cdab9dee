"""What a field of an entry cannot know of the others.

Pure: an entry in, contradictions out. Each names the place inside the entry, what clashes and the fix.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vllm_launcher.registry.entries import (
    FLAG_PATTERN,
    RESERVED_IDS,
    ExternalEngine,
    Flags,
    ModelSpec,
    OmniEngine,
    PypiSource,
    SharedEngine,
    VllmEngine,
)
from vllm_launcher.registry.positions import Path


class Contradiction(NamedTuple):
    """Two parts of one entry that cannot both hold."""

    path: Path
    message: str
    fix: str


LAUNCHER_FLAGS = {
    "model": "source",
    "host": "nothing: servers listen on 127.0.0.1",
    "port": "nothing: the launcher picks a free one",
    "uds": "nothing: servers listen on 127.0.0.1",
    "served-model-name": "id",
    "api-key": "nothing: servers listen on 127.0.0.1, and keys are checked in front of them",
    "config": "flags",
    "headless": "nothing",
    "root-path": "nothing",
    "grpc": "nothing",
}
"""Flags the launcher itself sets, and where to say instead what they would."""

LIMIT_FLAGS = {"max-model-len": "max_model_len", "max-num-seqs": "max_num_seqs"}


def contradictions(spec: ModelSpec) -> Iterator[Contradiction]:
    """Everything in the entry that clashes with something else in it."""
    for check in CHECKS:
        yield from check(spec)


def _reserved_id(spec: ModelSpec) -> Iterator[Contradiction]:
    if spec.id in RESERVED_IDS:
        fix = f"choose another, for example {spec.id.split('.')[0]}-model"
        yield Contradiction(("id",), f"the id {spec.id!r} is reserved: the app answers /{spec.id} itself", fix)


def _source_and_engine(spec: ModelSpec) -> Iterator[Contradiction]:
    if isinstance(spec.engine, ExternalEngine):
        if spec.source is not None:
            yield Contradiction(("source",), "an external engine loads its own weights", "remove the source")
    elif isinstance(spec.engine, SharedEngine):
        if spec.source is not None:
            yield Contradiction(("source",), "a shared engine has loaded its weights already", "remove the source")
    elif spec.source is None:
        yield Contradiction((), f"{spec.id!r} has no source", "add a source, or an engine of type external or shared")


def _task_and_engine(spec: ModelSpec) -> Iterator[Contradiction]:
    draws = spec.task == "image-generation"
    if draws and isinstance(spec.engine, VllmEngine):
        fix = 'add "engine": {"type": "vllm-omni"}'
        yield Contradiction(("engine", "type"), "vLLM serves no image generation", fix)
    if not draws and isinstance(spec.engine, OmniEngine):
        fix = 'write "engine": {"type": "vllm"} or "task": "image-generation"'
        yield Contradiction(("engine", "type"), f"vLLM-Omni serves image generation here, not {spec.task}", fix)


def _task_and_defaults(spec: ModelSpec) -> Iterator[Contradiction]:
    if spec.task == "embedding" and spec.chain is not None:
        yield Contradiction(("chain",), "an embedding model has no chain", "remove the chain")
    if spec.task in ("embedding", "image-generation") and spec.sampling.model_fields_set:
        fix = "remove it" if spec.task == "embedding" else "move it to drawing, or remove it"
        yield Contradiction(("sampling",), f"sampling is for text, not for {spec.task}", fix)
    if spec.task != "image-generation" and spec.drawing.model_fields_set:
        yield Contradiction(("drawing",), f"drawing is for image-generation, not for {spec.task}", "remove it")
    if spec.task in ("chat", "embedding") and spec.limits.max_images:
        yield Contradiction(("limits", "max_images"), f"a {spec.task} model takes no images", "remove it")


def _lengths(spec: ModelSpec) -> Iterator[Contradiction]:
    tokens, context = spec.sampling.max_tokens, spec.limits.max_model_len
    if tokens and context and tokens > context:
        message = f"max_tokens {tokens} is more than the context, max_model_len {context}"
        yield Contradiction(("sampling", "max_tokens"), message, f"write at most {context}")


def _flag_names(spec: ModelSpec) -> Iterator[Contradiction]:
    for name in _flags(spec):
        plain = name.lstrip("-").replace("_", "-")
        if name != plain and _is_flag(plain):
            yield Contradiction(("engine", "flags", name), f"{name!r} is not how flags are written", f"write {plain!r}")
        elif not _is_flag(name):
            yield Contradiction(("engine", "flags", name), f"{name!r} is no flag", "use lower-case letters and dashes")
        elif name in LAUNCHER_FLAGS:
            message = f"the launcher sets {name!r} itself"
            yield Contradiction(("engine", "flags", name), message, f"remove it; set {LAUNCHER_FLAGS[name]}")


def _flag_pairs(spec: ModelSpec) -> Iterator[Contradiction]:
    flags = _flags(spec)
    for name, value in flags.items():
        positive = name.removeprefix("no-")
        if name != positive and value is True and flags.get(positive) not in (None, False):
            yield Contradiction(("engine", "flags", name), f"{positive!r} and {name!r} contradict", "keep one of them")
    for flag, limit in LIMIT_FLAGS.items():
        limited = getattr(spec.limits, limit)
        if flag in flags and limited is not None and flags[flag] != limited:
            message = f"{flag} {flags[flag]} and limits.{limit} {limited} contradict"
            yield Contradiction(("engine", "flags", flag), message, f"keep limits.{limit}")


def _wheel_path(spec: ModelSpec) -> Iterator[Contradiction]:
    steps = spec.source.file.split("/") if isinstance(spec.source, PypiSource) else []
    if ".." in steps or steps[:1] == [""]:
        yield Contradiction(("source", "file"), "the path leaves the wheel", "write a path inside the wheel")


def _residency(spec: ModelSpec) -> Iterator[Contradiction]:
    residency = spec.residency
    if residency.model_fields_set and isinstance(spec.engine, ExternalEngine):
        yield Contradiction(("residency",), "an external engine loads and unloads its own models", "remove it")
    if residency.model_fields_set and isinstance(spec.engine, SharedEngine):
        fix = f"write it at {spec.engine.model!r}"
        yield Contradiction(("residency",), "a shared engine stays as long as the entry it belongs to", fix)
    if residency.pinned and residency.idle_seconds is not None:
        message = "a pinned model is never unloaded, not for idleness either"
        yield Contradiction(("residency", "idle_seconds"), message, "keep pinned or idle_seconds")


def _replicas(spec: ModelSpec) -> Iterator[Contradiction]:
    if spec.replicas > 1 and isinstance(spec.engine, ExternalEngine | OmniEngine | SharedEngine):
        message = f"replicas are for vLLM servers, not for an engine of type {spec.engine.type}"
        yield Contradiction(("replicas",), message, "remove it")
    if spec.replicas == 1 and "balance" in spec.model_fields_set:
        yield Contradiction(("balance",), "one server has nothing to balance", 'remove it, or write "replicas": 2')


def wrong_shares(specs: Sequence[ModelSpec]) -> Iterator[tuple[int, Contradiction]]:
    """Entries that share a server which is not there, or which cannot do what they are for."""
    by_id = {spec.id: spec for spec in specs}
    place = ("engine", "model")
    for index, spec in enumerate(specs):
        if not isinstance(spec.engine, SharedEngine):
            continue
        owner = by_id.get(spec.engine.model)
        if owner is None:
            message, fix = f"there is no entry {spec.engine.model!r}", "name the id of another entry"
        elif isinstance(owner.engine, SharedEngine):
            message, fix = f"{owner.id!r} has no server of its own", f"name {owner.engine.model!r}"
        elif spec.task != owner.task and (spec.task, owner.task) != ("chat", "vision-chat"):
            message, fix = f"{owner.id!r} serves {owner.task}, not {spec.task}", f'write "task": "{owner.task}"'
        else:
            continue
        yield index, Contradiction(place, message, fix)


def _is_flag(name: str) -> bool:
    return re.fullmatch(FLAG_PATTERN, name) is not None


def _flags(spec: ModelSpec) -> Flags:
    return {} if isinstance(spec.engine, ExternalEngine | SharedEngine) else spec.engine.flags


CHECKS: tuple[Callable[[ModelSpec], Iterator[Contradiction]], ...] = (
    _reserved_id, _source_and_engine, _task_and_engine, _task_and_defaults, _lengths, _flag_names, _flag_pairs,
    _wheel_path, _residency, _replicas,
)  # fmt: skip
