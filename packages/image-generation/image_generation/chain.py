"""The chain: a prompt, as text or with what belongs to it, then the image model."""

import os
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from image_generation.model import ImageModel


def build_chain(
    llm: ImageModel,
    *,
    system_prompt: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Runnable[Any, AIMessage]:
    """The image model as a chain.

    Args:
        llm: The image model.
        system_prompt: There is none: a diffusion model has no instructions beside its prompt.
        variables: Likewise.

    Returns:
        A runnable from any form of ``ImageInput`` to an ``AIMessage`` with one image block for each picture.

    Raises:
        ValueError: A system prompt or variables were given.
    """
    if system_prompt or variables:
        msg = "image generation has no system prompt; put what holds for every picture into negative_prompt or drawing"
        raise ValueError(msg)
    return llm


chain = build_chain(
    ImageModel(
        model=os.environ.get("VLLM_MODEL", "emoji-32"),  # noqa: TID251  # a template has no other settings
        base_url=os.environ.get("VLLM_BASE_URL", "http://127.0.0.1:8100/v1"),  # noqa: TID251
    )
)
"""The chain on a server named by ``VLLM_BASE_URL`` and ``VLLM_MODEL``: what LangServe and langchain-cli serve."""
