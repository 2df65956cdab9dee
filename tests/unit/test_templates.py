"""Every package with a chain is a LangChain template, complete and quiet at import."""

import importlib
import subprocess  # noqa: TID251 - an import is quiet only where nothing was imported before
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from chat_vllm import ChatInput
from chat_vllm.sampling import Sampling
from image_generation import Drawing, ImageInput
from langchain_core.runnables import Runnable

from tests.surroundings import ROOT

PACKAGES = sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))
TEMPLATES = [
    package for package in PACKAGES if "langserve" in tomllib.loads((package / "pyproject.toml").read_text())["tool"]
]

WATCHED_IMPORT = """\
import os, sys

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork"):
        os.write(2, f"{event} {args}".encode())
        os._exit(3)

sys.addaudithook(watch)
__import__(sys.argv[1])
"""


def settings(package: Path) -> dict[str, Any]:
    """A package's pyproject.toml."""
    return tomllib.loads((package / "pyproject.toml").read_text())


def exported(package: Path) -> Any:
    """What a package's [tool.langserve] exports."""
    export = settings(package)["tool"]["langserve"]
    return getattr(importlib.import_module(export["export_module"]), export["export_attr"])


def test_there_is_a_template() -> None:
    """The tests below look at something."""
    assert "smollm2-chat" in {template.name for template in TEMPLATES}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_is_complete(package: Path) -> None:
    """README, licence, tests and a type marker, and the project's own licence."""
    module = settings(package)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"][0]
    assert all((package / name).is_file() for name in ("README.md", "LICENSE", f"{module}/py.typed"))
    assert list((package / "tests").glob("test_*.py"))
    assert settings(package)["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_template_has_langchains_layout(template: Path) -> None:
    """langchain-cli reads the name of [tool.poetry]; the module is the name in snake case and exports a Runnable."""
    tool = settings(template)["tool"]
    assert tool["poetry"]["name"] == settings(template)["project"]["name"] == template.name
    assert tool["langserve"]["export_module"] == template.name.replace("-", "_")
    assert isinstance(exported(template), Runnable)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_template_does_nothing_at_import(template: Path) -> None:
    """No connection, no process: a server that is down stops nobody from importing a chain."""
    module = settings(template)["tool"]["langserve"]["export_module"]
    done = subprocess.run([sys.executable, "-c", WATCHED_IMPORT, module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def draws(template: Path) -> bool:
    """Whether a template is about pictures."""
    return settings(template)["tool"]["templates-hub"]["use-case"] == "image-generation"


CHATS = [template for template in TEMPLATES if not draws(template)]
PAINTERS = [template for template in TEMPLATES if draws(template)]


@pytest.mark.parametrize("template", CHATS, ids=lambda template: template.name)
def test_a_chat_template_takes_the_shared_input(template: Path) -> None:
    """The same forms of a conversation for every chat chain."""
    assert exported(template).get_input_schema() is ChatInput


@pytest.mark.parametrize("template", CHATS, ids=lambda template: template.name)
def test_a_readme_names_what_a_request_may_set(template: Path) -> None:
    """Every config key, none forgotten."""
    text = (template / "README.md").read_text()
    assert [name for name in Sampling.model_fields if f"`{name}`" not in text] == []


@pytest.mark.parametrize("template", PAINTERS, ids=lambda template: template.name)
def test_an_image_template_takes_a_prompt_and_names_what_goes_with_it(template: Path) -> None:
    """One input for every image chain, and a README that forgets none of its fields."""
    text = (template / "README.md").read_text()
    assert issubclass(exported(template).get_input_schema(), ImageInput)
    assert [name for name in Drawing.model_fields if f"`{name}`" not in text] == []
