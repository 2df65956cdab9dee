"""Which ways of cutting a model over GPUs vLLM can run. Pure.

Tensor parallelism cuts attention heads, the vocabulary and, where weights are quantized in groups, whole groups:
each has to divide. Pipeline parallelism cuts between layers and needs only enough of them.
"""

from collections.abc import Iterator

from vllm_launcher.planning.memory import Split
from vllm_launcher.planning.model_facts import ModelFacts

VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of it before dividing."""

GROUPED = {"awq": 128, "gptq": 128, "fp8": 128}
"""Weights that share one scale: a cut through such a group has no kernel."""


def splits(facts: ModelFacts, gpus: int, *, pipeline: bool) -> Iterator[Split]:
    """Every split over at most ``gpus`` equal GPUs, the preferred first.

    Fewer GPUs before more, and tensor parallelism before pipelines: a pipeline of one request keeps all but one
    stage idle. Pipelines take the largest tensor-parallel size inside each stage.
    """
    tensors = [tensor for tensor in range(1, gpus + 1) if divides(facts, tensor)]
    yield from (Split(tensor) for tensor in tensors)
    if pipeline:
        staged = [
            Split(tensor, stages)
            for tensor in tensors
            for stages in range(2, gpus // tensor + 1)
            if stages <= facts.layers
        ]
        yield from sorted(staged, key=lambda split: (split.gpus, -split.tensor))


def divides(facts: ModelFacts, tensor: int) -> bool:
    """Whether vLLM can cut the model's layers so many ways."""
    return not obstacles(facts, tensor)


def obstacles(facts: ModelFacts, tensor: int) -> list[str]:
    """What does not divide, in words; empty if everything does."""
    found: list[str] = []
    if facts.heads % tensor:
        found.append(f"{facts.heads} attention heads")
    if not facts.latent and facts.kv_heads % tensor and tensor % facts.kv_heads:
        found.append(f"{facts.kv_heads} key-value heads")
    padded = -(-facts.vocabulary // VOCABULARY_PADDING) * VOCABULARY_PADDING
    if padded % tensor:
        found.append(f"a vocabulary of {padded}")
    group = GROUPED.get(facts.quantization or "", 1)
    width = facts.expert_width or facts.intermediate
    if width % (tensor * group):
        words = f" in groups of {group}" if group > 1 else ""
        found.append(f"a feed-forward width of {width}{words}")
    return found
