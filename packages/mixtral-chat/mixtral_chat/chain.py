"""Mixtral's chain: the system prompt at the beginning of the user's first turn, the conversation, then the model."""

import os
from collections.abc import Mapping
from typing import Any, cast

from chat_vllm import ChatVLLM, FoldedPrompt, chat_prompt, configurable
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

    Mixtral's chat template refuses a system role, and a user who speaks twice in a row: what the system says is put
    before what the user says, as Mistral's own library does it.

    Args:
        llm: A chat model, or one whose sampling is ``chat_vllm.configurable``.
        system_prompt: A template; None: none, as Mixtral was trained without one. A conversation that begins with a
            system message of its own goes without.
        variables: Values for the template's variables.

    Returns:
        A runnable from any form of ``chat_vllm.ChatInput`` to an ``AIMessage``.
    """
    prompt = chat_prompt(system_prompt, variables, kind=FoldedPrompt)
    return cast("Runnable[Any, AIMessage]", prompt | llm)


chain = build_chain(
    configurable(
        ChatVLLM(
            model=os.environ.get("VLLM_MODEL", "mixtral-8x7b"),  # noqa: TID251  # a template has no other settings
            base_url=os.environ.get("VLLM_BASE_URL", "http://127.0.0.1:8100/v1"),  # noqa: TID251
            temperature=0.7,
            max_tokens=1024,
        )
    )
)
"""The chain on a server named by ``VLLM_BASE_URL`` and ``VLLM_MODEL``: what LangServe and langchain-cli serve."""
