"""What to tell vLLM about each architecture: parsers, and what a family cannot do.

vLLM names tool-call and reasoning parsers by model family and guesses neither. The names are those that
vLLM 0.32 registers (``vllm/tool_parsers``, ``vllm/reasoning``); a test asks its own argument parser.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_launcher.registry.entries import Flag


@dataclass(frozen=True, slots=True)
class Family:
    """How models of one architecture want to be served."""

    tools: str | None = None
    reasoning: str | None = None
    pipeline: bool = True
    flags: Mapping[str, Flag] = field(default_factory=dict[str, Flag])
    why: str = ""


GLM_4V = Family(
    flags={"hf-overrides": '{"architectures": ["GLM4VForCausalLM"]}'},
    why="its config names the text model; vLLM calls the vision one GLM4VForCausalLM",
)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(tools="llama3_json"),
    "Llama4ForConditionalGeneration": Family(tools="llama4_pythonic"),
    "MistralForCausalLM": Family(tools="mistral"),
    "Mistral3ForConditionalGeneration": Family(tools="mistral"),
    "MixtralForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(tools="hermes"),
    "Qwen2MoeForCausalLM": Family(tools="hermes"),
    "Qwen2_5_VLForConditionalGeneration": Family(tools="hermes"),
    "Qwen3ForCausalLM": Family(tools="hermes", reasoning="qwen3"),
    "Qwen3MoeForCausalLM": Family(tools="hermes", reasoning="qwen3"),
    "Qwen3NextForCausalLM": Family(tools="hermes", reasoning="qwen3"),
    "Qwen3VLForConditionalGeneration": Family(tools="hermes", reasoning="qwen3"),
    "Qwen3_5ForConditionalGeneration": Family(tools="qwen3_xml", reasoning="qwen3"),
    "Glm4ForCausalLM": Family(),
    "Glm4MoeForCausalLM": Family(tools="glm45", reasoning="glm45"),
    "Glm4vForConditionalGeneration": Family(tools="glm45", reasoning="glm45"),
    "Glm4vMoeForConditionalGeneration": Family(tools="glm45", reasoning="glm45"),
    "GLM4VForCausalLM": Family(),
    "ChatGLMModel": GLM_4V,
    "ChatGLMForConditionalGeneration": GLM_4V,
    "DeepseekV2ForCausalLM": Family(),
    "DeepseekV3ForCausalLM": Family(tools="deepseek_v3", reasoning="deepseek_r1"),
    "GptOssForCausalLM": Family(tools="openai", reasoning="openai_gptoss"),
    "Gemma3ForConditionalGeneration": Family(),
    "Phi3ForCausalLM": Family(tools="phi4_mini_json"),
    "BertModel": Family(pipeline=False),
    "XLMRobertaModel": Family(pipeline=False),
}

ENCODERS = frozenset({"BertModel", "BertForMaskedLM", "XLMRobertaModel"})
"""Architectures that read all of a text at once and cache nothing."""

GGUF_TESTED = frozenset({
    "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Phi3ForCausalLM", "GPT2LMHeadModel", "StableLmForCausalLM",
    "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "OlmoeForCausalLM",
})  # fmt: skip
"""What vllm-gguf-plugin 0.0.5 says it is tested with; a GGUF of anything else is dequantized on a GPU too."""

HERMES_BY_NAME = ("smollm", "hermes")
"""Llama-shaped models whose chat templates write tool calls the way Hermes does."""


def family_of(architecture: str, *names: Any) -> Family:
    """The family of an architecture; ``names`` are ids that tell a fine-tune with habits of its own."""
    family = FAMILIES.get(architecture, Family())
    known_by = " ".join(str(name) for name in names if name).lower()
    if architecture == "LlamaForCausalLM" and any(name in known_by for name in HERMES_BY_NAME):
        return Family(tools="hermes", reasoning=family.reasoning)
    if architecture.startswith("Qwen3") and "instruct" in known_by:
        return Family(tools=family.tools, why="an instruct model of Qwen3 does not reason aloud")
    return family
