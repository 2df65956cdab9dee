"""Complete a folder with a config of a GLM-4V family into a checkpoint: a tokenizer, and weights that are random.

``python make.py FOLDER`` in the engine's environment; prints lines of JSON, ``{"done": 1, "total": 2}``. The folder
holds ``config.json`` and what belongs to it. The same folder gives the same checkpoint, byte for byte.

It proves a path (upload, image processor, both GLM-4V architectures on vLLM, streaming), not a model: whatever it is
asked, it answers with words that mean nothing. The figures are drawn wide enough that what it says depends on what it
sees.
"""

# ruff: noqa: INP001 - a script, no part of a package

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText

SPECIAL = (
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>"),
)
"""GLM's special tokens. Their ids are their places here, and the config names them."""
UNKNOWN = "<unk>"
SPREAD = 0.08
"""Standard deviation of a weight: four times that of a fresh model, so that an image moves the answer."""
SEED = 4

Weights = dict[str, torch.Tensor]


def main() -> None:
    """Complete one folder."""
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(SEED)
    tell(0)
    make_tokenizer(folder, (config.get("text_config") or config)["vocab_size"])
    tell(1)
    weights = chatglm_weights(config) if config["model_type"] == "chatglm" else transformers_weights(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tell(2)


def tell(done: int) -> None:
    """One line of progress."""
    print(json.dumps({"done": done, "total": 2}), flush=True)  # noqa: T201 - the protocol


# --- the tokenizer -------------------------------------------------------------------------


def make_tokenizer(folder: Path, size: int) -> None:
    """Learn byte pairs from the README beside this file, in the letters of a keyboard alone: so answers can be read."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True) for name in (*SPECIAL, UNKNOWN)]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=keyboard(), show_progress=False
    )
    tokenizer.train_from_iterator([(Path(__file__).parent / "README.md").read_text(encoding="ascii")], trainer)
    if tokenizer.get_vocab_size() != size:
        raise SystemExit(f"The README is too short: {tokenizer.get_vocab_size()} tokens, and the config wants {size}.")
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "unk_token": UNKNOWN,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "processor_class": "Glm4vProcessor",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def keyboard() -> list[str]:
    """Printable ASCII and the line's end, as the byte-level alphabet writes them."""
    written = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
        "".join(map(chr, range(32, 127))) + "\n"
    )
    return sorted({letter for piece, _ in written for letter in piece})


# --- the weights ---------------------------------------------------------------------------


def transformers_weights(folder: Path) -> Weights:
    """GLM-4.1V: the model is transformers' own, which knows its tensors."""
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    named = ((name, tensor.shape) for name, tensor in model.state_dict().items())
    return {name: filled(name, tuple(shape)) for name, shape in named}


def chatglm_weights(config: Mapping[str, Any]) -> Weights:
    """glm-4v-9b: its model is code of its own repository, so its tensors are listed here."""
    return {name: filled(name, shape) for name, shape in chatglm_shapes(config)}


def filled(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Ones where a norm scales, zeros where something is added, else random."""
    if "norm" in name:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    return torch.randn(shape) * SPREAD


Shapes = Iterator[tuple[str, tuple[int, ...]]]


def chatglm_shapes(config: Mapping[str, Any]) -> Shapes:
    """The tensors of glm-4v-9b by the names its checkpoint has."""
    hidden, vocabulary = config["hidden_size"], config["padded_vocab_size"]
    yield "transformer.embedding.word_embeddings.weight", (vocabulary, hidden)
    for layer in range(config["num_layers"]):
        yield from _below(f"transformer.encoder.layers.{layer}", text_layer(config))
    yield "transformer.encoder.final_layernorm.weight", (hidden,)
    yield "transformer.output_layer.weight", (vocabulary, hidden)
    yield from _below("transformer.vision", vision_shapes(config))


def _below(prefix: str, shapes: Shapes) -> Shapes:
    return ((f"{prefix}.{name}", shape) for name, shape in shapes)


def text_layer(config: Mapping[str, Any]) -> Shapes:
    """A layer of the language model."""
    hidden, wide, head = config["hidden_size"], config["ffn_hidden_size"], config["kv_channels"]
    queries = config["num_attention_heads"] * head
    together = queries + 2 * config["multi_query_group_num"] * head
    yield "input_layernorm.weight", (hidden,)
    yield "self_attention.query_key_value.weight", (together, hidden)
    yield "self_attention.query_key_value.bias", (together,)
    yield "self_attention.dense.weight", (hidden, queries)
    yield "post_attention_layernorm.weight", (hidden,)
    yield "mlp.dense_h_to_4h.weight", (2 * wide, hidden)
    yield "mlp.dense_4h_to_h.weight", (hidden, wide)


def vision_shapes(config: Mapping[str, Any]) -> Shapes:
    """EVA2-CLIP and the projection behind it."""
    vision, hidden, wide = config["vision_config"], config["hidden_size"], config["ffn_hidden_size"]
    inner, patch = vision["hidden_size"], vision["patch_size"]
    yield "patch_embedding.cls_embedding", (1, inner)
    yield "patch_embedding.proj.weight", (inner, vision["in_channels"], patch, patch)
    yield "patch_embedding.proj.bias", (inner,)
    yield "patch_embedding.position_embedding.weight", (vision["num_positions"], inner)
    for layer in range(vision["num_hidden_layers"]):
        yield from _below(f"transformer.layers.{layer}", vision_layer(inner, vision["intermediate_size"]))
    yield "conv.weight", (hidden, inner, 2, 2)
    yield "conv.bias", (hidden,)
    yield "linear_proj.linear_proj.weight", (hidden, hidden)
    yield "linear_proj.norm1.weight", (hidden,)
    yield "linear_proj.norm1.bias", (hidden,)
    yield "linear_proj.dense_h_to_4h.weight", (wide, hidden)
    yield "linear_proj.gate_proj.weight", (wide, hidden)
    yield "linear_proj.dense_4h_to_h.weight", (hidden, wide)
    yield "boi", (1, 1, hidden)
    yield "eoi", (1, 1, hidden)


def vision_layer(inner: int, wide: int) -> Shapes:
    """A layer of EVA2-CLIP; every matrix has a bias."""
    matrices = {
        "attention.query_key_value": (3 * inner, inner),
        "attention.dense": (inner, inner),
        "mlp.fc1": (wide, inner),
        "mlp.fc2": (inner, wide),
    }
    for name, shape in matrices.items():
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{norm}.weight", (inner,)
        yield f"{norm}.bias", (inner,)


if __name__ == "__main__":
    main()
