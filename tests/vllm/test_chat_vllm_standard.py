"""The standard tests that LangChain asks of every chat model, on the real vLLM."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from chat_vllm import ChatVLLM
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChatVLLM(ChatModelIntegrationTests):
    """``ChatVLLM`` with SmolLM2-135M-Instruct behind it."""

    @pytest.fixture(autouse=True)
    async def engine(self, vllm_base_url: str) -> AsyncIterator[None]:
        """The server that every test here asks, over connections that are closed in the end."""
        self.base_url = vllm_base_url
        async with httpx2.AsyncClient() as self.http_async_client:
            with httpx2.Client() as self.http_client:
                yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """The class that is tested."""
        return ChatVLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """The model and its server; the time-out is for a CPU that others use too."""
        return {
            "model": "smollm2",
            "base_url": self.base_url,
            "http_client": self.http_client,
            "http_async_client": self.http_async_client,
            "timeout": 600,
            "max_retries": 0,
        }

    @property
    def supports_json_mode(self) -> bool:
        """The engine enforces a JSON object."""
        return True
