"""The prompt in front of a chat model."""

import pytest
from chat_vllm import ChatInput, chat_prompt
from langchain_core.messages import HumanMessage, SystemMessage

HI = HumanMessage("hi")


async def test_the_system_prompt_comes_first() -> None:
    """Whatever form the input has."""
    prompt = chat_prompt("Be brief.")
    assert prompt.invoke({"messages": [HI]}).to_messages() == [SystemMessage("Be brief."), HI]
    assert (await prompt.ainvoke({"input": "hi"})).to_messages() == [SystemMessage("Be brief."), HI]


async def test_a_request_may_bring_a_system_prompt_of_its_own() -> None:
    """The request's wins; the model sees one, not two."""
    prompt = chat_prompt("Be brief.")
    asked = {"messages": [("system", "Be long."), ("user", "hi")]}
    assert prompt.invoke(asked).to_messages() == [SystemMessage("Be long."), HI]
    assert (await prompt.ainvoke(asked)).to_messages() == [SystemMessage("Be long."), HI]


def test_a_later_system_message_is_an_instruction_of_its_own() -> None:
    """It replaces nothing."""
    asked = {"messages": [("user", "hi"), ("system", "Now in French.")]}
    assert [message.type for message in chat_prompt("Be brief.").invoke(asked).to_messages()] == [
        "system",
        "human",
        "system",
    ]


def test_there_may_be_no_system_prompt() -> None:
    """Some model families take none."""
    assert chat_prompt(None).invoke({"messages": [HI]}).to_messages() == [HI]
    assert chat_prompt("").invoke({"messages": [HI]}).to_messages() == [HI]


def test_variables_fill_the_system_prompt() -> None:
    """And braces of a user's text are left alone."""
    prompt = chat_prompt("Answer in {language}, as {{json}}.", {"language": "French"})
    system, human = prompt.invoke({"messages": [("user", "{not a variable}")]}).to_messages()
    assert system.content == "Answer in French, as {json}."
    assert human.content == "{not a variable}"


def test_a_variable_without_a_value_is_found_at_once() -> None:
    """When the chain is built, not at the first request."""
    with pytest.raises(ValueError, match="language"):
        chat_prompt("Answer in {language}.")


def test_the_input_is_declared() -> None:
    """A chain's schema is its prompt's."""
    assert chat_prompt("Be brief.").get_input_schema() is ChatInput
