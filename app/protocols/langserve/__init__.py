"""LangServe's protocol."""
