"""The comparison with a real vLLM: what is read of ``vllm bench serve``, and the tables made of it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from bench.ratio import BenchError, Pipeline, Result, Runs, Way, order, pipeline_table, ratio_table, read_result
from bench.vllm import Load, Place, arguments_of, models_of

SAID: dict[str, Any] = {
    "completed": 16,
    "failed": 0,
    "total_output_tokens": 512,
    "duration": 6.4,
    "output_throughput": 80.0,
    "median_ttft_ms": 120.5,
    "median_tpot_ms": 95.25,
    "max_concurrency": 8,
}
"""Some of what vLLM 0.32 writes."""


def test_a_result_is_read_as_vllm_writes_it() -> None:
    """Speed of all streams together, and medians of times."""
    read = read_result(json.dumps(SAID), 16, 32)
    assert read == Result(requests=16, tokens=512, seconds=6.4, speed=80.0, first=120.5, between=95.25)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"failed": 2, "completed": 14}, "14 of 16 requests were answered, 2 failed"),
        ({"completed": 15}, "15 of 16"),
        ({"total_output_tokens": 500}, "500 tokens came, 512 were asked for"),
    ],
)
def test_a_run_that_measured_something_else_is_refused(changed: dict[str, int], words: str) -> None:
    """Answers that failed or ended early would look fast."""
    with pytest.raises(BenchError, match=words):
        read_result(json.dumps({**SAID, **changed}), 16, 32)


def runs(*speeds: float, cpu: float = 0) -> Runs:
    """What runs of these speeds gave."""
    return Runs([Result(4, 128, 128 / speed, speed, 100, 30) for speed in speeds], [cpu] * len(speeds))


COMPARED: dict[int, dict[Way, Runs]] = {
    16: {"direct": runs(90, 110), "chain": runs(99, 97, cpu=210.4), "raw": runs(100, 100, cpu=190)}
}


def test_the_ratio_stands_beside_what_two_runs_of_the_same_differ_by() -> None:
    """A ratio within that range says nothing against the app."""
    assert ratio_table(COMPARED).splitlines()[2] == (
        "| 16 | 100 | 0.90 to 1.10 | 0.98 (0.88 to 1.10) | 210 | 1.00 (0.91 to 1.11) | 190 | 100, 100, 100 |"
    )


def test_the_pipeline_stands_beside_the_chain_through_the_app() -> None:
    """How many times as many tokens, and the memory of both; of a vLLM that was there before nobody knows it."""
    pipeline = {16: Pipeline(20, 900 * 2**20)}
    assert pipeline_table(COMPARED, {16: 3000 * 2**20}, pipeline).splitlines()[2] == (
        "| 16 | 20.0 | 98.0 | 4.9 | 900 | 3000 |"
    )
    assert pipeline_table(COMPARED, {}, pipeline).endswith("| 900 | not known |")


def test_every_way_is_asked_there_and_back() -> None:
    """So that a machine that gets slower favours nobody."""
    assert order(1) == ["direct", "chain", "raw", "raw", "chain", "direct"]


@pytest.mark.parametrize(
    ("way", "base", "model"),
    [
        ("direct", "http://127.0.0.1:9000", "served"),
        ("chain", "http://127.0.0.1:8000", "smollm2"),
        ("raw", "http://127.0.0.1:8000", "smollm2:raw"),
    ],
)
def test_each_way_asks_the_same_of_another_place(way: Way, base: str, model: str) -> None:
    """The questions are made from one seed, so every way gets the same."""
    place = Place(8000, [], "http://127.0.0.1:9000", "served", "python", "/weights", None)
    made = arguments_of(place, way, Load(8, 16, 32), Path("/tmp/result.json"))  # noqa: S108 -- nothing is written
    told = dict(itertools.pairwise(made))
    assert (told["--base-url"], told["--model"]) == (base, model)
    assert (told["--num-prompts"], told["--max-concurrency"], told["--random-output-len"]) == ("16", "8", "32")


def test_alone_it_starts_the_model_of_the_checkout() -> None:
    """And in front of a running engine a chain with no server of its own."""
    own = models_of(None)["models"]
    assert [(entry["id"], entry["engine"]) for entry in own] == [("smollm2", {"type": "vllm"})]
    other = models_of("http://127.0.0.1:9000/")["models"]
    assert other[0]["engine"] == {"type": "external", "url": "http://127.0.0.1:9000/v1"}
