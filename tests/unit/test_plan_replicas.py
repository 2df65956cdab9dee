"""Several servers of one model: where they go, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.planning import entry, machine, registry_of
from vllm_launcher.hardware import GIB, Hardware
from vllm_launcher.planning.plan import plan
from vllm_launcher.planning.plan_table import server_rows
from vllm_launcher.planning.planned import Plan
from vllm_launcher.prepare import Project
from vllm_launcher.settings import Settings
from vllm_launcher.up import server_specs, single_spec

SMALL = {"repo": "HuggingFaceTB/SmolLM2-135M-Instruct"}
NO_GPU = Hardware(cores=8, memory_total=64 * GIB, memory_available=8 * GIB)


def planned(hardware: Hardware, *entries: dict[str, Any]) -> Plan:
    """The plan of those entries."""
    return plan(registry_of(*entries), hardware)


def test_replicas_take_gpus_of_their_own() -> None:
    """Each is the whole model, and all are equal."""
    servers = planned(machine(80, 80), entry(replicas=2)).servers
    assert [(server.gpus, server.replica) for server in servers] == [((0,), 0), ((1,), 1)]
    assert servers[0].flags == servers[1].flags
    assert servers[0].env != servers[1].env, "they see the same GPU"


def test_replicas_may_share_a_large_gpu() -> None:
    """Two fit one of 80 GiB: what is left is shared between them."""
    servers = planned(machine(80), entry(replicas=2)).servers
    assert [server.gpus for server in servers] == [(0,), (0,)]
    assert sum(server.memory.total for server in servers) < 80 * GIB


def test_as_many_replicas_are_placed_as_fit_and_the_plan_says_so() -> None:
    """Three were asked for, two have a GPU."""
    servers = planned(machine(24, 24), entry(replicas=3)).servers
    assert len(servers) == 2
    assert {server.reason("replicas") for server in servers} == {"of 3: there is no room for more"}


def test_every_model_has_a_server_before_one_gets_a_second() -> None:
    """Though the first of the list wants two."""
    made = planned(machine(24, 24), entry(replicas=2), entry(repo="Qwen/Qwen3-4B") | {"id": "other"})
    assert sorted(server.model for server in made.servers) == ["m", "other"]


def test_on_the_processor_replicas_share_its_memory_and_cores() -> None:
    """Seven cores for two servers, the memory of both in one pool."""
    made = planned(NO_GPU, entry("HuggingFaceTB/SmolLM2-135M-Instruct", replicas=2))
    assert len(made.servers) == 2
    assert {server.env["OMP_NUM_THREADS"] for server in made.servers} == {"3"}
    assert sum(server.needs["cpu"] for server in made.servers) <= made.capacity["cpu"]


@pytest.mark.parametrize(("gib", "count"), [(5, 1), (8, 2)])
def test_memory_decides_how_many_there_are(gib: int, count: int) -> None:
    """Each takes 2.7 GiB beside the gigabyte that is left alone."""
    hardware = NO_GPU.model_copy(update={"memory_available": gib * GIB})
    made = planned(hardware, entry("HuggingFaceTB/SmolLM2-135M-Instruct", replicas=2))
    assert len(made.servers) == count


def test_the_table_numbers_further_replicas() -> None:
    """The first is the model itself."""
    rows = server_rows(planned(machine(80, 80), entry(replicas=2)))
    assert [row[0] for row in rows] == ["m", "m #1"]


def test_the_launcher_keeps_them_as_one_model(tmp_path: Path) -> None:
    """With a name for each, what they take in all, and how they are balanced."""
    registry = registry_of(entry(replicas=2, balance="session", residency={"idle_seconds": 60}))
    made = plan(registry, machine(80, 80))
    (spec,) = server_specs(Project(tmp_path / "models.json", registry, made), Settings())
    assert [replica.model for replica in spec.replicas] == ["m@0", "m@1"]
    assert [replica.served_name for replica in spec.replicas] == ["m", "m"]
    assert [replica.needs for replica in spec.replicas] == [made.servers[0].needs, made.servers[1].needs]
    assert spec.needs == {**made.servers[0].needs, **made.servers[1].needs}
    assert spec.balance == "session"
    assert [replica.idle_seconds for replica in (spec, *spec.replicas)] == [60, None, None]


def test_a_single_server_has_no_router(tmp_path: Path) -> None:
    """Two were asked for and one fits: it is kept as any other."""
    registry = registry_of(entry(replicas=2))
    made = plan(registry, machine(24))
    (spec,) = server_specs(Project(tmp_path / "models.json", registry, made), Settings())
    assert spec.replicas == ()
    assert spec == single_spec(registry.models[0], made, Settings())
