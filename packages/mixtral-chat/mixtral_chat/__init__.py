"""Mixtral-Instruct as a LangServe chain."""

from mixtral_chat.chain import build_chain, chain

__all__ = ["build_chain", "chain"]
