"""The chain: what it searches for, what it shows the model, what it cites."""

from collections.abc import Iterator
from typing import Any

import pytest
from chat_vllm import ChatInput, ChatOutput
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from rag_chat import HybridRetriever, build_chain, chain
from rag_chat.answering import SYSTEM_PROMPT, question_of
from rag_chat.errors import UnknownDocument

RIVERS = "# Rivers\n\n## Elbe\nThe Elbe flows through Dresden.\n\n## Rhine\nThe Rhine flows through Cologne.\n"


class Reader(GenericFakeChatModel):
    """Answers what it is told to, in pieces, and remembers what it was asked."""

    messages: Iterator[AIMessage | str] = iter(())
    pieces: list[str] = ["The Rhine ", "[1]."]  # noqa: RUF012  # pydantic copies it
    asked: list[BaseMessage] = []  # noqa: RUF012

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        self.asked = messages
        for piece in self.pieces:
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        end = AIMessageChunk(content="", response_metadata={"finish_reason": "stop"})
        yield ChatGenerationChunk(message=end)


async def chain_on(shelf: Any, llm: Reader) -> Any:
    """A chain that knows rivers."""
    await shelf.put("rivers.md", RIVERS)
    retriever = HybridRetriever(
        store=shelf.store,
        embeddings=shelf.embeddings,
        collection="docs",
        passages=2,
        link=lambda collection, found: f"/documents/{collection}/{found.document}#p{found.passage.place.index}",
    )
    return build_chain(llm, retriever=retriever)


async def test_an_answer_cites_what_it_names(shelf: Any) -> None:
    """Below its text with place and link, and as values."""
    answer = await (await chain_on(shelf, Reader())).ainvoke("Which river flows through Cologne?")
    text, _, sources = answer.text.partition("\n\nSources:\n")
    assert text == "The Rhine [1]."
    (line,) = sources.splitlines()
    assert line.startswith("[1] rivers.md, “Rivers > Rhine”, line 7: /documents/docs/")
    assert line.endswith("#p1")
    first, second = answer.response_metadata["citations"]
    assert (first["cited"], first["source"], first["line"]) == (True, "rivers.md", 7)
    assert (second["cited"], second["number"]) == (False, 2)
    assert answer.response_metadata["finish_reason"] == "stop"


async def test_an_answer_that_names_nothing_is_told_apart(shelf: Any) -> None:
    """What the model was given is not what it cites."""
    answer = await (await chain_on(shelf, Reader(pieces=["Who knows [7]."]))).ainvoke("Cologne?")
    assert "Sources:" not in answer.text
    assert "\n\nPassages given to the model:\n[1] rivers.md" in answer.text


async def test_the_answer_streams_and_ends_with_its_reason(shelf: Any) -> None:
    """Pieces as they come, then the citations, then what ends an answer."""
    chunks = [chunk async for chunk in (await chain_on(shelf, Reader())).astream("Cologne?")]
    assert [chunk.content for chunk in chunks][:2] == ["The Rhine ", "[1]."]
    assert [bool(chunk.response_metadata.get("finish_reason")) for chunk in chunks].index(True) > 2


async def test_the_model_is_shown_numbered_passages(shelf: Any) -> None:
    """Above the question, as quotations; the system prompt says what they are."""
    llm = Reader()
    await (await chain_on(shelf, llm)).ainvoke({"messages": [("user", "Which river flows through Cologne?")]})
    system, human = llm.asked
    assert system.content == SYSTEM_PROMPT
    assert human.text.startswith("Passages:\n\n[1] rivers.md, “Rivers > Rhine”, line 7\nThe Rhine flows")
    assert human.text.endswith("Question: Which river flows through Cologne?")


async def test_a_collection_nobody_made_is_named(shelf: Any) -> None:
    """With what to do."""
    retriever = HybridRetriever(store=shelf.store, embeddings=shelf.embeddings, collection="none")
    with pytest.raises(UnknownDocument, match="'none'") as caught:
        await build_chain(Reader(), retriever=retriever).ainvoke("anything")
    assert "ingest" in (caught.value.hint or "")


def test_a_short_question_is_searched_for_with_the_one_before_it() -> None:
    """It says little by itself."""
    turns = [HumanMessage("Which river flows through Cologne?"), AIMessage("The Rhine."), HumanMessage("And Dresden?")]
    assert question_of(turns) == "Which river flows through Cologne?\nAnd Dresden?"
    long = HumanMessage("Tell me which lakes there are in the north of Italy")
    assert question_of([*turns, long]) == long.text


async def test_the_steps_are_seen_as_events(shelf: Any) -> None:
    """The search, the prompt and the model, each with its name."""
    made = await chain_on(shelf, Reader())
    events = [(event["event"], event["name"]) async for event in made.astream_events("Cologne?", version="v2")]
    assert events[0] == ("on_chain_start", "rag-chat")
    assert ("on_retriever_end", "HybridRetriever") in events
    assert ("on_chat_model_stream", "Reader") in events


def test_the_exported_chain_has_done_nothing_yet() -> None:
    """It declares what it takes and gives, and what a request may set."""
    assert chain.get_input_schema() is ChatInput
    assert chain.get_output_schema() is ChatOutput
    assert "temperature" in {spec.id for spec in chain.config_specs}
