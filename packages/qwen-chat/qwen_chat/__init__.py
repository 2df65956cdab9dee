"""Qwen3 as a LangServe chain."""

from qwen_chat.chain import build_chain, chain

__all__ = ["build_chain", "chain"]
