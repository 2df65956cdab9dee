"""What the app keeps documents with: one store, and the embedding model of the registry."""

from collections.abc import Collection
from urllib.parse import quote

from rag_chat import File, HybridRetriever, Ingest, Limits, PassageStore, Where, vllm_embeddings
from rag_chat.retriever import By
from rag_chat.store import Found

from app.chains import EngineAccess
from app.engines.endpoint import BASE_URL
from app.errors import Refused
from app.guard.call import lend
from app.settings import Settings
from vllm_launcher.registry import ModelSpec, Registry

__all__ = ["File", "Library", "link"]

USUAL_PASSAGES = 4


def link(collection: str, found: Found) -> str:
    """Return where a passage is shown to people, from the service's root."""
    return f"/documents/{quote(collection)}/{found.document}#p{found.passage.place.index}"


def store_of(settings: Settings) -> PassageStore:
    """Return the store that the settings name; it is opened when first needed."""
    documents = settings.documents
    key = documents.store_key.get_secret_value() if documents.store_key else None
    return PassageStore(Where(documents.store or str(settings.data / "documents"), key))


class Library:
    """The store, and how to read and write it.

    Args:
        settings: What one document may take.
        access: The way to the embedding model.
        store: Closed by whoever made the library.
    """

    def __init__(self, settings: Settings, access: EngineAccess, store: PassageStore) -> None:
        self.store = store
        self._documents = settings.documents
        self._access = access
        self._embedding: ModelSpec | None = None
        self._chains: dict[str, set[str]] = {}

    def embedding_of(self, registry: Registry) -> ModelSpec | None:
        """Return the entry of a registry that documents are embedded with."""
        wished = self._documents.embedding
        listed = (registry.server_of(spec) for spec in registry.models if spec.task == "embedding")
        return next((spec for spec in listed if wished in (None, spec.id)), None)

    def use(self, registry: Registry) -> None:
        """Embed with this registry's model from now on: the one that the settings name, else its first."""
        self._embedding = self.embedding_of(registry)
        self._chains.clear()
        for spec in registry.models:
            if spec.chain and spec.chain.retrieval:
                self._chains.setdefault(spec.chain.retrieval.collection, set()).add(spec.id)

    def chains_of(self, collection: str) -> Collection[str]:
        """Return the ids of the entries whose chains answer from a collection."""
        return self._chains.get(collection, ())

    def retriever(self, spec: ModelSpec, registry: Registry) -> HybridRetriever:
        """Return what finds passages for one entry's chain, with the embedding model of its registry.

        Raises:
            ValueError: The entry names no collection, or the registry has no embedding model.
        """
        wanted = spec.chain.retrieval if spec.chain else None
        if wanted is None:
            raise ValueError('it answers from documents: give its chain "retrieval": {"collection": "..."}')
        embedding = self.embedding_of(registry)
        if embedding is None:
            raise ValueError("it needs an entry of task embedding that its documents are embedded with")
        return self._searching(embedding, wanted.collection, wanted.passages)

    def searching(self, collection: str, passages: int = USUAL_PASSAGES, by: By = "both") -> HybridRetriever:
        """Return what finds passages of a collection.

        Raises:
            Refused: There is no embedding model.
        """
        return self._searching(self._needed(), collection, passages, by)

    def _searching(self, embedding: ModelSpec, collection: str, passages: int, by: By = "both") -> HybridRetriever:
        embeddings = self._embeddings(embedding)
        return HybridRetriever(
            store=self.store, embeddings=embeddings, collection=collection, passages=passages, by=by, link=link
        )

    def ingest(self) -> Ingest:
        """Return what brings documents into the store.

        Raises:
            Refused: There is no embedding model.
        """
        embedding = self._needed()
        told = self._documents
        limits = Limits(pages=told.pages, characters=told.characters, seconds=told.parse_seconds)
        return Ingest(self.store, self._embeddings(embedding), embedding.id, limits)

    def _needed(self) -> ModelSpec:
        if self._embedding is None:
            raise Refused(
                "Documents need an embedding model, and models.json has none.", hint='Add one of "task": "embedding".'
            )
        return self._embedding

    def _embeddings(self, spec: ModelSpec):  # noqa: ANN202 -- its class is the package's matter
        name, key = self._access.credentials(spec)
        client = self._access.client(spec.id)

        async def lend_it(_request: object) -> None:
            lend(spec.id)  # who may use a chain need not know what it searches with

        client.event_hooks = {"request": [lend_it]}
        return vllm_embeddings(name, BASE_URL, api_key=key.get_secret_value(), client=client)
