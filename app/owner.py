"""Whose request this is, for whoever keeps something per owner: conversations, fairness, the audit log."""

from contextvars import ContextVar

current_owner: ContextVar[str] = ContextVar("current_owner", default="")
"""The id of the API key that a request came with; empty where none is asked for."""
