"""Mixtral's chain, without a model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chat_vllm import ChatInput, ChatOutput, ConfigurableChat, FoldedPrompt
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableSequence
from mixtral_chat import build_chain, chain

RECORDED = Path(__file__).parent / "recorded"
GOLDEN: list[dict[str, Any]] = json.loads((RECORDED / "mixtral.json").read_text(encoding="utf-8"))
"""Conversations and the texts that mistral-common 1.13.1 (MistralTokenizer.v1, Mixtral's) encodes for them."""


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


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["name"]))
def test_the_model_sees_what_mistrals_own_library_writes(golden: dict[str, Any]) -> None:
    """Mixtral's format around what it is asked is mistral-common's text for what was said, system role and all."""
    turns = asked({"messages": golden["said"]})
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    assert "<s>" + "".join(written(turn) for turn in turns) == golden["text"]


def written(turn: Mapping[str, Any]) -> str:
    """A turn in Mixtral's format, which knows these two roles."""
    return f" [INST] {turn['content']} [/INST]" if turn["role"] == "user" else f" {turn['content']}</s>"


def test_the_system_prompt_stands_in_the_first_turn() -> None:
    """A picture beside the text stays beside it; a later system message goes into the turn after it."""
    said = [["user", "a"], ["ai", "b"], ["system", "Now rhyme."], ["user", "c"]]
    turns = asked({"messages": said}, system_prompt="Be brief.")
    assert [turn["content"] for turn in turns] == ["Be brief.\n\na", "b", "Now rhyme.\n\nc"]


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
    assert [type(step) for step in chain.steps] == [FoldedPrompt, ConfigurableChat]
    assert chain.get_input_schema() is ChatInput
    assert chain.get_output_schema() is ChatOutput


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "stop", "response_format"])
def test_a_request_may_set_it(name: str) -> None:
    """The exported chain offers the field in its config."""
    assert name in {spec.id for spec in chain.config_specs}
