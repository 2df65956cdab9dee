"""The distributions that are copied into an engine's environment are what their own metadata says."""

import configparser
import csv
import importlib.util
import tomllib
from pathlib import Path

import pytest

from tests.surroundings import ROOT

ENGINES = ROOT / "vllm_launcher" / "engines"
RUNTIME = ENGINES / "runtime"
RECIPES = [tomllib.loads(path.read_text()) for path in sorted(ENGINES.glob("*.toml"))]
LOCAL = sorted({str(name) for recipe in RECIPES for name in recipe.get("local", ())})


def metadata(name: str) -> Path:
    """The one .dist-info folder."""
    (folder,) = (RUNTIME / name).glob("*.dist-info")
    return folder


@pytest.mark.parametrize("name", LOCAL)
def test_a_distribution_records_every_file_that_is_copied(name: str) -> None:
    """A file that RECORD lacks would be left behind by an uninstallation; one too many makes it look broken."""
    with (metadata(name) / "RECORD").open(newline="") as record:
        recorded = {row[0] for row in csv.reader(record)}
    folders = [path for path in (RUNTIME / name).iterdir() if path.is_dir() and path.name != "tests"]
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert recorded == {path.relative_to(RUNTIME / name).as_posix() for path in files}


@pytest.mark.parametrize("name", LOCAL)
def test_every_entry_point_of_a_distribution_exists(name: str) -> None:
    """Loaded without the engine around it: entry points import what they need when they are called."""
    entries = configparser.ConfigParser()
    entries.read(metadata(name) / "entry_points.txt")
    targets = [target for group in entries.sections() for target in entries[group].values()]
    assert targets
    for target in targets:
        module, function = target.split(":")
        spec = importlib.util.spec_from_file_location(module, RUNTIME / name / module / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        assert callable(getattr(loaded, function))


@pytest.mark.parametrize("name", LOCAL)
def test_a_distribution_is_named_after_its_folder(name: str) -> None:
    """Installers find it by that name."""
    lines = (metadata(name) / "METADATA").read_text().splitlines()
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert metadata(name).name == f"{fields['Name'].replace('-', '_')}-{fields['Version']}.dist-info"
