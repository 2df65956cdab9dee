"""Tokens as the engine counts them: with its own tokenizer and chat template."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai.chat_models.base import BaseChatOpenAI
from typing_extensions import override

from chat_vllm.errors import fields, typed_errors

Tools: TypeAlias = Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool]


@dataclass(frozen=True)
class TokenCount:
    """How many tokens a conversation has, and how many the model takes, its answer included."""

    count: int
    limit: int


class EngineTokens(BaseChatOpenAI):
    """Token counts from vLLM's ``/tokenize``, where the base class would download OpenAI's tables."""

    @override
    def get_token_ids(self, text: str) -> list[int]:
        """The engine's ids of a text, without special tokens; one request."""
        return self._tokenize({"model": self.model_name, "prompt": text, "add_special_tokens": False}, tokens=list)[
            "tokens"
        ]

    @override
    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Tools | None = None, **kwargs: Any
    ) -> int:
        """Tokens of a conversation as the model will see it, chat template included; one request."""
        return self._tokenize(self._conversation(messages, tools), count=int)["count"]

    async def aget_num_tokens_from_messages(self, messages: Sequence[BaseMessage], tools: Tools | None = None) -> int:
        """As ``get_num_tokens_from_messages``, without blocking."""
        return (await self.acount_tokens(messages, tools)).count

    async def acount_tokens(
        self, messages: Sequence[BaseMessage], tools: Tools | None = None, *, generation_prompt: bool = True
    ) -> TokenCount:
        """Tokens of a conversation as the model will see it, and the model's context.

        Args:
            messages: The conversation.
            tools: Offered with it.
            generation_prompt: Whether what begins the answer is counted too.

        Raises:
            ModelError: The engine cannot tell, or tells no count and no context.
        """
        body = self._conversation(messages, tools)
        if not generation_prompt:
            body["add_generation_prompt"] = False
        with typed_errors():
            told = fields(await self._aask_beside("/tokenize", body), count=int, max_model_len=int)
        return TokenCount(told["count"], told["max_model_len"])

    async def arender(self, messages: Sequence[BaseMessage]) -> str:
        """The text that the model will see of a conversation, special tokens and all: the engine's own tokens, read."""
        with typed_errors():
            answer = await self._aask_beside("/tokenize", self._conversation(messages, None))
            tokens = fields(answer, tokens=list)["tokens"]
            text = await self._aask_beside("/detokenize", {"model": self.model_name, "tokens": tokens})
            return fields(text, prompt=str)["prompt"]

    async def _aask_beside(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that the engine answers at a path of its own."""
        return await self.root_async_client.post(self._beside(path), cast_to=object, body=body)

    def _tokenize(self, body: dict[str, Any], **kinds: type) -> dict[str, Any]:
        with typed_errors():
            return fields(self.root_client.post(self._beside("/tokenize"), cast_to=object, body=body), **kinds)

    def _beside(self, path: str) -> str:
        """VLLM's own paths stand beside ``/v1``, not below it."""
        return (self.openai_api_base or "").rstrip("/").removesuffix("/v1") + path

    def _conversation(self, messages: Sequence[BaseMessage], tools: Tools | None) -> dict[str, Any]:
        """What of a request decides how many tokens its prompt has."""
        bound: dict[str, Any] = {"tools": [convert_to_openai_tool(tool) for tool in tools]} if tools else {}
        payload: Any = self._get_request_payload(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            list(messages), stop=None, **bound
        )
        wanted = ("model", "messages", "tools", "chat_template_kwargs")
        return {name: payload[name] for name in wanted if name in payload}
