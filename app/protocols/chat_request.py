"""What a request for a conversation asks, whichever protocol it came by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chat_vllm import Options, Sampling
from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import BaseModel, ValidationError

from app.errors import InvalidInput, Refused
from app.responses import invalid


@dataclass(frozen=True)
class ChatRequest:
    """One question to one model.

    Exactly one of ``messages`` and ``prompt`` is given. A prompt is a user's turn for a chain, and the beginning of a
    text, without any chat template, for a raw model.
    """

    model: str
    """As the request names it: ``smollm2`` (the chain) or ``smollm2:raw``."""
    messages: Sequence[BaseMessage] = ()
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of ``chat_vllm.Sampling`` and ``chat_vllm.Options`` by name. Only what the request says."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the protocol calls an option, where it is called otherwise: errors name it so."""
    n: int = 1
    """Answers wanted."""
    stream: bool = False
    session: str | None = None
    """The conversation that the chain's memory continues."""
    user: str | None = None
    wait: float | None = None
    """Seconds to wait for the model to get ready; None: the setting's."""
    owner: str | None = None
    """The key that asks; None where keys are off."""

    seen: bool = False
    """Its pictures were checked, and are as the model takes them."""

    def turns(self) -> list[BaseMessage]:
        """Return the conversation."""
        return [HumanMessage(self.prompt)] if self.prompt is not None else [*self.messages]

    def configurable(self) -> dict[str, Any]:
        """Return what goes into the chain's config."""
        session = {} if self.session is None else {"session_id": self.session}
        return {**self.options, **session}

    def check(self) -> None:
        """Refuse what no chain could take, before a model is started for it.

        Raises:
            InvalidInput: An option is out of its range, or of another type; it is named as the protocol names it.
            Refused: Several answers in a conversation that is remembered.
        """
        if not self.messages and self.prompt is None:
            raise InvalidInput("messages: give at least one message.", param="messages")
        for kind in (Sampling, Options):
            self._check_options(kind)
        if self.n > 1 and self.session is not None:
            raise Refused(
                "A remembered conversation goes on with one answer: n has to be 1 with a session.",
                param=self.names.get("n", "n"),
            )

    def _check_options(self, kind: type[BaseModel]) -> None:
        said = {name: value for name, value in self.options.items() if name in kind.model_fields}
        try:
            kind.model_validate(said)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            raise invalid([self._as_named(problem) for problem in problems]) from error

    def _as_named(self, problem: Any) -> Mapping[str, Any]:
        first, *rest = problem["loc"]
        return {**problem, "loc": (self.names.get(first, first), *rest)}
