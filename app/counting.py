"""Tokens of a conversation as its chain would send it: the chain runs, and its chat model counts, not answers."""

from typing import Any

from chat_vllm import ChatVLLM
from chat_vllm.errors import fields, typed_errors
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from typing_extensions import override

COUNTED = ("model", "messages", "tools", "chat_template_kwargs")
"""What of a request decides how many tokens its prompt has."""


class CountingChat(ChatVLLM):
    """Answers nothing, and tells in its usage how many tokens it was given. One request to the engine."""

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        body = {name: payload[name] for name in COUNTED if name in payload}
        with typed_errors():
            told: Any = await self._aask_beside("/tokenize", body)
            count: int = fields(told, count=int)["count"]
        usage: Any = {"input_tokens": count, "output_tokens": 0, "total_tokens": count}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("", usage_metadata=usage))])
