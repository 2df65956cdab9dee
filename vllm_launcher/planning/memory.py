"""How much memory a server takes: weights, KV cache, activations, and the engine itself.

Checked against published figures in docs/planning.md. Sizes are bytes, lengths are tokens.
"""

from dataclasses import dataclass

from vllm_launcher.planning.model_facts import ModelFacts
from vllm_launcher.planning.planned import GIB, MIB

CPU_PROCESSES = int(1.35 * GIB)
"""Three processes that have imported torch and vLLM, measured: 1.3-1.4 GiB together whatever the model."""

CUDA_CONTEXT = 600 * MIB
"""CUDA context, cuBLAS workspace and allocator slack of one worker."""

NCCL = 400 * MIB
"""Buffers of one worker that talks to others."""

BLOCK = 16
"""Tokens of a KV cache block on a GPU: a window touches one more block than it fills."""


@dataclass(frozen=True, slots=True)
class Split:
    """How a model is cut: ``tensor`` ways inside each layer, ``pipeline`` ways between layers."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def gpus(self) -> int:
        """GPUs one replica takes."""
        return self.tensor * self.pipeline


WHOLE = Split()


def weights_per_device(facts: ModelFacts, split: Split = WHOLE, dtype_bytes: int = 2) -> int:
    """The largest part's weights: of a pipeline, the stage that also holds an embedding."""
    total = facts.weights(dtype_bytes)
    embedding = min(facts.embedding_parameters * dtype_bytes, total)
    layers = max(0, total - embedding)
    held = embedding if split.pipeline == 1 else embedding / 2
    return int((layers * _longest_stage(facts, split) + held) / split.tensor)


def cache_bytes(facts: ModelFacts, tokens: int, split: Split = WHOLE, dtype_bytes: int = 2) -> int:
    """KV cache of one request of ``tokens`` on one device.

    Grouped heads share keys and values (GQA); a compressed cache (MLA) is one vector a token, and every device of
    a tensor-parallel group holds all of it; layers with a sliding window keep the window only.
    """
    width = facts.latent or 2 * facts.head_dim * max(1, -(-facts.kv_heads // split.tensor))
    full = facts.kv_layers * tokens
    windowed = facts.window_layers * min(tokens, facts.window + BLOCK)
    return int((full + windowed) * _longest_stage(facts, split) * width * dtype_bytes)


def token_bytes(facts: ModelFacts, split: Split = WHOLE, dtype_bytes: int = 2) -> int:
    """KV cache of one more token of a long request."""
    width = facts.latent or 2 * facts.head_dim * max(1, -(-facts.kv_heads // split.tensor))
    return max(1, int(facts.kv_layers * width * dtype_bytes * _longest_stage(facts, split)))


def activation_bytes(facts: ModelFacts, batched_tokens: int, sequences: int, split: Split = WHOLE) -> int:
    """Peak of a forward pass of ``batched_tokens``: the widest layer's intermediates, and the logits.

    Intermediates in 2 bytes: a residual stream and its copy, and the gate and up products of the feed-forward part
    (of a mixture, of all experts a token goes to). Logits of every sequence in float32, twice: vLLM's profile run
    samples with the whole batch.
    """
    width = 4 * facts.hidden + 3 * _feed_forward_width(facts) / split.tensor
    logits = 2 * 4 * sequences * facts.vocabulary
    vision = 2 * 4 * batched_tokens * facts.hidden if facts.vision_parameters else 0
    return int(2 * batched_tokens * width + logits + vision)


def overhead_bytes(facts: ModelFacts, sequences: int, split: Split = WHOLE, *, graphs: bool = True) -> int:
    """The engine itself on one GPU: CUDA context, communication, captured graphs."""
    captured = graph_bytes(facts, sequences, split) if graphs else 0
    return CUDA_CONTEXT + (NCCL if split.gpus > 1 else 0) + captured


def graph_bytes(facts: ModelFacts, sequences: int, split: Split = WHOLE) -> int:
    """CUDA graphs of decode batches up to 512: their number grows with the sequences, their size with the layers."""
    sizes = min(51, 3 + sequences // 8)
    layers = facts.layers / split.pipeline
    return int(sizes * layers * 0.35 * MIB)


def _longest_stage(facts: ModelFacts, split: Split) -> float:
    """The share of the layers that the fullest stage of a pipeline holds."""
    return -(-facts.layers // split.pipeline) / facts.layers


def _feed_forward_width(facts: ModelFacts) -> int:
    if not facts.experts:
        return facts.intermediate
    per_token = (facts.active - facts.embedding_parameters) / max(1, facts.layers) / facts.hidden / 3
    return int(per_token)
