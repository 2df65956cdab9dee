"""The commands that look and start nothing: plan and doctor."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.unit.planning import MACHINES, MODELS, recorded
from vllm_launcher.__main__ import cli
from vllm_launcher.doctor import Diagnosis
from vllm_launcher.planning.plan_report import PlanReport

MISSION = ("--models", str(MODELS))
ONE = '{"models": [{"id": "m", "source": {"type": "hub", "repo": "Qwen/Qwen3-8B"}}]}'


def call(folder: Path, *arguments: str) -> Result:
    """The outcome of a command line, with a cache in that folder."""
    env = {"LANGSERVE_VLLM_CACHE": str(folder / "cache"), "LANGSERVE_VLLM_RUN": str(folder / "run"), "COLUMNS": "80"}
    return CliRunner().invoke(cli, arguments, env=env)


def on(name: str) -> tuple[str, str]:
    """The option that names a recorded machine."""
    return "--machine", str(MACHINES / f"{name}.json")


@pytest.fixture
def one(tmp_path: Path) -> tuple[str, str]:
    """A list of one model."""
    (tmp_path / "models.json").write_text(ONE)
    return "--models", str(tmp_path / "models.json")


def test_plan_shows_servers_and_what_is_not_served(tmp_path: Path, one: tuple[str, str]) -> None:
    """And exits with 0: the app starts all the same."""
    served, refused = call(tmp_path, "plan", *one, *on("1x24")), call(tmp_path, "plan", *one, *on("none"))
    assert (served.exit_code, refused.exit_code) == (0, 0)
    assert "--max-model-len 32768" in served.stdout
    assert "Not served here:\n  m: needs 1 x 12 GiB (in FP8) of GPU memory, found none" in refused.stdout


def test_plan_plans_for_this_machine_unless_told_another(tmp_path: Path, one: tuple[str, str]) -> None:
    """Its memory is in the first line."""
    assert "memory free" in call(tmp_path, "plan", *one).stdout.splitlines()[0]


def test_plan_says_why_when_asked(tmp_path: Path, one: tuple[str, str]) -> None:
    """For each choice."""
    assert "how Qwen3ForCausalLM writes tool calls" in call(tmp_path, "plan", "--why", *one, *on("1x24")).stdout


@pytest.mark.parametrize("name", ["none", "8x80"])
def test_plan_as_json_has_its_documented_shape(tmp_path: Path, name: str) -> None:
    """Nothing else is on standard output."""
    told = call(tmp_path, "plan", "--json", *MISSION, *on(name))
    assert told.exit_code == 0
    assert set(json.loads(told.stdout)) == {"machine", "capacity", "servers", "rejected"}
    assert PlanReport.model_validate_json(told.stdout).machine == recorded(name)


def test_plan_knows_a_fetched_model_by_its_config(tmp_path: Path) -> None:
    """A model that no table has, once its checkpoint is whole in the cache."""
    (tmp_path / "models.json").write_text(ONE.replace("Qwen/Qwen3-8B", "some/thing"))
    arguments = ("plan", "--json", "--models", str(tmp_path / "models.json"), *on("1x24"))
    (before,) = json.loads(call(tmp_path, *arguments).stdout)["servers"]
    checkpoint = Path(before["command"][4])
    checkpoint.mkdir(parents=True)
    config = json.loads((MACHINES.parents[2] / "vllm_launcher/planning/known_models.json").read_text())["models"]
    (checkpoint / "config.json").write_text(json.dumps(config["Qwen/Qwen3-8B"]["config"]))
    size = (checkpoint / "config.json").stat().st_size
    (checkpoint / ".complete").write_text(json.dumps({"config.json": size}))
    (after,) = json.loads(call(tmp_path, *arguments).stdout)["servers"]
    assert (before["facts_from"], before["weights"]) == ("nothing yet", "to fetch")
    assert (after["facts_from"], after["weights"]) == ("config.json of the checkpoint", "here")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cores": "two"}', '{"machine": 3}'])
def test_a_file_that_is_no_machine_exits_with_1(tmp_path: Path, one: tuple[str, str], content: str) -> None:
    """And says how to record one."""
    (tmp_path / "machine.json").write_text(content)
    told = call(tmp_path, "plan", *one, "--machine", str(tmp_path / "machine.json"))
    assert told.exit_code == 1
    assert "holds no recorded machine" in told.stderr
    assert told.stderr.splitlines()[-1] == "Record one with: plan --json"
    assert call(tmp_path, "plan", *one, "--machine", str(tmp_path / "none.json")).exit_code == 1


def test_an_invalid_list_of_models_exits_with_3(tmp_path: Path) -> None:
    """As everywhere."""
    (tmp_path / "models.json").write_text("{")
    assert call(tmp_path, "plan", "--models", str(tmp_path / "models.json")).exit_code == 3


def test_doctor_exits_with_1_when_a_check_fails(tmp_path: Path) -> None:
    """Here: a list of models that is not valid. The fix is printed below it."""
    (tmp_path / "models.json").write_text('{"models": [{"id": "m", "taks": "chat"}]}')
    told = call(tmp_path, "doctor", "--models", str(tmp_path / "models.json"), "--port", "1")
    assert told.exit_code == 1
    assert f"fail  models         {tmp_path / 'models.json'}:1:" in told.stdout


def test_doctor_without_a_failing_check_exits_with_0(tmp_path: Path) -> None:
    """External models need no engine and no weights."""
    far = '{"models": [{"id": "far", "engine": {"type": "external", "url": "http://127.0.0.1:1/v1"}}]}'
    (tmp_path / "models.json").write_text(far)
    told = call(tmp_path, "doctor", "--json", "--models", str(tmp_path / "models.json"), "--port", "1")
    diagnosis = Diagnosis.model_validate_json(told.stdout)
    assert [check.seen for check in diagnosis.checks if check.level == "fail"] == []
    assert told.exit_code == 0
    assert diagnosis.ok
    assert {check.name for check in diagnosis.checks} >= {"system", "driver", "port", "launcher", "disk"}
