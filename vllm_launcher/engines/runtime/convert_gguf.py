"""Turn a GGUF file into a checkpoint that vLLM loads on a CPU. Runs in the engine's environment.

``python convert_gguf.py FILE.gguf TARGET_FOLDER DTYPE``; prints lines of JSON, ``{"done": 12, "total": 272}``.

vLLM's GGUF kernels need CUDA, so on a CPU the weights are dequantized once, by transformers
(https://huggingface.co/docs/transformers/gguf). The tokenizer and the chat template come out of the file too.
"""

# ruff: noqa: INP001 - a script, no part of a package

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, modeling_gguf_pytorch_utils

SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""What llama.cpp splits into single digits before everything else, and transformers 5.19 does not (llama.cpp's
src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM and those beside it): "  1" is two spaces and a digit to them."""


def main() -> None:
    """Convert one file."""
    source, target, dtype = Path(sys.argv[1]), Path(sys.argv[2]), getattr(torch, sys.argv[3])
    read_once()
    modeling_gguf_pytorch_utils.tqdm = told
    load_tokenizer(source).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)


def read_once() -> None:
    """Keep what is read: transformers opens the file three times and maps its names once for every module."""
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)


def told(tensors: Sequence[Any], **_options: object) -> Iterator[Any]:
    """Stands in for transformers' progress bar over the tensors: the same, as lines of JSON."""
    for done, tensor in enumerate(tensors):
        tell(done, len(tensors))
        yield tensor
    tell(len(tensors), len(tensors))


def tell(done: int, total: int) -> None:
    """One line of progress."""
    print(json.dumps({"done": done, "total": total}), flush=True)  # noqa: T201 - the protocol


def load_tokenizer(source: Path) -> Any:
    """The file's tokenizer, which splits its input as the file says."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    kind = gguf.GGUFReader(str(source)).get_field("tokenizer.ggml.pre")
    if kind is not None and kind.contents() in SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    return tokenizer


if __name__ == "__main__":
    main()
