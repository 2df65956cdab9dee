"""The files that say how engines are installed."""

from pathlib import Path

import pytest

from vllm_launcher.command import ROUTER_ENGINE
from vllm_launcher.fetching.install import environment_of, installed
from vllm_launcher.fetching.recipes import Recipes, count, stanza
from vllm_launcher.settings import Settings

LOCK = """\
attrs==26.1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
pip==26.3 ; sys_platform == 'linux' \\
    --hash=sha256:cc
pip-tools==1.0 \\
    --hash=sha256:dd
"""
RECIPE = 'title = "An engine"\ndisk_gb = 1\nprobe = "import engine"\nlocal = ["extra"]\nremove = ["unwanted.so"]\n'


@pytest.fixture
def recipes(tmp_path: Path) -> Recipes:
    """One engine with a distribution of our own."""
    folder = tmp_path / "engines"
    for name in ("extra/__init__.py", "extra-1.dist-info/RECORD", "tests/test_extra.py"):
        path = folder / "runtime" / "extra" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    (folder / "one.toml").write_text(RECIPE)
    (folder / "one.txt").write_text(LOCK)
    return Recipes(folder)


@pytest.mark.parametrize("name", Recipes().names())
def test_every_engine_of_ours_has_a_recipe_and_a_lock_with_pip(name: str) -> None:
    """It is installed first, from the same lock, with its hashes."""
    recipes = Recipes()
    assert recipes.read(name).title
    pip = stanza(recipes.lock(name), "pip")
    assert pip[0].startswith("pip==")
    assert any("--hash=sha256:" in line for line in pip)
    assert count(recipes.lock(name)) > (1 if name == ROUTER_ENGINE else 100)
    assert (recipes.folder / f"{name}.in").exists()


@pytest.mark.parametrize("name", Recipes().names())
def test_no_lock_of_ours_names_an_address(name: str) -> None:
    """Where packages come from is the user's business."""
    assert "://" not in Recipes().lock(name).read_text()


def test_a_stanza_is_one_distribution_with_its_hashes(recipes: Recipes) -> None:
    """And not the one whose name begins the same."""
    assert stanza(recipes.lock("one"), "pip") == [
        "pip==26.3 ; sys_platform == 'linux' \\", "    --hash=sha256:cc",
    ]  # fmt: skip
    assert stanza(recipes.lock("one"), "absent") == []


def test_a_lock_is_counted_by_its_pins(recipes: Recipes) -> None:
    """Hashes are no distributions."""
    assert count(recipes.lock("one")) == 3


@pytest.mark.parametrize("changed", ["one.txt", "one.toml", "runtime/extra/extra/__init__.py"])
def test_another_lock_recipe_or_distribution_is_another_environment(recipes: Recipes, changed: str) -> None:
    """So an update never meets what the version before left."""
    before = recipes.digest("one")
    path = recipes.folder / changed
    path.write_text(path.read_text() + "\n")
    assert recipes.digest("one") != before


def test_tests_and_byte_code_do_not_change_the_environment(recipes: Recipes) -> None:
    """They are not installed."""
    before = recipes.digest("one")
    (recipes.folder / "runtime/extra/tests/test_extra.py").write_text("changed")
    (recipes.folder / "runtime/extra/extra/__pycache__").mkdir()
    (recipes.folder / "runtime/extra/extra/__pycache__/x.pyc").write_text("changed")
    assert recipes.digest("one") == before


def test_own_distributions_go_in_and_unwanted_files_out(recipes: Recipes, tmp_path: Path) -> None:
    """Twice is as good as once: an installation may go on after a kill."""
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "unwanted.so").touch()
    for _ in range(2):
        recipes.install_local("one", site)
    assert {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()} == {
        "extra/__init__.py", "extra-1.dist-info/RECORD",
    }  # fmt: skip


def test_an_environment_whose_python_has_gone_is_not_installed(recipes: Recipes, tmp_path: Path) -> None:
    """Its stamp survives an upgrade of the system's Python, and its interpreter does not."""
    settings = Settings(cache=tmp_path / "cache")
    environment = environment_of("one", settings, recipes)
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    (environment / ".complete").touch()
    python.symlink_to(tmp_path / "gone")
    assert installed("one", settings, recipes) is None
    (tmp_path / "gone").touch()
    assert installed("one", settings, recipes) is not None
