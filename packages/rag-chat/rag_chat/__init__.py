"""Answers from documents, with citations, as a LangServe chain.

Names are imported when they are first used: the process that reads one document has no time for LangChain.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_chat.answering import build_chain, chain
    from rag_chat.embedding import vllm_embeddings
    from rag_chat.errors import RetrievalError
    from rag_chat.ingest import File, Ingest, Progress
    from rag_chat.parsing import Limits
    from rag_chat.retriever import HybridRetriever
    from rag_chat.store import PassageStore, Where

__all__ = [
    "File",
    "HybridRetriever",
    "Ingest",
    "Limits",
    "PassageStore",
    "Progress",
    "RetrievalError",
    "Where",
    "build_chain",
    "chain",
    "vllm_embeddings",
]

_HOMES = {
    **dict.fromkeys(("build_chain", "chain"), "answering"),
    **dict.fromkeys(("File", "Ingest", "Progress"), "ingest"),
    **dict.fromkeys(("PassageStore", "Where"), "store"),
    "HybridRetriever": "retriever",
    "Limits": "parsing",
    "RetrievalError": "errors",
    "vllm_embeddings": "embedding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
