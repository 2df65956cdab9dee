"""The GLM-4V chain: a conversation with images, then the model."""

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
        llm: A chat model that sees, or one whose sampling is ``chat_vllm.configurable``.
        system_prompt: A template; None as these models were trained, without one.
        variables: Values for the template's variables.

    Returns:
        A runnable from any form of ``chat_vllm.ChatInput`` to an ``AIMessage``. Images are content blocks of messages,
        as OpenAI or LangChain writes them.
    """
    return cast("Runnable[Any, AIMessage]", chat_prompt(system_prompt, variables) | llm)


chain = build_chain(
    configurable(
        ChatVLLM(
            model=os.environ.get("VLLM_MODEL", "glm-4.1v-thinking"),  # noqa: TID251  # a template has no other settings
            base_url=os.environ.get("VLLM_BASE_URL", "http://127.0.0.1:8100/v1"),  # noqa: TID251
            max_tokens=1024,
        )
    )
)
"""The chain on a server named by ``VLLM_BASE_URL`` and ``VLLM_MODEL``: what LangServe and langchain-cli serve."""
