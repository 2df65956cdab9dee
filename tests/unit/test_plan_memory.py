"""Estimates of memory agree with published figures, and models are cut only where vLLM can cut them."""

import pytest

from tests.unit.planning import known
from vllm_launcher.planning.facts import known_models, read_config
from vllm_launcher.planning.memory import WHOLE, Split, activation_bytes, cache_bytes, token_bytes, weights_per_device
from vllm_launcher.planning.planned import GIB
from vllm_launcher.planning.splits import obstacles, splits

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
DEEPSEEK = "deepseek-ai/DeepSeek-V2-Lite-Chat"
W8A8: dict[str, object] = {"quantization": "compressed-tensors", "bits": 8.0}
NF4: dict[str, object] = {"quantization": "bitsandbytes", "bits": 4.5}
Q4_K_M: dict[str, object] = {"quantization": "gguf", "bits": 4.85}

PUBLISHED_WEIGHTS: list[tuple[str, dict[str, object], Split, float]] = [
    (LLAMA_8B, {}, WHOLE, 14.9888),
    ("Qwen/Qwen3-30B-A3B", {}, Split(4), 14.2474),
    ("Qwen/Qwen3-4B", {}, WHOLE, 7.6785),
    (DEEPSEEK, {}, WHOLE, 29.3010),
    ("meta-llama/Llama-3.1-70B-Instruct", W8A8, WHOLE, 67.7229),
    ("Qwen/Qwen2.5-7B-Instruct", NF4, WHOLE, 5.2032),
    ("Qwen/Qwen3-30B-A3B", Q4_K_M, WHOLE, 17.35),
]
"""GiB that vLLM or llama.cpp logged; docs/planning.md names each source."""

PUBLISHED_CACHES = [
    (LLAMA_8B, WHOLE, 31_232, 3.81),
    (DEEPSEEK, WHOLE, 32_768, 0.95),
    ("Qwen/Qwen3-235B-A22B", Split(4), 178_880, 8.11),
]


@pytest.mark.parametrize("name", [name for name, entry in known_models().items() if "config" in entry])
def test_parameters_counted_from_a_config_are_those_published(name: str) -> None:
    """Within 2.1 %: exact for decoders, close where a vision part is counted."""
    known_entry = known_models()[name]
    counted = read_config(known_entry["config"], "test").parameters
    assert counted == pytest.approx(known_entry["parameters"], rel=0.021)


@pytest.mark.parametrize(("name", "changes", "split", "published"), PUBLISHED_WEIGHTS)
def test_weights_are_those_published(name: str, changes: dict[str, object], split: Split, published: float) -> None:
    """Within 5 %."""
    assert weights_per_device(known(name, **changes), split) / GIB == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize(("name", "split", "tokens", "published"), PUBLISHED_CACHES)
def test_caches_are_those_published(name: str, split: Split, tokens: int, published: float) -> None:
    """Within 2 %: grouped heads, a compressed cache (MLA), one key-value head a GPU."""
    assert cache_bytes(known(name), tokens, split) / GIB == pytest.approx(published, rel=0.02)


def test_activations_are_a_little_more_than_published() -> None:
    """Llama 3.1 8B, 29,000 tokens in one batch: 2.99 GiB published; an estimate below that would not start."""
    estimate = activation_bytes(known(LLAMA_8B), 29_000, 256) / GIB
    assert 2.99 <= estimate <= 2.99 * 1.25


def test_a_compressed_cache_is_whole_on_every_gpu_of_a_group() -> None:
    """Tensor parallelism does not divide it."""
    facts = known(DEEPSEEK)
    assert cache_bytes(facts, 1000, Split(4)) == cache_bytes(facts, 1000)


def test_key_value_heads_are_copied_where_there_are_more_gpus_than_heads() -> None:
    """GLM-4.1V has two: eight GPUs hold as much each as two."""
    facts = known("zai-org/GLM-4.1V-9B-Thinking")
    assert cache_bytes(facts, 1000, Split(8)) == cache_bytes(facts, 1000, Split(2))


def test_layers_with_a_window_keep_the_window_only() -> None:
    """Of Gemma's 48 layers 40 see 1,024 tokens: a long request costs a sixth of what 48 full layers would."""
    facts = known("google/gemma-3-12b-it")
    full = facts.model_copy(update={"kv_layers": 48, "window_layers": 0})
    assert cache_bytes(facts, 131_072) < cache_bytes(full, 131_072) / 5
    assert token_bytes(facts) * 6 == token_bytes(full)


def test_a_pipeline_stage_is_as_heavy_as_its_longest() -> None:
    """Thirty layers over four stages: eight in the longest."""
    facts = known("HuggingFaceTB/SmolLM2-135M-Instruct", layers=30)
    assert cache_bytes(facts, 1000, Split(1, 4)) == cache_bytes(facts, 1000) * 8 // 30


def test_heads_that_do_not_divide_are_named() -> None:
    """SmolLM2 has nine heads and three for keys and values: two GPUs cannot share them, three can."""
    facts = known("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert obstacles(facts, 2) == ["9 attention heads", "3 key-value heads"]
    assert obstacles(facts, 3) == []


def test_a_vocabulary_that_does_not_divide_is_an_obstacle() -> None:
    """Twelve heads divide by three; Qwen2.5's vocabulary does not."""
    facts = known("Qwen/Qwen2.5-Coder-1.5B-Instruct", kv_heads=3)
    assert obstacles(facts, 3) == ["a vocabulary of 151936", "a feed-forward width of 8960"]


def test_experts_quantized_in_groups_are_cut_between_groups_only() -> None:
    """Experts of Qwen3-30B-A3B are 768 wide: six groups of 128, so two GPUs but not four."""
    facts = known("Qwen/Qwen3-30B-A3B", quantization="fp8")
    assert obstacles(facts, 2) == []
    assert obstacles(facts, 4) == ["a feed-forward width of 768 in groups of 128"]


def test_tensor_parallelism_comes_before_pipelines() -> None:
    """Fewest GPUs first; pipelines only after every pure tensor-parallel size."""
    order = list(splits(known("Qwen/Qwen3-8B"), 4, pipeline=True))
    pipelines = [Split(1, 2), Split(1, 3), Split(2, 2), Split(1, 4)]
    assert order == [Split(1), Split(2), Split(4), *pipelines]


def test_a_family_without_pipelines_is_not_cut_between_layers() -> None:
    """Encoders have no pipeline implementation."""
    assert all(split.pipeline == 1 for split in splits(known("Qwen/Qwen3-8B"), 8, pipeline=False))
