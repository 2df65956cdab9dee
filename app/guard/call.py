"""One request to the service as its guard sees it, whatever protocol it came by.

The guard makes it, everything on the way of the request finds it by ``current_call`` and notes what it learns, and the
guard reads it at the end: for the audit log, the metrics and the key's limits.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from vllm_launcher.keys import Key


@dataclass(slots=True)
class Call:
    """What is known of a request so far."""

    request_id: str
    protocol: str
    """``langserve``, ``openai`` …; ``pages`` for what no model answers."""
    route: str
    """Method and path."""
    key: Key | None = None
    lent: set[str] = field(default_factory=set[str])
    """Ids of models that its chain needs beside its own, whether or not the key is for them."""
    model: str = ""
    """The registry's id, once something asked for its server."""
    named: str = ""
    """The one that the path names, where it does: a request that fails before is noted with it."""
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    """When the first token of a stream came from an engine."""
    queued: float = 0.0
    """Seconds in line for engines."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    guessed_tokens: int = 0
    """Of prompts whose answer was left before the engine had counted them: a quarter of their bytes."""
    finish: str | None = None
    """Why the engine's last answer ended."""
    error: str | None = None
    """The type of the error it ended in, as bodies name it."""

    @property
    def tokens(self) -> int:
        """Of prompts and answers, as far as they are known."""
        return self.prompt_tokens + self.completion_tokens + self.guessed_tokens


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The request that is being answered; None outside of one."""


def may_use(model: str) -> bool:
    """Whether the key of the request under way may use a model; True outside of one, and where no key is asked for."""
    call = current_call.get()
    return call is None or call.key is None or call.key.allows(model) or model in call.lent


def lend(model: str) -> None:
    """Let the chain of the request under way use a model that it needs, whatever its key is for."""
    call = current_call.get()
    if call is not None:
        call.lent.add(model)


def note_model(model: str) -> None:
    """Note which model the request under way is about; the first one counts."""
    call = current_call.get()
    if call is not None and not call.model:
        call.model = model


def note_error(kind: str) -> None:
    """Note how the request under way fails; the last one counts."""
    call = current_call.get()
    if call is not None:
        call.error = kind
