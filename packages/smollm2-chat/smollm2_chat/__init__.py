"""SmolLM2-Instruct as a LangServe chain."""

from smollm2_chat.chain import build_chain, chain

__all__ = ["build_chain", "chain"]
