"""Who asks: the id of the key that a request showed, or nothing where no key is asked for.

Whoever checks keys sets it for the request's task; tasks that the request starts inherit it. What belongs to somebody
(sessions, files) is kept under this name and never shown under another.
"""

from contextvars import ContextVar

current_owner: ContextVar[str] = ContextVar("current_owner", default="")
"""Empty: everybody, where no key is asked for."""
