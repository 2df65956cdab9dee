"""An entry that is only another chain in front of another entry's server."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.engines.table import ServerTable
from tests.unit.planning import recorded, registry_of
from tests.unit.scripted import ENGINE, MODEL, ScriptedLauncher, server, status
from vllm_launcher.planning.plan import plan
from vllm_launcher.prepare import Project
from vllm_launcher.registry import RegistryError, load_registry
from vllm_launcher.settings import Settings
from vllm_launcher.up import server_specs

HUB = {"type": "hub", "repo": "Qwen/Qwen3-0.6B"}
OWNER = {"id": "o", "source": HUB}
SHARING = {"id": "s", "engine": {"type": "shared", "model": "o"}, "chain": {"package": "p"}}


def problem_of(folder: Path, *entries: dict[str, Any]) -> str:
    """The one problem of a list of models."""
    (folder / "models.json").write_text(json.dumps({"models": entries}))
    with pytest.raises(RegistryError) as caught:
        load_registry(folder / "models.json")
    (problem,) = caught.value.problems
    assert problem.fix
    return problem.message


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": HUB}, "a shared engine has loaded its weights already"),
        ({"engine": {"type": "shared", "model": "x"}}, "there is no entry 'x'"),
        ({"engine": {"type": "shared", "model": "s"}}, "'s' has no server of its own"),
        ({"task": "embedding", "chain": None}, "'o' serves chat, not embedding"),
        ({"residency": {"pinned": True}}, "a shared engine stays as long as the entry it belongs to"),
        ({"replicas": 2}, "replicas are for vLLM servers, not for an engine of type shared"),
    ],
)
def test_what_a_shared_engine_cannot_be_is_told(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    """With what to write instead."""
    assert message in problem_of(tmp_path, OWNER, {**SHARING, **entry})


def test_a_shared_engine_has_no_server_of_its_own() -> None:
    """The plan lists it, without memory; the launcher keeps one server for both."""
    registry = registry_of(OWNER, SHARING)
    planned = plan(registry, recorded("none"))
    alone = plan(registry_of(OWNER), recorded("none"))
    assert [(each.model, each.engine, bool(each.memory.total)) for each in planned.servers] == [
        ("o", "vllm-cpu", True),
        ("s", "shared", False),
    ]
    assert planned.servers[0] == alone.servers[0]
    kept = server_specs(Project(models=Path("models.json"), registry=registry, plan=planned), Settings())
    assert [spec.model for spec in kept] == ["o"]


def test_what_shares_a_server_that_has_no_place_has_none_either() -> None:
    """For the same reason."""
    big = {"id": "o", "source": {"type": "hub", "repo": "mistralai/Mixtral-8x7B-Instruct-v0.1"}}
    owner, sharing = plan(registry_of(big, SHARING), recorded("none")).rejected
    assert owner.reason in sharing.reason
    assert owner.hint == sharing.hint


async def test_requests_go_to_the_server_that_is_shared() -> None:
    """Its state is the other's, and so is its readiness."""
    table = ServerTable(ScriptedLauncher(), (MODEL, "rag"))
    table.shared = {"rag": MODEL}
    table.update(status(server("starting")))
    assert table.endpoint("rag") is None
    table.update(status(server()))
    assert (await table.ensure_ready("rag", 0)).url == ENGINE
    assert table.has_been_ready("rag")
    assert table.server("rag") == table.server(MODEL)
