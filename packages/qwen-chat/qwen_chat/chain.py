"""Qwen3's chain: an optional system prompt and the conversation, then the model, which may think first."""

import os
from collections.abc import Mapping
from typing import Any, cast

from chat_vllm import ChatVLLM, chat_prompt, configurable
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable


def build_chain(
    llm: Runnable[LanguageModelInput, AIMessage],
    *,
    system_prompt: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Runnable[Any, AIMessage]:
    """A prompt and a chat model in sequence.

    Args:
        llm: A chat model, or one whose sampling is ``chat_vllm.configurable``.
        system_prompt: A template; None: none, as Qwen3 does without one. A conversation that begins with a system
            message of its own goes without.
        variables: Values for the template's variables.

    Returns:
        A runnable from any form of ``chat_vllm.ChatInput`` to an ``AIMessage``. What the model thought stands apart
        from its answer, in ``additional_kwargs["reasoning_content"]``.
    """
    return cast("Runnable[Any, AIMessage]", chat_prompt(system_prompt, variables) | llm)


chain = build_chain(
    configurable(
        ChatVLLM(
            model=os.environ.get("VLLM_MODEL", "qwen3-8b"),  # noqa: TID251  # a template has no other settings
            base_url=os.environ.get("VLLM_BASE_URL", "http://127.0.0.1:8100/v1"),  # noqa: TID251
            temperature=0.6,  # what Qwen's model card recommends for thinking; it warns of greedy decoding
            top_p=0.95,
            top_k=20,
            max_tokens=4096,
        ),
        offers=("response_format", "thinking"),
    )
)
"""The chain on a server named by ``VLLM_BASE_URL`` and ``VLLM_MODEL``: what LangServe and langchain-cli serve."""
