"""Ingesting: what is embedded, what is found, and what a stop in the middle leaves."""

from typing import Any

import pytest
from rag_chat import File, HybridRetriever, Ingest, Limits, PassageStore, Where
from rag_chat.errors import StoreFull, StoreMismatch, StoreUnavailable, UnknownDocument
from rag_chat.store import document_id

RIVERS = "# Rivers\n\n## Elbe\nThe Elbe flows through Dresden.\n\n## Rhine\nThe Rhine flows through Cologne.\n"


def sections(count: int) -> str:
    """A document of so many passages."""
    return "".join(f"## Section {number}\nThis is about topic {number}.\n" for number in range(count))


async def found(shelf: Any, question: str, passages: int = 3) -> list[tuple[str, str]]:
    """The sources and texts that answer a question."""
    retriever = HybridRetriever(store=shelf.store, embeddings=shelf.embeddings, collection="docs", passages=passages)
    return [(each.metadata["source"], each.page_content) for each in await retriever.ainvoke(question)]


async def test_what_was_ingested_is_found(shelf: Any) -> None:
    """By its words and its meaning, with its place."""
    await shelf.put("rivers.md", RIVERS)
    await shelf.put("cities.txt", "Paris is a city.")
    assert (await found(shelf, "Which river flows through Cologne?"))[0] == (
        "rivers.md",
        "The Rhine flows through Cologne.",
    )
    assert await shelf.sources() == ["cities.txt", "rivers.md"]


async def test_the_same_file_again_does_nothing(shelf: Any) -> None:
    """Not even read."""
    await shelf.put("rivers.md", RIVERS)
    before = len(shelf.embeddings.embedded)
    again = await shelf.put("rivers.md", RIVERS)
    assert (again.phase, again.total) == ("unchanged", 2)
    assert len(shelf.embeddings.embedded) == before


async def test_a_changed_file_embeds_only_what_changed(shelf: Any) -> None:
    """What is gone is removed, what moved is cited where it stands now."""
    await shelf.put("rivers.md", RIVERS)
    shelf.embeddings.embedded.clear()
    changed = RIVERS.replace("# Rivers\n", "# Rivers\n\n\n").replace("Cologne", "Basel")
    done = await shelf.put("rivers.md", changed)
    assert (done.new, done.removed, done.total) == (1, 1, 2)
    assert shelf.embeddings.embedded == ["Rivers > Rhine\nThe Rhine flows through Basel."]
    passages = await shelf.store.passages("docs", document_id("rivers.md"))
    assert [(each.passage.text, each.passage.place.line) for each in passages] == [
        ("The Elbe flows through Dresden.", 6),
        ("The Rhine flows through Basel.", 9),
    ]


async def test_a_passage_that_stands_twice_is_kept_twice(shelf: Any) -> None:
    """Each with its own place."""
    done = await shelf.put("twice.md", "# A\nSame words.\n# A\nSame words.\n")
    assert done.total == 2
    passages = await shelf.store.passages("docs", document_id("twice.md"))
    assert [each.passage.place.line for each in passages] == [2, 4]


async def test_an_ingest_that_stops_in_the_middle_goes_on_there(shelf: Any) -> None:
    """What is in answers already; the next try embeds only the rest."""
    shelf.embeddings.fail_after = 64
    with pytest.raises(ConnectionError):
        await shelf.put("long.md", sections(100))
    assert await shelf.sources() == []
    assert (await found(shelf, "topic 3", 1))[0][1] == "This is about topic 3."
    shelf.embeddings.fail_after = None
    shelf.embeddings.embedded.clear()
    done = await shelf.put("long.md", sections(100))
    assert (done.new, done.total, len(shelf.embeddings.embedded)) == (36, 100, 36)
    assert await shelf.sources() == ["long.md"]


async def test_an_update_that_stops_in_the_middle_still_answers(shelf: Any) -> None:
    """Old and new passages stand beside each other until the next try has put that right."""
    await shelf.put("long.md", sections(40))
    shelf.embeddings.fail_after = len(shelf.embeddings.embedded) + 32
    with pytest.raises(ConnectionError):
        await shelf.put("long.md", sections(100).replace("about", "on"))
    assert (await found(shelf, "about topic 7", 1))[0][1] == "This is about topic 7."
    shelf.embeddings.fail_after = None
    assert (await shelf.put("long.md", sections(100).replace("about", "on"))).removed == 40
    assert len(await shelf.store.passages("docs", document_id("long.md"))) == 100


async def test_another_embedding_model_embeds_everything_anew(shelf: Any) -> None:
    """One with other dimensions does not fit the collection, and says so."""
    await shelf.put("rivers.md", RIVERS)
    assert (await shelf.put("rivers.md", RIVERS, embedding="other")).new == 2
    shelf.embeddings.dimensions = 32
    with pytest.raises(StoreMismatch, match="64 dimensions") as caught:
        await shelf.put("rivers.md", RIVERS, embedding="smaller")
    assert caught.value.hint


async def test_a_deleted_document_is_not_found_any_more(shelf: Any) -> None:
    """The others are; what is not there cannot be deleted."""
    await shelf.put("rivers.md", RIVERS)
    await shelf.put("cities.txt", "Paris is a city.")
    await shelf.store.delete("docs", document_id("rivers.md"))
    assert {source for source, _ in await found(shelf, "Rhine Cologne Elbe")} == {"cities.txt"}
    assert await shelf.sources() == ["cities.txt"]
    with pytest.raises(UnknownDocument):
        await shelf.store.delete("docs", document_id("rivers.md"))
    await shelf.store.drop("docs")
    with pytest.raises(UnknownDocument):
        await found(shelf, "anything")


async def test_a_folder_belongs_to_one_process(shelf: Any) -> None:
    """Another is told so, and what several need."""
    await shelf.put("rivers.md", RIVERS)
    other = PassageStore(Where(str(shelf.folder)))
    with pytest.raises(StoreUnavailable, match="another process") as caught:
        await other.collections()
    assert "server" in (caught.value.hint or "")


async def test_a_store_opens_again_with_what_was_in_it(shelf: Any) -> None:
    """After it was closed."""
    await shelf.put("rivers.md", RIVERS)
    await shelf.store.aclose()
    again = PassageStore(Where(str(shelf.folder)))
    try:
        assert [record.source for record in await again.records("docs")] == ["rivers.md"]
    finally:
        await again.aclose()


async def test_a_server_that_is_down_is_named() -> None:
    """Nothing is known of what it holds, so nothing is lost."""
    store = PassageStore(Where("http://127.0.0.1:9"))
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.collections()
    await store.aclose()


async def test_an_embedded_store_has_a_limit(shelf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it searches would be slow: the message names the server."""
    monkeypatch.setattr("rag_chat.store.EMBEDDED_LIMIT", 3)
    with pytest.raises(StoreFull) as caught:
        await shelf.put("long.md", sections(10))
    assert "Qdrant server" in (caught.value.hint or "")


async def test_progress_is_told_as_it_is_made(shelf: Any) -> None:
    """From reading to done, in passages."""
    ingest = Ingest(shelf.store, shelf.embeddings, "words", Limits())
    told = [(now.phase, now.done) async for now in ingest("docs", File("long.md", sections(70).encode()))]
    assert told == [
        ("reading", 0), ("embedding", 0), ("embedding", 32), ("embedding", 64), ("embedding", 70), ("done", 70),
    ]  # fmt: skip
