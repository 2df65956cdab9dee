"""A ``config.json`` of the transformers library as facts: shapes, parameters, caches, quantization. Pure."""

import math
from collections.abc import Mapping
from typing import Any, cast

from vllm_launcher.planning.model_facts import ModelFacts

Json = Mapping[str, Any]


def read_config(config: Json, origin: str) -> ModelFacts:
    """A ``config.json`` of the transformers library as facts.

    Parameters are counted from the shapes: exact for the decoders vLLM serves up to norms and biases, close for the
    vision parts.

    Raises:
        KeyError, TypeError: something a decoder cannot do without is missing.
    """
    text: Json = {**config, **(config.get("text_config") or {})}
    layers = int(_first(text, "num_hidden_layers", "num_layers", "n_layer"))
    heads = int(_first(text, "num_attention_heads", "n_head"))
    hidden = int(_first(text, "hidden_size", "n_embd"))
    window_layers, window = _windows(text, layers)
    per_layer = _Shapes(text, layers, heads, hidden)
    vision = _vision_parameters(config.get("vision_config"))
    vocabulary = int(_first(text, "vocab_size", "padded_vocab_size"))
    embeddings = vocabulary * hidden * (1 if _tied(config, text) else 2)
    quantization, bits = _quantization(config)
    return ModelFacts(
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        origin=origin,
        parameters=embeddings + per_layer.total() + vision,
        active=embeddings + per_layer.total(active=True) + vision,
        embedding_parameters=embeddings,
        vision_parameters=vision,
        dtype=str(text.get("dtype") or text.get("torch_dtype") or "bfloat16"),
        quantization=quantization,
        bits=bits,
        layers=layers,
        heads=heads,
        kv_heads=per_layer.kv_heads,
        head_dim=per_layer.head_dim,
        hidden=hidden,
        intermediate=per_layer.intermediate,
        vocabulary=vocabulary,
        context=int(_first(text, "max_position_embeddings", "seq_length", "n_positions", default=2048)),
        experts=per_layer.experts,
        expert_width=per_layer.expert_width if per_layer.experts else 0,
        kv_layers=_caching_layers(text, layers) - window_layers,
        window_layers=window_layers,
        window=window,
        latent=int(text.get("kv_lora_rank") or 0) + int(text.get("qk_rope_head_dim") or 0)
        if text.get("kv_lora_rank")
        else 0,
        remote_code="auto_map" in config and str(config.get("model_type")) in REMOTE_CODE,
    )


REMOTE_CODE = frozenset({"chatglm"})
"""Model types whose tokenizer or config is code in the repository itself."""


