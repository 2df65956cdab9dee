"""A plan with what is bound at the start filled in as far as it is known: what ``plan --json`` prints.

The fields are a promise: one may be added, none changes its meaning. Sizes are bytes. Reads the disk, starts nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vllm_launcher.command import build_command
from vllm_launcher.errors import LauncherError
from vllm_launcher.fetching.install import environment_of, installed
from vllm_launcher.fetching.tokenizer import expected_tokenizer, needs_tokenizer
from vllm_launcher.fetching.weights import expected
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.hardware import Hardware
from vllm_launcher.planning.planned import PROCESSLESS, PlannedServer, Rejected
from vllm_launcher.prepare import Project, dtype_of
from vllm_launcher.registry.entries import Flag, ModelSpec
from vllm_launcher.settings import Settings

PORT = "PORT"
"""Stands in a command for the port, which is bound at the start."""

WeightsState = Literal["here", "to fetch", "missing", "elsewhere"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryReport(_Frozen):
    """What a server takes of each of its GPUs, or of the machine; ``available`` was free there for it."""

    weights: int
    kv_cache: int
    activations: int
    overhead: int
    total: int
    available: int


class Reason(_Frozen):
    """Something that was chosen, and why."""

    what: str
    value: str
    why: str


class ServerReport(_Frozen):
    """One server as it would be started. ``command`` and ``env`` are empty for an external or shared one.

    ``weights``: "here", "to fetch", "missing" (the entry names a path that does not exist) or "elsewhere".
    """

    model: str
    replica: int
    """Which of the model's servers, from 0."""
    engine: str
    engine_installed: bool
    weights: WeightsState
    facts_from: str
    on_demand: bool
    shares: bool
    """It does not fit beside all the others: whoever is in its way makes room when it is asked for."""
    pinned: bool
    sleep: int | None
    gpus: tuple[int, ...]
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    memory: MemoryReport
    kv_tokens: int
    dequantize: bool
    plugins: tuple[str, ...]
    flags: dict[str, Flag]
    env: dict[str, str]
    command: tuple[str, ...]
    reasons: tuple[Reason, ...]


class RejectedReport(_Frozen):
    """A model that is not served here: why, and what would change it."""

    model: str
    reason: str
    hint: str


class PlanReport(_Frozen):
    """All of it. ``machine`` is what ``plan --machine`` reads, ``capacity`` what servers may take in all, by pool."""

    machine: Hardware
    capacity: dict[str, int]
    servers: tuple[ServerReport, ...]
    rejected: tuple[RejectedReport, ...]


def read_machine(path: Path) -> Hardware:
    """A recorded machine: the ``machine`` of ``plan --json``, or the whole of what that printed.

    Raises:
        LauncherError: the file cannot be read or holds something else.
    """
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        return Hardware.model_validate(value.get("machine", value))
    except (OSError, ValueError, AttributeError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise LauncherError(f"{path} holds no recorded machine: {said}.", "Record one with: plan --json") from error


def report_of(project: Project, hardware: Hardware, settings: Settings) -> PlanReport:
    """The plan of a project for that machine."""
    servers = (_server(project.planned(server.model)[0], server, settings) for server in project.plan.servers)
    return PlanReport(
        machine=hardware,
        capacity=dict(project.plan.capacity),
        servers=tuple(servers),
        rejected=tuple(_rejected(rejected) for rejected in project.plan.rejected),
    )


def _server(spec: ModelSpec, planned: PlannedServer, settings: Settings) -> ServerReport:
    no_process = planned.engine in PROCESSLESS
    checkpoint, weights = (Path(), "elsewhere") if no_process else _checkpoint(spec, planned, settings)
    return ServerReport(
        model=planned.model,
        replica=planned.replica,
        engine=planned.engine,
        engine_installed=no_process or installed(planned.engine, settings) is not None,
        weights=weights,
        facts_from=planned.facts_from,
        on_demand=planned.on_demand,
        shares=planned.shares,
        pinned=spec.residency.pinned,
        sleep=planned.sleep,
        gpus=planned.gpus,
        tensor_parallel=planned.tensor_parallel,
        pipeline_parallel=planned.pipeline_parallel,
        data_parallel=planned.data_parallel,
        memory=_memory(planned),
        kv_tokens=planned.kv_tokens,
        dequantize=planned.dequantize,
        plugins=planned.plugins,
        flags=dict(planned.flags),
        env=dict(planned.env),
        command=() if no_process else _command(spec, planned, checkpoint, settings),
        reasons=tuple(Reason(what=choice.what, value=choice.value, why=choice.why) for choice in planned.reasons),
    )


def _memory(planned: PlannedServer) -> MemoryReport:
    memory = planned.memory
    return MemoryReport(
        weights=memory.weights,
        kv_cache=memory.kv_cache,
        activations=memory.activations,
        overhead=memory.overhead,
        total=memory.total,
        available=planned.available,
    )


def _rejected(rejected: Rejected) -> RejectedReport:
    return RejectedReport(model=rejected.model, reason=rejected.reason, hint=rejected.hint)


def _checkpoint(spec: ModelSpec, planned: PlannedServer, settings: Settings) -> tuple[Path, WeightsState]:
    """Where the weights are or will be."""
    try:
        path, there = expected(spec, settings, dequantize=planned.dequantize, dtype=dtype_of(planned))
    except (WeightsError, OSError):
        return Path(getattr(spec.source, "path", "")), "missing"
    return path, "here" if there else "to fetch"


def _command(spec: ModelSpec, planned: PlannedServer, checkpoint: Path, settings: Settings) -> tuple[str, ...]:
    python = environment_of(planned.engine, settings) / "bin" / "python"
    tokenizer = _or_none(lambda: expected_tokenizer(spec, settings)) if needs_tokenizer(spec, planned) else None
    return build_command(planned, spec, python=python, checkpoint=checkpoint, port=PORT, tokenizer=tokenizer).argv


def _or_none(find: Callable[[], Path]) -> Path | None:
    try:
        return find()
    except WeightsError:
        return None
