"""GLM-4V and GLM-4.1V as a LangServe chain."""

from glm4v_chat.chain import build_chain, chain

__all__ = ["build_chain", "chain"]
