"""What tests of the planner share: recorded machines, entries and facts made on the spot."""

from pathlib import Path
from typing import Any

from vllm_launcher.hardware import GIB, Gpu, Hardware
from vllm_launcher.planning.facts import ModelFacts, known_models, read_known
from vllm_launcher.planning.plan import Plan, plan
from vllm_launcher.planning.plan_table import COLUMNS, machine_line, markdown, rejected_rows, server_rows
from vllm_launcher.planning.planned import PlannedServer
from vllm_launcher.registry import Registry, load_registry

DOCUMENT = Path(__file__).parents[2] / "docs/planning.md"
BEGIN, END = "<!-- plans: begin -->\n", "<!-- plans: end -->\n"
MACHINES = Path(__file__).with_name("machines")
MODELS = Path(__file__).parents[2] / "models.json"
NAMES = ("none", "1x24", "1x80", "2x80", "4x48", "8x80", "mixed", "partly-used", "old")


def recorded(name: str) -> Hardware:
    """A recorded machine."""
    return Hardware.model_validate_json((MACHINES / f"{name}.json").read_text())


def mission() -> Registry:
    """The product's own list of models."""
    return load_registry(MODELS)


def entry(repo: str = "Qwen/Qwen3-8B", **fields: Any) -> dict[str, Any]:
    """An entry of a hub model."""
    return {"id": "m", "source": {"type": "hub", "repo": repo}, **fields}


def registry_of(*entries: dict[str, Any]) -> Registry:
    """A registry of those entries."""
    return Registry.model_validate({"models": list(entries)})


def plan_one(hardware: Hardware, **fields: Any) -> Plan:
    """The plan of one entry."""
    return plan(registry_of(entry(**fields)), hardware)


def server_of(hardware: Hardware, **fields: Any) -> PlannedServer:
    """The server of one entry that has to fit."""
    planned = plan_one(hardware, **fields)
    assert planned.rejected == ()
    return planned.servers[0]


def machine(*sizes: int, capability: tuple[int, int] = (9, 0), used: int = 0, cores: int = 32) -> Hardware:
    """A machine with GPUs of those sizes in GiB, each with ``used`` GiB taken by others."""
    gpus = tuple(
        Gpu(
            index=index,
            name=f"GPU {size}",
            uuid=f"GPU-{index}",
            memory_total=size * GIB,
            memory_free=(size - used) * GIB,
            compute_capability=capability,
        )
        for index, size in enumerate(sizes)
    )
    return Hardware(gpus=gpus, cores=cores, memory_total=64 * GIB, memory_available=8 * GIB)


def known(name: str, **changes: Any) -> ModelFacts:
    """Facts of the table, with changes."""
    facts = read_known(known_models()[name])
    assert isinstance(facts, ModelFacts)
    return facts.model_copy(update=changes)


def plan_pages() -> str:
    """The plans for the recorded machines as docs/planning.md shows them."""
    return "\n".join(line for name in NAMES for line in _page(name)) + "\n"


def _page(name: str) -> list[str]:
    hardware = recorded(name)
    planned = plan(mission(), hardware)
    refused = [(model, reason) for model, reason, _ in rejected_rows(planned)]
    lines = [f"### {name}", "", machine_line(hardware), "", *markdown(COLUMNS, server_rows(planned)), ""]
    return [*lines, *(markdown(("not served", "because it"), refused) if refused else []), ""]


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(head + BEGIN + "\n" + plan_pages() + END + rest.partition(END)[2])
