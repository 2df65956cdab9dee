"""Answers from documents, with citations, as a LangServe chain."""

from rag_chat.chain import build_chain, chain
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
