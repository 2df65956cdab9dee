"""A chat chain of more than one step: an asynchronous generator of message chunks as a LangChain Runnable."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs
from typing_extensions import override

from chat_vllm.messages import ChatInput, ChatOutput

Steps: TypeAlias = Callable[[ChatInput, RunnableConfig], AsyncIterator[AIMessageChunk]]
"""Answers one conversation piece by piece. The config is to be handed to every Runnable that it calls."""


class ChatFlow(Runnable[Any, AIMessage]):
    """From any form of ``ChatInput`` to an ``AIMessage``, streamed as ``steps`` yields it.

    Asynchronous alone: ``ainvoke``, ``abatch``, ``astream``, ``astream_events``. Steps show up in events and traces as
    runs below this one.

    Args:
        steps: What answers.
        models: Whose configuration a request may change: theirs is this chain's.
        name: What runs of it are called.
    """

    def __init__(self, steps: Steps, *, models: Sequence[Runnable[Any, Any]] = (), name: str) -> None:
        self._steps = steps
        self._models = models
        self.name = name

    def __repr__(self) -> str:
        return f"<ChatFlow {self.name}>"

    @property
    @override
    def InputType(self) -> type[ChatInput]:
        return ChatInput

    @property
    @override
    def OutputType(self) -> Any:
        return ChatOutput

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What a request's config may set."""
        return get_unique_config_specs(spec for model in self._models for spec in model.config_specs)

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Not there: steps run side by side and can be cancelled, which threads cannot."""
        raise NotImplementedError(f"{self.name} is asynchronous: use ainvoke, abatch or astream.")

    @override
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Answer in one piece."""
        return await self._acall_with_config(self._whole, input, config, **kwargs)

    @override
    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer as the pieces come."""

        async def only() -> AsyncIterator[Any]:
            yield input

        pieces = self._atransform_stream_with_config(only(), self._pieces, config, **kwargs)
        async for piece in cast("AsyncIterator[AIMessageChunk]", pieces):
            yield piece

    async def _pieces(
        self,
        inputs: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,  # noqa: ARG002 -- langchain-core passes it
        config: RunnableConfig,
    ) -> AsyncIterator[AIMessage]:
        async for value in inputs:
            async for piece in self._steps(ChatInput.model_validate(value), config):
                yield piece

    async def _whole(
        self,
        value: Any,
        run_manager: AsyncCallbackManagerForChainRun,  # noqa: ARG002 -- likewise
        config: RunnableConfig,
    ) -> AIMessage:
        total: AIMessageChunk | None = None
        async for piece in self._steps(ChatInput.model_validate(value), config):
            total = piece if total is None else total + piece
        if total is None:
            raise ValueError("The chain gave no answer.")
        return as_message(total)


def as_message(chunk: AIMessageChunk) -> AIMessage:
    """The whole message that a sum of chunks is."""
    fields = chunk.model_dump(exclude={"type", "tool_call_chunks", "chunk_position"})
    return AIMessage.model_validate(fields)
