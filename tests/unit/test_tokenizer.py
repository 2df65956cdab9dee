"""The tokenizer a GGUF is served with lies on this machine before its server starts."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.fetching import FakeRun, OnLine, tools
from vllm_launcher.fetching.tokenizer import expected_tokenizer, fetch_tokenizer, needs_tokenizer
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.planning.planned import PlannedServer
from vllm_launcher.processes.process import Launch
from vllm_launcher.registry.entries import ModelSpec


def gguf(tokenizer: str | None = "Qwen/Qwen3-8B", model: str = "m") -> ModelSpec:
    """A GGUF and what its source says of the tokenizer."""
    source = {"type": "hub", "repo": "Qwen/Qwen3-8B-GGUF", "file": "Q4.gguf", "tokenizer": tokenizer}
    return ModelSpec.model_validate({"id": model, "source": source})


async def hub(launch: Launch, say: OnLine) -> int:
    """Plays the download."""
    await asyncio.to_thread(Path(launch.argv[-1], "tokenizer.json").write_text, "{}")
    say('{"done": 2}')
    return 0


async def gone(_launch: Launch, say: OnLine) -> int:
    """Plays a hub that does not know the repository."""
    say('{"failure": {"reason": "There is no repository.", "hint": "Correct source.repo.", "permanent": true}}')
    return 1


async def test_the_small_files_of_the_base_model_are_fetched_once_for_all_models(tmp_path: Path) -> None:
    """A named file brings what stands beside it and no weights; the plan knows the place before."""
    run = FakeRun(hub)
    first = await fetch_tokenizer(gguf(), tools(tmp_path, run))
    second = await fetch_tokenizer(gguf(model="other"), tools(tmp_path, run))
    assert (first / "tokenizer.json").exists()
    assert first == second == expected_tokenizer(gguf(), tools(tmp_path, run).settings)
    (command,) = run.commands
    assert '"repo":"Qwen/Qwen3-8B","revision":null,"file":"tokenizer_config.json"' in command[-2]


async def test_a_tokenizer_on_this_machine_stays_where_it_is(tmp_path: Path) -> None:
    """Nothing is run for it."""
    run = FakeRun(hub)
    assert await fetch_tokenizer(gguf(str(tmp_path)), tools(tmp_path, run)) == tmp_path
    assert run.commands == []


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ("/no/such/folder", "The tokenizer of m: /no/such/folder is no folder. Correct source.tokenizer."),
        ("not a name", "The tokenizer of m: 'not a name' is neither a hub id nor an absolute path. Correct"),
        ("Qwen/None", "The tokenizer of m: There is no repository. Correct source.tokenizer."),
    ],
)
async def test_a_tokenizer_that_cannot_be_had_is_told_as_one(tmp_path: Path, tokenizer: str, said: str) -> None:
    """By the field that named it."""
    with pytest.raises(WeightsError) as told:
        await fetch_tokenizer(gguf(tokenizer), tools(tmp_path, FakeRun(gone)))
    assert said in str(told.value)


def test_only_a_tokenizer_that_the_plan_took_from_the_source_is_fetched() -> None:
    """One that flags name is the entry's own affair, and a dequantized GGUF has its own."""
    assert needs_tokenizer(gguf(), PlannedServer("m", "vllm-cuda", flags={"tokenizer": "Qwen/Qwen3-8B"}))
    assert not needs_tokenizer(gguf(), PlannedServer("m", "vllm-cuda", flags={"tokenizer": "/mine"}))
    assert not needs_tokenizer(gguf(), PlannedServer("m", "vllm-cpu"))
    assert not needs_tokenizer(gguf(None), PlannedServer("m", "vllm-cuda"))
