"""Bringing a document into the store: only what changed is embedded, and a stop at any point loses nothing.

A passage's id is made of its document, the embedding model and its text. So a document that comes again finds the
passages it shares with its last version, embeds the others, removes what is gone, and is noted as whole at last. One
whose bytes are known is left alone. Killed in between, the store answers with what it has; the next try goes on there.
"""

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from langchain_core.embeddings import Embeddings

from rag_chat.parsing import Limits
from rag_chat.passages import Parsed, Passage
from rag_chat.reading import read
from rag_chat.splitting import split
from rag_chat.store import NAMESPACE, Entry, PassageStore, Record, document_id
from rag_chat.words import passage_vector

BATCH = 32
"""Passages that are embedded by one request, and written together."""
FORMAT = "1"
"""Changes when parsing or splitting does, so that what was made otherwise is made anew."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to ingest. ``source`` is its name for people and citations, with ``/`` between folders."""

    source: str
    content: bytes
    media_type: str | None = None

    @property
    def sha256(self) -> str:
        """Of the bytes, and of what is made of them here."""
        return hashlib.sha256(FORMAT.encode() + self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one document is. ``done`` and ``total`` count passages; total is 0 while it is not known."""

    phase: Literal["reading", "embedding", "done", "unchanged"]
    done: int = 0
    total: int = 0
    new: int = 0
    """Passages that had to be embedded."""
    removed: int = 0


@dataclass(frozen=True)
class Ingest:
    """Ingests files into one store.

    Args:
        store: Where to.
        embeddings: Makes the vectors.
        embedding: The name of what makes them.
        limits: For each document.
    """

    store: PassageStore
    embeddings: Embeddings
    embedding: str
    limits: Limits

    async def __call__(self, collection: str, file: File) -> AsyncIterator[Progress]:
        """Ingest one file, and tell how far it is.

        Raises:
            RetrievalError: It cannot be read or stored.
        """
        known = await self.store.record(collection, document_id(file.source))
        if known is not None and (known.sha256, known.embedding) == (file.sha256, self.embedding):
            yield Progress("unchanged", known.passages, known.passages)
            return
        yield Progress("reading")
        parsed = await read(file.source, file.content, media_type=file.media_type, limits=self.limits)
        wanted = self._identified(file.source, split(parsed))
        before = await self.store.places(collection, document_id(file.source))
        new = [(id_, passage) for id_, passage in wanted.items() if id_ not in before]
        kept = len(wanted) - len(new)
        yield Progress("embedding", kept, len(wanted), len(new))
        for start in range(0, len(new), BATCH):
            await self._embed(collection, file.source, new[start : start + BATCH])
            yield Progress("embedding", kept + min(start + BATCH, len(new)), len(wanted), len(new))
        moved = {
            id_: passage.place for id_, passage in wanted.items() if before.get(id_, passage.place) != passage.place
        }
        await self.store.move(collection, moved)
        stale = before.keys() - wanted.keys()
        await self.store.finish(collection, self._record(file, parsed, len(wanted)), stale)
        yield Progress("done", len(wanted), len(wanted), len(new), len(stale))

    def _identified(self, source: str, passages: Sequence[Passage]) -> dict[str, Passage]:
        """The passages by id; one that occurs twice gets two."""
        seen: Counter[str] = Counter()
        identified: dict[str, Passage] = {}
        for passage in passages:
            text = passage.embedded
            seen[text] += 1
            name = "\0".join([source, self.embedding, FORMAT, str(seen[text]), text])
            identified[str(uuid.uuid5(NAMESPACE, name))] = passage
        return identified

    async def _embed(self, collection: str, source: str, batch: Sequence[tuple[str, Passage]]) -> None:
        vectors = await self.embeddings.aembed_documents([passage.embedded for _, passage in batch])
        await self.store.ensure(collection, len(vectors[0]))
        entries = [
            Entry(id_, passage, vector, passage_vector(passage.embedded))
            for (id_, passage), vector in zip(batch, vectors, strict=True)
        ]
        await self.store.write(collection, source, entries)

    def _record(self, file: File, parsed: Parsed, passages: int) -> Record:
        return Record(
            source=file.source,
            title=parsed.title,
            media_type=file.media_type or "",
            size=len(file.content),
            sha256=file.sha256,
            passages=passages,
            embedding=self.embedding,
            ingested_at=time.time(),
        )
