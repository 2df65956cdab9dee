"""A plan as tables of text: what ``plan`` prints and the documentation shows. Pure."""

from collections.abc import Iterator, Sequence

from vllm_launcher.hardware import GIB, Hardware
from vllm_launcher.planning.planned import Plan, PlannedServer, gib

COLUMNS = (
    "model", "loaded", "engine", "GPUs", "cut", "precision", "context", "weights", "KV cache", "rest", "total", "of",
)  # fmt: skip


def machine_line(hardware: Hardware) -> str:
    """A machine in one line."""
    kinds: dict[tuple[str, int, tuple[int, int]], int] = {}
    for gpu in hardware.gpus:
        kind = (gpu.name, round(gpu.memory_total / GIB), gpu.compute_capability)
        kinds[kind] = kinds.get(kind, 0) + 1
    gpus = [f"{count} x {name} {size} GiB ({cap[0]}.{cap[1]})" for (name, size, cap), count in kinds.items()]
    cores = f"{hardware.cores} cores, {gib(hardware.memory_available)} of {gib(hardware.memory_total)} memory free"
    return ", ".join([*gpus, cores] if gpus else ["no GPU", cores])


def server_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row of ``COLUMNS`` for each server."""
    return [_row(server) for server in plan.servers]


def reason_rows(server: PlannedServer) -> list[tuple[str, str, str]]:
    """What was chosen for a server, and why."""
    return [(choice.what, choice.value, choice.why) for choice in server.reasons]


def rejected_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """Model, reason and hint of everything that is not served here."""
    return [(rejected.model, rejected.reason, rejected.hint) for rejected in plan.rejected]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as a table of Markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(cells) + " |"


def _row(server: PlannedServer) -> tuple[str, ...]:
    memory = server.memory
    return (
        name_of(server),
        loaded(server),
        server.engine,
        ", ".join(str(index) for index in server.gpus) or "-",
        _cut(server),
        _precision(server),
        str(server.flags.get("max-model-len", "-")),
        gib(memory.weights),
        gib(memory.kv_cache) if memory.kv_cache else "-",
        gib(memory.activations + memory.overhead),
        gib(memory.total),
        gib(server.available),
    )


def name_of(server: PlannedServer) -> str:
    """The model, and which of its servers where that is not the first."""
    return f"{server.model} #{server.replica}" if server.replica else server.model


def loaded(server: PlannedServer) -> str:
    """When it is loaded, in a word or two."""
    when = "on demand" if server.on_demand else "at startup"
    return f"{when}, in turns" if server.shares else when


def _cut(server: PlannedServer) -> str:
    sizes = {"TP": server.tensor_parallel, "PP": server.pipeline_parallel, "DP": server.data_parallel}
    return " ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "-"


def _precision(server: PlannedServer) -> str:
    chosen = {choice.what: choice.value for choice in server.reasons}
    return chosen.get("quantization") or chosen.get("layout") or chosen.get("dtype") or "-"
