"""Turn a GGUF file into a checkpoint that vLLM loads on a CPU. Runs in the engine's environment.

``python convert_gguf.py FILE.gguf TARGET_FOLDER DTYPE``; prints lines of JSON, ``{"done": 12, "total": 272}``.

vLLM's GGUF kernels need CUDA, so on a CPU the weights are dequantized once, by transformers
(https://huggingface.co/docs/transformers/gguf). The tokenizer and the chat template come out of the file too.
"""

import json
import sys
from pathlib import Path

import torch
import tqdm
import tqdm.auto
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


class Reported(tqdm.tqdm):
    """transformers' own progress bar, as lines of JSON."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{**kwargs, "disable": False, "file": NOWHERE})

    def display(self, *_args: object, **_kwargs: object) -> None:
        """Print where a bar would be drawn."""
        if self.total and self.unit == "it":
            print(json.dumps({"done": self.n, "total": int(self.total)}), flush=True)  # noqa: T201 - the protocol


class Nowhere:
    """A file that forgets."""

    def write(self, _text: str) -> None:
        """Forget."""

    def flush(self) -> None:
        """Nothing is kept."""


NOWHERE = Nowhere()


def main() -> None:
    """Convert one file."""
    source, target, dtype = Path(sys.argv[1]), Path(sys.argv[2]), getattr(torch, sys.argv[3])
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)


if __name__ == "__main__":
    tqdm.tqdm = tqdm.auto.tqdm = Reported
    main()
