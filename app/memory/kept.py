"""What is kept of conversations, without the database that keeps it: values that every part of the app may import."""

import json
from dataclasses import dataclass
from functools import cached_property

from langchain_core.messages import BaseMessage, messages_from_dict


class StoreError(Exception):
    """The store's address cannot be used; the message says why."""


@dataclass(frozen=True)
class SessionName:
    """Which conversation: the same id of another owner or model is another one."""

    owner: str
    model: str
    id: str


@dataclass(frozen=True)
class Turn:
    """What was said in one request: what came in, and the whole answer."""

    number: int
    text: str
    """Its messages, as JSON."""
    opens: bool
    """Whether it begins with what a person says, not with a tool's result."""
    tokens: int | None
    """That it takes of a prompt; None: not counted."""
    created_at: float

    @cached_property
    def messages(self) -> list[BaseMessage]:
        """Its messages."""
        return messages_from_dict(json.loads(self.text))


@dataclass
class Held:
    """A session that one request has to itself. ``holder`` proves it to the database."""

    key: int
    holder: str
    next_turn: int
    turns: list[Turn]
    """The newest ones that no summary tells of, oldest first."""
    summary: str | None
    summary_turn: int


@dataclass(frozen=True)
class SessionInfo:
    """What is told of a session in a list. Times are seconds since 1970."""

    model: str
    id: str
    created_at: float
    used_at: float
    expires_at: float | None
    turns: int
    bytes: int


@dataclass(frozen=True)
class Bounds:
    """How much is kept."""

    session_bytes: int = 16 * 1024 * 1024
    """Of one session; beyond it its oldest turns go."""
    sessions: int = 10_000
    """Of one owner; beyond it those that were not used for the longest time go."""
