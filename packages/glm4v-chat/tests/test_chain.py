"""The GLM-4V chain, without a model."""

from collections.abc import Iterator
from typing import Any

import pytest
from chat_vllm import ChatInput, ChatOutput
from glm4v_chat import build_chain, chain
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk

URI = "data:image/png;base64,iVBORw0KGgo="
QUESTION = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": URI}}]


class Listener(GenericFakeChatModel):
    """Answers in three pieces and remembers what it was asked."""

    messages: Iterator[AIMessage | str] = iter(())
    asked: list[BaseMessage] = []  # noqa: RUF012  # pydantic copies it

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        self.asked = messages
        for piece in ("A ", "c", "at."):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


def asked(value: Any, **fields: Any) -> list[tuple[str, Any]]:
    """The roles and contents that the model sees for an input."""
    llm = Listener()
    list(build_chain(llm, **fields).stream(value))
    return [(message.type, message.content) for message in llm.asked]


@pytest.mark.parametrize("kind", [{"role": "user"}, {"type": "human"}])
def test_images_reach_the_model_beside_the_text(kind: dict[str, str]) -> None:
    """In their order, as they are, with nothing in front."""
    assert asked({"messages": [{**kind, "content": QUESTION}]}) == [("human", QUESTION)]


def test_text_alone_is_enough() -> None:
    """In the short form too."""
    assert asked("hello") == [("human", "hello")]


def test_the_registry_may_name_a_system_prompt() -> None:
    """With variables in it."""
    prompt = {"system_prompt": "Answer in {language}.", "variables": {"language": "French"}}
    assert asked({"messages": [["user", QUESTION]]}, **prompt) == [
        ("system", "Answer in French."),
        ("human", QUESTION),
    ]


async def test_each_piece_of_an_answer_is_passed_on() -> None:
    """Nothing gathers chunks on their way."""
    pieces = [chunk.content async for chunk in build_chain(Listener()).astream("?")]
    assert [piece for piece in pieces if piece] == ["A ", "c", "at."]


def test_the_chain_has_the_types_that_langserve_shows() -> None:
    """Those of every chat chain."""
    assert chain.get_input_schema() is ChatInput
    assert chain.get_output_schema() is ChatOutput
