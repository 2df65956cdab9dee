"""The standard tests that LangChain asks of every chat model: those that need no model."""

from typing import Any

from chat_vllm import ChatVLLM
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests


class TestChatVLLM(ChatModelUnitTests):
    """``ChatVLLM`` passes all of them; nothing is switched off."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """The class that is tested."""
        return ChatVLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """Its one required argument."""
        return {"model": "smollm2"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """The variables of OpenAI are set, and none of them is taken."""
        theirs = {
            "OPENAI_API_KEY": "sk-not-for-the-engine",
            "OPENAI_API_BASE": "https://api.openai.example/v1",
            "OPENAI_BASE_URL": "https://api.openai.example/v1",
            "OPENAI_ORG_ID": "org",
            "OPENAI_PROXY": "http://proxy.example:3128",
        }
        ours = {
            "openai_api_key": "EMPTY",
            "openai_api_base": "http://127.0.0.1:8000/v1",
            "openai_organization": None,
            "openai_proxy": None,
        }
        return theirs, {"model": "smollm2"}, ours
