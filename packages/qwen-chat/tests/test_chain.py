"""Qwen3's chain, without a model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chat_vllm import ChatInput, ChatOutput, ChatPrompt, ConfigurableChat, Options
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableSequence
from qwen_chat import build_chain, chain

RECORDED = Path(__file__).parent / "recorded"
GOLDEN: list[dict[str, Any]] = json.loads((RECORDED / "qwen3.json").read_text(encoding="utf-8"))
"""Conversations and their texts by Qwen3's chat template, qwen3.jinja of trl 1.16.0 on PyPI (Apache-2.0)."""


class Listener(GenericFakeChatModel):
    """Answers in three pieces and remembers what it was asked."""

    messages: Iterator[AIMessage | str] = iter(())
    asked: list[BaseMessage] = []  # noqa: RUF012  # pydantic copies it

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        self.asked = messages
        for piece in ("Par", "is", "."):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


def asked(value: Any, **options: Any) -> list[Mapping[str, Any]]:
    """What the engine is sent for an input, in OpenAI's form."""
    llm = Listener()
    list(build_chain(llm, **options).stream(value))
    return [*convert_to_openai_messages(llm.asked)]


def template() -> Template:
    """Qwen3's own, as transformers renders it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = json.dumps
    return environment.from_string((RECORDED / "qwen3.jinja").read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["name"]))
def test_the_model_sees_what_its_own_template_writes(golden: dict[str, Any]) -> None:
    """What the chain asks, rendered by Qwen3's template, is its text for what was said."""
    thinking = Options(thinking=golden["thinking"]).arguments().get("chat_template_kwargs", {})
    said = [{key: value for key, value in turn.items() if key != "reasoning_content"} for turn in golden["said"]]
    text = template().render(messages=asked({"messages": said}), add_generation_prompt=True, **thinking)
    assert text == golden["text"]


def test_reasoning_of_earlier_turns_is_not_shown_again() -> None:
    """Qwen3's template leaves it out of what was said before the last question."""
    (conversation,) = [golden for golden in GOLDEN if golden["name"] == "conversation"]
    assert "A greeting." in json.dumps(conversation["said"])
    assert "A greeting." not in conversation["text"]


def test_the_registry_names_the_system_prompt() -> None:
    """With variables in it, or none at all."""
    french = asked("hi", system_prompt="Answer in {language}.", variables={"language": "French"})
    assert "Answer in French." in french[0]["content"]
    assert asked("hi") == [{"role": "user", "content": "hi"}]


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


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "stop", "response_format", "thinking"])
def test_a_request_may_set_it(name: str) -> None:
    """The exported chain offers the field in its config."""
    assert name in {spec.id for spec in chain.config_specs}
