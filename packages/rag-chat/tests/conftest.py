"""A store in a folder, and embeddings that are made on the spot."""

import hashlib
import io
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject
from rag_chat import File, Ingest, Limits, PassageStore, Progress, Where
from rag_chat.words import words

DIMENSIONS = 64


class WordEmbeddings(Embeddings):
    """A text's words, hashed to few dimensions: texts that share words are near. Counts what it was asked for."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions
        self.embedded: list[str] = []
        self.fail_after: int | None = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of length 1."""
        if self.fail_after is not None and len(self.embedded) >= self.fail_after:
            raise ConnectionError("the engine has gone")
        self.embedded += texts
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Likewise."""
        return self._vector(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Likewise."""
        return self.embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Likewise."""
        return self._vector(text)

    def _vector(self, text: str) -> list[float]:
        vector = [0.001] * self.dimensions
        for word in words(text):
            vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % self.dimensions] += 1
        length = math.hypot(*vector)
        return [value / length for value in vector]


class Shelf:
    """One store, with what ingests into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.embeddings = WordEmbeddings()
        self.store = PassageStore(Where(str(folder)))

    async def put(self, source: str, text: str | bytes, collection: str = "docs", **fields: Any) -> Progress:
        """Ingest one document; the last that was told of it."""
        content = text.encode() if isinstance(text, str) else text
        ingest = Ingest(self.store, self.embeddings, fields.pop("embedding", "words"), Limits(**fields))
        told = [now async for now in ingest(collection, File(source, content))]
        return told[-1]

    async def sources(self, collection: str = "docs") -> list[str]:
        """The whole documents."""
        return [record.source for record in await self.store.records(collection)]


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    """An empty store."""
    made = Shelf(tmp_path / "store")
    yield made
    await made.store.aclose()


def pdf_of(*pages: str, password: str | None = None) -> bytes:
    """A PDF with these texts, a line each."""
    writer = PdfWriter()
    font = DictionaryObject(
        {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
         NameObject("/BaseFont"): NameObject("/Helvetica")}
    )  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(612, 792)
        stream = DecodedStreamObject()
        shown = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        stream.set_data(f"BT /F1 12 Tf 72 720 Td ({shown}) Tj ET".encode("latin-1"))
        page[NameObject("/Contents")] = writer._add_object(stream)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- the only way
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


@pytest.fixture
def pdf() -> Any:
    """Makes PDFs."""
    return pdf_of
