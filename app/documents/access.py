"""Who may read and change collections, where keys are asked for.

Who may use a chain may read the collection that it answers from: it shows its passages anyway. What goes into one
decides what chains say to everybody, so only a key made for that may change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from app.documents.library import Library
from app.documents.uploads import collection_of
from app.errors import NotAllowed
from app.guard.gate import key_of


@dataclass(frozen=True)
class Access:
    """Says which collection a request is about, if its key may do what it wants there."""

    library: Library

    def readable(self, request: Request) -> str:
        """Return the collection that a request reads.

        Raises:
            InvalidInput: Its path names none.
            NotAllowed: Its key may not.
        """
        collection = collection_of(request)
        if not self._may_read(request, collection):
            hint = "A key may read the collections of the chains that it may use."
            raise NotAllowed(f"This API key may not read the collection '{collection}'.", hint=hint, param="collection")
        return collection

    def changeable(self, request: Request) -> str:
        """Return the collection that a request changes.

        Raises:
            InvalidInput: Its path names none.
            NotAllowed: Its key may not.
        """
        key = key_of(request)
        if key is not None and not key.documents:
            hint = "Make one with `keys create --documents`."
            raise NotAllowed("This API key may not change documents.", hint=hint)
        return collection_of(request)

    def only_readable(self, request: Request, collections: Sequence[str]) -> list[str]:
        """Return those of these collections that a request may read."""
        return [each for each in collections if self._may_read(request, each)]

    def _may_read(self, request: Request, collection: str) -> bool:
        key = key_of(request)
        if key is None or key.documents or not key.models:
            return True
        return any(map(key.allows, self.library.chains_of(collection)))
