"""A source with a recipe becomes a whole checkpoint: a copy of its folder, and what its program adds."""

from pathlib import Path

import pytest

from tests.unit.fetching import FakeRun, OnLine, Play, tools
from vllm_launcher.fetching.weights import fetch_weights, is_whole
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.processes.process import Launch
from vllm_launcher.progress import Progress
from vllm_launcher.registry.entries import ModelSpec


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    """A folder with a config, and a program beside it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "make.py").write_text("1")
    source = {"type": "path", "path": str(tmp_path / "model"), "recipe": str(tmp_path / "programs" / "make.py")}
    return ModelSpec.model_validate({"id": "m", "source": source})


def makes(code: int = 0, said: str = '{"done": 1, "total": 2}') -> Play:
    """Plays a recipe: adds a file to the folder it is given."""

    async def play(launch: Launch, say: OnLine) -> int:
        say(said)
        if code == 0:
            (Path(launch.argv[-1]) / "model.safetensors").write_text("weights")
        return code

    return play


async def test_a_recipe_completes_a_copy_in_the_engines_environment(spec: ModelSpec, tmp_path: Path) -> None:
    """Its progress is told, and the original stays as it is."""
    run, reports = FakeRun(makes()), list[Progress]()
    made = (await fetch_weights(spec, tools(tmp_path, run, reports), dequantize=False)).path
    assert sorted(path.name for path in made.iterdir() if not path.name.startswith(".")) == [
        "config.json",
        "model.safetensors",
    ]
    assert run.commands[0][:2] == ("/engine/python", str(tmp_path / "programs" / "make.py"))
    assert Progress(phase="making weights", done=1, total=2) in reports
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


async def test_what_was_made_is_made_once_and_anew_when_anything_of_it_changes(spec: ModelSpec, tmp_path: Path) -> None:
    """The folder, the program, or a file that the program may read."""
    run = FakeRun(makes())
    kit = tools(tmp_path, run)
    seen = {(await fetch_weights(spec, kit, dequantize=False)).path for _ in range(2)}
    assert len(run.commands) == len(seen) == 1
    for number, changed in enumerate(("model/config.json", "programs/make.py", "programs/words.txt"), start=2):
        (tmp_path / changed).write_text("2")
        seen.add((await fetch_weights(spec, kit, dequantize=False)).path)
        assert len(run.commands) == len(seen) == number


async def test_a_recipe_that_fails_leaves_nothing_that_looks_whole(spec: ModelSpec, tmp_path: Path) -> None:
    """Its last line is the reason, and the next call runs it again."""
    with pytest.raises(WeightsError, match=r"make\.py failed: no torch"):
        await fetch_weights(spec, tools(tmp_path, FakeRun(makes(1, "no torch"))), dequantize=False)
    assert not [place for place in (tmp_path / "cache" / "weights").iterdir() if is_whole(place)]
    assert (await fetch_weights(spec, tools(tmp_path, FakeRun(makes())), dequantize=False)).path.is_dir()


async def test_a_recipe_that_was_killed_is_told_so(spec: ModelSpec, tmp_path: Path) -> None:
    """Mostly for want of memory."""
    with pytest.raises(WeightsError, match="was killed"):
        await fetch_weights(spec, tools(tmp_path, FakeRun(makes(137))), dequantize=False)


async def test_a_recipe_that_is_missing_is_told_before_anything_is_made(spec: ModelSpec, tmp_path: Path) -> None:
    """With the field to correct."""
    (tmp_path / "programs" / "make.py").unlink()
    run = FakeRun(makes())
    with pytest.raises(WeightsError, match="is no program") as caught:
        await fetch_weights(spec, tools(tmp_path, run), dequantize=False)
    assert "source.recipe" in (caught.value.hint or "")
    assert run.commands == []
