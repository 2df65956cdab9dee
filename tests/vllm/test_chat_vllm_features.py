"""What ``ChatVLLM`` adds to LangChain's standard, on the real vLLM."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx2
import pytest
from chat_vllm import ChatVLLM, configurable
from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError, ModelNotFoundError
from langchain_core.messages import HumanMessage
from pydantic import BaseModel, Field
from smollm2_chat import build_chain

QUESTION = [HumanMessage("Name a colour.")]


class Mood(BaseModel):
    """A mood and how strong it is."""

    mood: Literal["happy", "sad"]
    strength: int = Field(ge=1, le=5)


@pytest.fixture
async def llm(vllm_base_url: str) -> AsyncIterator[ChatVLLM]:
    """A model with short answers that are always the same."""
    async with httpx2.AsyncClient(timeout=600) as client:
        yield ChatVLLM(
            model="smollm2", base_url=vllm_base_url, http_async_client=client, temperature=0, max_tokens=16, timeout=600
        )


async def whole(stream: AsyncIterator[Any]) -> Any:
    """The sum of a stream."""
    total: Any = None
    async for chunk in stream:
        total = chunk if total is None else total + chunk
    return total


async def test_a_stream_adds_up_to_the_answer(llm: ChatVLLM) -> None:
    """Text, usage and reason of the end are the same, streamed or not."""
    asked, streamed = await llm.ainvoke(QUESTION), await whole(llm.astream(QUESTION))
    assert streamed.content == asked.content
    assert streamed.usage_metadata == asked.usage_metadata
    assert streamed.response_metadata["finish_reason"] == asked.response_metadata["finish_reason"]


async def test_tokens_are_counted_as_the_engine_counts(llm: ChatVLLM) -> None:
    """The count before a request is the usage after it."""
    answer = await llm.ainvoke(QUESTION)
    assert answer.usage_metadata is not None
    assert await llm.aget_num_tokens_from_messages(QUESTION) == answer.usage_metadata["input_tokens"]


async def test_token_ids_come_where_asked_for(llm: ChatVLLM) -> None:
    """One for each token of the answer, streamed or not."""
    asking = llm.model_copy(update={"return_token_ids": True, "logprobs": True})
    asked, streamed = await asking.ainvoke(QUESTION), await whole(asking.astream(QUESTION))
    ids = asked.response_metadata["token_ids"]
    assert len(ids) == asked.usage_metadata["output_tokens"]  # pyright: ignore[reportOptionalSubscript]
    assert streamed.response_metadata["token_ids"] == ids
    assert len(streamed.response_metadata["logprobs"]["content"]) == len(ids)


async def test_a_choice_is_a_choice(llm: ChatVLLM) -> None:
    """``structured_outputs`` leaves the model no other words."""
    answer = await llm.ainvoke(QUESTION, structured_outputs={"choice": ["red", "green"]})
    assert answer.content in ("red", "green")


async def test_a_schema_holds(llm: ChatVLLM) -> None:
    """Every answer parses, however small the model; a request may still set its sampling."""
    warm = configurable(llm.model_copy(update={"max_tokens": 64})).with_structured_output(Mood)
    for seed in range(3):
        mood = await warm.ainvoke("I lost my keys.", {"configurable": {"temperature": 1.0, "seed": seed}})
        assert isinstance(mood, Mood)


async def test_a_stop_text_is_named(llm: ChatVLLM) -> None:
    """``stop_reason`` is the text that ended the answer."""
    answer = await llm.ainvoke("Repeat: one two three", stop=["e"])
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["stop_reason"] == "e"


async def test_errors_keep_their_meaning(llm: ChatVLLM) -> None:
    """Too long, refused and unknown are three things, streamed or not."""
    with pytest.raises(ContextOverflowError, match="maximum context length"):
        await llm.ainvoke("word " * 20_000)
    with pytest.raises(ContextOverflowError):
        await whole(llm.astream("word " * 20_000))
    with pytest.raises(ModelInvalidRequestError, match="temperature"):
        await llm.ainvoke(QUESTION, temperature=-1)
    with pytest.raises(ModelNotFoundError, match="somebody-else"):
        await llm.ainvoke(QUESTION, model="somebody-else")


async def test_the_chain_asks_with_its_system_prompt(llm: ChatVLLM) -> None:
    """The prompt that the chain writes is as long as the one that SmolLM2's chat template would write on its own."""
    with_prompt = await build_chain(llm).ainvoke(QUESTION)
    without = await llm.ainvoke(QUESTION)
    assert with_prompt.usage_metadata == without.usage_metadata
    assert with_prompt.content == without.content
