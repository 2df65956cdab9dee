"""Finding passages, as a LangChain retriever: by meaning and by words."""

from collections.abc import Callable
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict
from typing_extensions import override

from rag_chat.store import Found, PassageStore
from rag_chat.words import query_vector

Link = Callable[[str, Found], str]
"""From a collection and a passage to where people can read it."""

By = Literal["both", "meaning", "words"]
"""What decides which passages are found: both halves of a search, or one alone."""
QUESTION_CHARACTERS = 4000
"""Of a question that are searched for."""


class HybridRetriever(BaseRetriever):
    """Finds the passages of one collection that answer a question. Asynchronous alone.

    The metadata of each Document: ``source``, ``title``, ``place`` (for people), ``headings``, ``page``, ``line``,
    ``end_line``, ``score`` and ``url``.

    Raises:
        UnknownDocument: Nothing was ever ingested into the collection.
        StoreUnavailable: The store does not answer.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: PassageStore
    embeddings: Embeddings
    collection: str
    passages: int = 4
    by: By = "both"
    link: Link | None = None

    @override
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        raise NotImplementedError("This retriever is asynchronous: use ainvoke.")

    @override
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        question = query[:QUESTION_CHARACTERS]
        dense = await self.embeddings.aembed_query(question) if self.by != "words" else []
        words = query_vector(question) if self.by != "meaning" else {}
        found = await self.store.search(self.collection, dense, words, self.passages)
        return [self._document(each) for each in found]

    def _document(self, found: Found) -> Document:
        place = found.passage.place
        metadata: dict[str, Any] = {
            "source": found.source,
            "title": found.passage.title,
            "place": str(place),
            "headings": list(place.headings),
            "page": place.page,
            "line": place.line,
            "end_line": place.end_line,
            "score": found.score,
            "url": self.link(self.collection, found) if self.link else None,
        }
        return Document(found.passage.text, metadata=metadata)
