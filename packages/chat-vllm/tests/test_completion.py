"""A chat on a model that only continues texts: the chat template is ours."""

from pathlib import Path
from typing import Any

import pytest
from chat_vllm import CompletionChat, configurable
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import ValidationError

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}<assistant>"
CHUNK = {"id": "c", "object": "text_completion", "created": 1, "model": "smollm2"}


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    """One event of ``/v1/completions``, as vLLM 0.32 sends it."""
    return {**CHUNK, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]}


def model(engine: Any, **params: Any) -> CompletionChat:
    """A completion chat in front of an engine."""
    plain = engine.llm()
    params = {"stop": ["<user>"], **params}
    return CompletionChat(
        model="base",
        base_url="http://engine.test/v1",
        http_client=plain.http_client,
        http_async_client=plain.http_async_client,
        chat_template=TEMPLATE,
        **params,
    )


async def test_a_conversation_becomes_a_text(sending: Any) -> None:
    """Rendered by the template, and continued at ``/v1/completions`` until a stop string, piece by piece."""
    engine = sending(piece("In"), piece(" France."), piece("", "stop"))
    llm = model(engine, max_tokens=9)
    conversation = [SystemMessage("Be brief."), HumanMessage("Where is Paris?")]
    pieces = [chunk async for chunk in llm.astream(conversation)]
    assert [chunk.text for chunk in pieces if chunk.text] == ["In", " France."]
    assert [chunk.text for chunk in llm.stream(conversation) if chunk.text] == ["In", " France."]
    assert engine.requests[-1].url == "http://engine.test/v1/completions"
    assert engine.asked["prompt"] == "<system>Be brief.<user>Where is Paris?<assistant>"
    assert (engine.asked["stop"], engine.asked["max_tokens"]) == (["<user>"], 9)
    assert not {"messages", "max_completion_tokens"} & set(engine.asked)
    assert engine.asked["add_special_tokens"] is False


async def test_a_whole_answer_keeps_its_end_and_usage(recorded: Any) -> None:
    """As ``ChatVLLM`` keeps them."""
    engine = recorded("completion.json")
    answer = await model(engine).ainvoke("hi")
    assert answer.text == "In France."
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3
    assert model(engine).invoke("hi").text == "In France."


async def test_sampling_can_be_set_per_request(recorded: Any) -> None:
    """It is a chat model like any other."""
    engine = recorded("completion.json")
    await configurable(model(engine)).ainvoke("hi", {"configurable": {"temperature": 0.1}})
    assert engine.asked["temperature"] == 0.1


def test_a_stream_that_is_cut_is_an_error(sending: Any) -> None:
    """Half an answer never passes for a whole one."""
    with pytest.raises(Exception, match="before the answer was complete"):
        list(model(sending(piece("In"), done=False)).stream("hi"))


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages[7]['role'].x }}", "{{ messages.__class__.__mro__ }}"])
def test_a_template_that_does_not_render_is_told_at_once(template: str) -> None:
    """Before anybody asks; and it may look at nothing but the conversation."""
    with pytest.raises(ValidationError, match="cannot be rendered"):
        CompletionChat(model="base", chat_template=template)


def test_tools_are_refused(recorded: Any) -> None:
    """Its template knows none."""
    with pytest.raises(ValueError, match="no tools"):
        model(recorded("completion.json")).invoke("hi", tools=[{"type": "function"}])


def test_the_template_of_a_checkpoint_can_be_used() -> None:
    """SmolLM2's own, as its GGUF carries it."""
    own = Path(__file__).parents[2] / "smollm2-chat" / "tests" / "recorded" / "smollm2.jinja"
    llm = CompletionChat(model="base", chat_template=own.read_text(encoding="utf-8"))
    assert llm.render([SystemMessage("Be brief."), HumanMessage("Hi")]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
