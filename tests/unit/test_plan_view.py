"""What a plan looks like, on a terminal and without one, and as JSON."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.planning import entry, machine, mission, recorded, registry_of
from vllm_launcher.command import build_command
from vllm_launcher.fetching.install import environment_of
from vllm_launcher.hardware import Hardware
from vllm_launcher.planning import plan_view
from vllm_launcher.planning.plan import plan
from vllm_launcher.planning.plan_report import PlanReport, read_machine, report_of
from vllm_launcher.planning.plan_table import COLUMNS, server_rows
from vllm_launcher.planning.planned import Plan
from vllm_launcher.prepare import Project
from vllm_launcher.registry import Registry
from vllm_launcher.settings import Settings

EXTERNAL = {"id": "far", "engine": {"type": "external", "url": "http://127.0.0.1:1/v1"}}
QWEN_GGUF = {"type": "hub", "repo": "Qwen/Qwen3-8B-GGUF", "file": "sub/q-Q4_K_M.gguf", "tokenizer": "Qwen/Qwen3-8B"}


def reported(registry: Registry, hardware: Hardware, cache: Path) -> tuple[Plan, PlanReport]:
    """The plan of a registry, and its report with an empty cache."""
    planned = plan(registry, hardware)
    return planned, report_of(Project(cache / "models.json", registry, planned), hardware, Settings(cache=cache))


def shown(registry: Registry, hardware: Hardware, cache: Path, *, why: bool = False, width: int | None = None) -> str:
    """What is printed: on a terminal of that width, without one into a file."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=width is not None, width=width or 80, color_system=None)
    plan_view.show(*reported(registry, hardware, cache), console, why=why)
    return file.getvalue()


def test_every_row_is_one_line_without_a_terminal(tmp_path: Path) -> None:
    """Whatever the width: columns stand under their heads, for awk as for eyes."""
    lines = shown(mission(), recorded("4x48"), tmp_path).splitlines()
    rows = server_rows(plan(mission(), recorded("4x48")))
    assert lines[0] == "4 x NVIDIA L40S 48 GiB (8.9), 64 cores, 480.0 GiB of 512.0 GiB memory free"
    assert lines[1].split() == " ".join(COLUMNS).split()
    for line, row in zip(lines[2:], rows, strict=False):
        assert line.split("  ")[0] == row[0]
        assert line.index(row[2]) == lines[1].index("engine")


def test_a_terminal_wide_enough_gets_a_table_and_a_narrow_one_plain_columns(tmp_path: Path) -> None:
    """Sizes broken over two lines help nobody."""
    wide = shown(mission(), recorded("none"), tmp_path, width=200)
    narrow = shown(mission(), recorded("none"), tmp_path, width=60)
    assert any(line.startswith("smollm2 ") and line.rstrip().endswith("19.0 GiB") for line in wide.splitlines())
    assert any(line.startswith("smollm2 ") and line.endswith("19.0 GiB") for line in narrow.splitlines())


def test_every_model_that_is_not_served_has_its_reason_and_what_would_change_it(tmp_path: Path) -> None:
    """In the order of the file."""
    told = shown(mission(), recorded("none"), tmp_path)
    refused = plan(mission(), recorded("none")).rejected
    assert refused
    for rejected in refused:
        assert f"  {rejected.model}: {rejected.reason}\n    {rejected.hint}\n" in told


def test_reasons_are_shown_when_asked_for(tmp_path: Path) -> None:
    """Each choice with its value and why."""
    reason = "no NVIDIA GPU was found"
    assert reason not in shown(mission(), recorded("none"), tmp_path)
    lines = shown(mission(), recorded("none"), tmp_path, why=True).splitlines()
    assert ["engine", "vllm-cpu", reason] in [line.split(maxsplit=2) for line in lines]


def test_the_command_is_the_one_the_launcher_starts(tmp_path: Path) -> None:
    """But for the port, with the engine's own interpreter and the checkpoint's place in the cache."""
    registry, settings = registry_of(entry()), Settings(cache=tmp_path)
    planned, report = reported(registry, machine(24), tmp_path)
    checkpoint = Path(report.servers[0].command[4])
    python = environment_of("vllm-cuda", settings) / "bin" / "python"
    started = build_command(planned.servers[0], registry.models[0], python=python, checkpoint=checkpoint, port=8001)
    shown_command = [argument.replace("PORT", "8001") for argument in report.servers[0].command]
    assert shown_command == list(started.argv)
    assert checkpoint.parent == settings.weights_dir
    assert report.servers[0].env == dict(planned.servers[0].env)


def test_a_gguf_is_named_by_its_file_and_with_the_tokenizer_on_this_machine(tmp_path: Path) -> None:
    """The server is off the network: a hub id would not help it."""
    _, report = reported(registry_of(entry(source=QWEN_GGUF)), machine(24), tmp_path)
    command = report.servers[0].command
    assert command[4].endswith("/sub/q-Q4_K_M.gguf")
    tokenizer = Path(command[command.index("--tokenizer") + 1])
    assert tokenizer.parent == tmp_path / "weights"
    assert tokenizer.name.startswith("tokenizer-Qwen--Qwen3-8B-")


def test_a_path_that_does_not_exist_is_told_in_the_plan(tmp_path: Path) -> None:
    """It would fail at the start."""
    source = {"type": "path", "path": str(tmp_path / "gone"), "tokenizer": "Qwen/Qwen3-8B"}
    _, report = reported(registry_of(entry(source=source)), machine(24), tmp_path)
    assert report.servers[0].weights == "missing"
    assert str(tmp_path / "gone") in report.servers[0].command


def test_an_external_server_has_no_command(tmp_path: Path) -> None:
    """Nothing of ours is started for it, and nothing is missing."""
    told = shown(registry_of(EXTERNAL), recorded("none"), tmp_path)
    assert "far: served by somebody else; nothing is started for it" in told
    assert "PORT" not in told


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """No folder of the cache is made."""
    shown(mission(), recorded("8x80"), tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_the_fields_of_the_json_are_those_documented(tmp_path: Path) -> None:
    """Each of them, by name, in docs/planning.md."""
    document = (Path(__file__).parents[2] / "docs/planning.md").read_text()
    _, report = reported(mission(), recorded("1x24"), tmp_path)
    value = json.loads(report.model_dump_json())
    parts = [value, value["servers"][0], value["servers"][0]["memory"], value["rejected"][0]]
    assert [name for part in parts for name in part if f"`{name}`" not in document] == []


@pytest.mark.parametrize("name", ["none", "mixed"])
def test_a_recorded_machine_is_read_back(tmp_path: Path, name: str) -> None:
    """By itself, and out of what plan --json printed."""
    alone, whole = tmp_path / "machine.json", tmp_path / "plan.json"
    alone.write_text(recorded(name).model_dump_json())
    whole.write_text(reported(mission(), recorded(name), tmp_path)[1].model_dump_json())
    assert read_machine(alone) == read_machine(whole) == recorded(name)
