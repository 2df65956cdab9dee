"""SmolLM2's chain: its system prompt and the conversation, then the model."""

import os
from collections.abc import Mapping
from typing import Any, cast

from chat_vllm import ChatVLLM, chat_prompt, configurable
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""SmolLM2's own, as its chat template writes it where a conversation has none."""


def build_chain(
    llm: Runnable[LanguageModelInput, AIMessage],
    *,
    system_prompt: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Runnable[Any, AIMessage]:
    """A prompt and a chat model in sequence.

    Args:
        llm: A chat model, or one whose sampling is ``chat_vllm.configurable``.
        system_prompt: A template; SmolLM2's own if None. A conversation that begins with a system message of its own
            goes without.
        variables: Values for the template's variables.

    Returns:
        A runnable from any form of ``chat_vllm.ChatInput`` to an ``AIMessage``.
    """
    prompt = chat_prompt(SYSTEM_PROMPT if system_prompt is None else system_prompt, variables)
    return cast("Runnable[Any, AIMessage]", prompt | llm)


chain = build_chain(
    configurable(
        ChatVLLM(
            model=os.environ.get("VLLM_MODEL", "smollm2"),  # noqa: TID251  # a template has no other settings
            base_url=os.environ.get("VLLM_BASE_URL", "http://127.0.0.1:8100/v1"),  # noqa: TID251
            temperature=0.2,
            top_p=0.9,
            max_tokens=512,
        )
    )
)
"""The chain on a server named by ``VLLM_BASE_URL`` and ``VLLM_MODEL``: what LangServe and langchain-cli serve."""