class _Shapes:
    """Parameters of the layers of a decoder, or of a BERT."""

    def __init__(self, text: Json, layers: int, heads: int, hidden: int) -> None:
        self.text, self.layers, self.heads, self.hidden = text, layers, heads, hidden
        self.head_dim = int(_first(text, "head_dim", "kv_channels", default=hidden // heads))
        self.kv_heads = int(_first(text, "num_key_value_heads", "multi_query_group_num", default=heads))
        self.intermediate = int(_first(text, "intermediate_size", "ffn_hidden_size", default=4 * hidden))
        self.expert_width = int(_first(text, "moe_intermediate_size", default=self.intermediate))
        self.experts = int(_first(text, "num_local_experts", "num_experts", "n_routed_experts", default=0))

    def total(self, *, active: bool = False) -> int:
        dense = min(int(_first(self.text, "first_k_dense_replace", default=0)), self.layers) if self.experts else 0
        mixed = self.layers - dense if self.experts else 0
        plain = self.layers - mixed
        return (
            self.layers * self.attention()
            + plain * self.feed_forward(self.intermediate)
            + mixed * self.mixture(active=active)
        )

    def attention(self) -> int:
        if self.text.get("kv_lora_rank"):
            return self.latent_attention()
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    def latent_attention(self) -> int:
        rank, rope = int(self.text["kv_lora_rank"]), int(self.text["qk_rope_head_dim"])
        plain, value = int(self.text["qk_nope_head_dim"]), int(self.text["v_head_dim"])
        query_rank = int(self.text.get("q_lora_rank") or 0)
        query = self.heads * (plain + rope)
        queries = query_rank * (self.hidden + query) if query_rank else self.hidden * query
        keys = self.hidden * (rank + rope) + rank * self.heads * (plain + value)
        return queries + keys + self.heads * value * self.hidden

    def feed_forward(self, width: int) -> int:
        matrices = 2 if str(self.text.get("model_type")) in ("bert", "xlm-roberta") else 3
        return matrices * self.hidden * width

    def mixture(self, *, active: bool) -> int:
        used = int(_first(self.text, "num_experts_per_tok", default=2)) if active else self.experts
        shared = int(_first(self.text, "n_shared_experts", default=0))
        return (used + shared) * self.feed_forward(self.expert_width) + self.hidden * self.experts


def _vision_parameters(vision: Any) -> int:
    if not isinstance(vision, dict):
        return 0
    config = cast("Json", vision)
    hidden = int(_first(config, "hidden_size", "embed_dim", default=0))
    depth = int(_first(config, "depth", "num_hidden_layers", default=0))
    gated = str(config.get("model_type")) in GATED_VISION
    width = int(_first(config, *(("out_hidden_size",) if gated else ()), "intermediate_size", default=4 * hidden))
    return depth * (4 * hidden * hidden + (3 if gated else 2) * hidden * width)


GATED_VISION = frozenset({"glm4v", "glm4v_vision", "glm4v_moe", "glm4v_moe_vision"})
"""Vision parts whose layers have three matrices as wide as the language model."""


def _windows(text: Json, layers: int) -> tuple[int, int]:
    """Layers with a sliding window, and its tokens."""
    window = text.get("sliding_window")
    if not window or text.get("use_sliding_window") is False:
        return 0, 0
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        return kinds.count("sliding_attention"), int(window)  # pyright: ignore[reportUnknownMemberType]
    pattern = text.get("sliding_window_pattern")
    return (layers - layers // int(pattern) if pattern else layers), int(window)


def _caching_layers(text: Json, layers: int) -> int:
    """Layers with keys and values; linear-attention layers keep a small state instead."""
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        return len(kinds) - kinds.count("linear_attention")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    interval = text.get("full_attention_interval")
    return math.ceil(layers / int(interval)) if interval else layers


def _quantization(config: Json) -> tuple[str | None, float]:
    """The method a checkpoint is quantized by, and its bits a weight, scales included."""
    text: Json = config.get("text_config") or {}
    quantization: Json = config.get("quantization_config") or text.get("quantization_config") or {}
    if not quantization:
        return None, 16
    method = str(quantization.get("quant_method", "unknown"))
    if method == "bitsandbytes":
        return method, 4.5 if quantization.get("load_in_4bit", quantization.get("_load_in_4bit")) else 8
    if method == "fp8":
        return method, 8
    if method == "mxfp4":
        return method, 4.25
    bits = float(quantization.get("bits") or quantization.get("w_bit") or _compressed_bits(quantization))
    group = int(quantization.get("group_size") or 128)
    return method, bits + (20 / group if group > 0 and bits < 8 else 0)  # noqa: PLR2004 - a 16-bit scale, a 4-bit zero


def _compressed_bits(quantization: Json) -> float:
    groups: Json = quantization.get("config_groups") or {}
    return float(next((group["weights"]["num_bits"] for group in groups.values()), 8))


def _tied(config: Json, text: Json) -> bool:
    if str(config.get("model_type")) in ("bert", "xlm-roberta"):
        return True
    return bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))


def _first(config: Json, *names: str, default: int | None = None) -> Any:
    for name in names:
        if config.get(name) is not None:
            return config[name]
    if default is None:
        raise KeyError(names[0])
    return default
