"""Embeddings of a vLLM pooling server: its OpenAI-compatible ``/v1/embeddings``."""

from typing import Any

import httpx2
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

BATCH = 32


def vllm_embeddings(
    model: str, base_url: str, *, api_key: str = "EMPTY", client: httpx2.AsyncClient | None = None, timeout: Any = 60
) -> OpenAIEmbeddings:
    """Return embeddings for asynchronous use; texts longer than the model takes are cut by the engine.

    Args:
        model: The name the server knows it by.
        base_url: Of the server, with ``/v1``.
        api_key: Only a server started with one reads it.
        client: The way to the server, if not a plain one.
        timeout: Of one request.
    """
    return OpenAIEmbeddings(
        model=model,
        base_url=base_url,
        api_key=SecretStr(api_key),
        check_embedding_ctx_length=False,  # else it sends OpenAI's token ids
        chunk_size=BATCH,
        max_retries=0,
        timeout=timeout,
        http_async_client=client,
        model_kwargs={"encoding_format": "float", "extra_body": {"truncate_prompt_tokens": -1}},
    )
