"""What can go wrong with documents.

::

    RetrievalError
    ├── UnreadableDocument   encrypted, damaged, without text, in another encoding, of an unknown kind
    ├── DocumentTooLarge     beyond a limit
    ├── UnknownDocument      no such collection or document
    ├── StoreMismatch        the collection was made with other embeddings
    ├── StoreFull            an embedded store takes no more
    └── StoreUnavailable     the store cannot be reached or opened now
"""

# ruff: noqa: N818 -- an error is named for what happened


class RetrievalError(Exception):
    """A failure with a meaning. ``hint`` is what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnreadableDocument(RetrievalError):
    """Its text cannot be had."""


class DocumentTooLarge(RetrievalError):
    """Beyond a limit."""


class UnknownDocument(RetrievalError):
    """No such collection or document."""


class StoreMismatch(RetrievalError):
    """The collection holds vectors of another model."""


class StoreFull(RetrievalError):
    """An embedded store takes no more."""


class StoreUnavailable(RetrievalError):
    """The store cannot be reached or opened now."""
