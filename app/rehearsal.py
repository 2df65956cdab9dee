"""A dry render of every chain's prompt through its checkpoint's own chat template, before anybody asks.

Where the checkpoint's folder is at hand this happens when the list of models is loaded, and a prompt that the template
refuses is an error of that list. The engine renders it too once it is ready (``/tokenize`` generates nothing), and the
log tells. ``chain.chat_template`` is rendered where the chain is built.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from chat_vllm import ChatPrompt
from jinja2 import TemplateError
from langchain_core.exceptions import ModelError, ModelInvalidRequestError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_openai_messages
from langchain_core.runnables import RunnableSequence

from app.chains import Chain, ChainError, EngineAccess, build_chat_model
from app.chat_template import ChatTemplate, TemplateRefusal, find_template
from app.errors import ServiceError, scrub
from app.memory.chain import RememberingChain
from vllm_launcher.registry import ModelSpec, PathSource, Registry, RegistryError, VllmEngine, place_in

log = logging.getLogger(__name__)

CONVERSATION = (HumanMessage("Hi"), AIMessage("Hello."), HumanMessage("Bye"))
WITHIN = 30.0
"""Seconds in which an engine renders; it does so beside its other work."""
SHOWN = 300
"""Characters of an engine's words that the log repeats."""


@dataclass(frozen=True)
class Rehearsed:
    """What is rendered dry: an entry, its chain's prompt, and the list of models that names them."""

    spec: ModelSpec
    prompt: ChatPrompt
    models: Path

    def messages(self) -> list[BaseMessage]:
        """Return a short conversation as the chain asks with it."""
        return self.prompt.format_messages(messages=[*CONVERSATION])

    def complaint(self, words: str, *, system: bool) -> str:
        """Return what is wrong, where, and what to do.

        Args:
            words: The template's.
            system: Without the system message it takes the conversation.
        """
        key = ("chain", "system_prompt") if system else ("chain",)
        where = self._where(key)
        what = "the chain's system prompt" if system else "a plain conversation"
        fix = FOLD if system else NO_TEMPLATE
        return f"{where}: the chat template of '{self.spec.id}' refuses {what}: {words}\n    fix: {fix}"

    def _where(self, key: tuple[str, ...]) -> str:
        try:
            place = place_in(self.models, self.spec.id, key)
        except RegistryError:  # it is being written anew
            return str(self.models)
        return f"{self.models}:{place.line}:{place.column}"


FOLD = (
    "use a package that puts it into the user's first turn, as mixtral_chat does (chat_vllm.FoldedPrompt), "
    'or set chain.system_prompt to ""'
)
NO_TEMPLATE = "give the entry a chain.chat_template, or serve a checkpoint whose own takes user and assistant in turns"


def prompt_of(chain: Chain | None) -> ChatPrompt | None:
    """Return the prompt that a chain begins with; None where it has several steps or none."""
    inner = chain.chain if isinstance(chain, RememberingChain) else chain
    first: Any = cast("Any", inner).first if isinstance(inner, RunnableSequence) else None
    return first if isinstance(first, ChatPrompt) else None


# --- by the checkpoint's files -----------------------------------------------------------------


def rehearse_files(rehearsed: Rehearsed, registry: Registry) -> None:
    """Render a prompt with the chat template of a checkpoint on this machine; do nothing where there is none.

    Raises:
        ChainError: The template refuses it.
    """
    template = _own_template(rehearsed.spec, registry)
    messages = rehearsed.messages()
    words = _refusal(template, messages) if template else None
    if template is not None and words is not None:
        system = _refusal(template, _without_system(messages)) is None
        raise ChainError(rehearsed.complaint(words, system=system))


def _own_template(spec: ModelSpec, registry: Registry) -> ChatTemplate | None:
    """Return the template that the engine will use, where that is the one beside the weights."""
    server = registry.server_of(spec)
    told_another = not isinstance(server.engine, VllmEngine) or "chat-template" in server.engine.flags
    if spec.chain is None or spec.chain.chat_template or told_another or not isinstance(server.source, PathSource):
        return None
    return find_template(Path(server.source.tokenizer or server.source.path))


def _refusal(template: ChatTemplate, messages: Sequence[BaseMessage]) -> str | None:
    turns = cast("list[Mapping[str, Any]]", convert_to_openai_messages([*messages]))
    try:
        template.render(turns)
    except TemplateRefusal as error:
        return error.message or "it does not say why"
    except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
        log.debug("%s cannot be rendered here; the engine will: %r", template.file, error)
    return None


def _without_system(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    return [message for message in messages if not isinstance(message, SystemMessage)]


# --- by the engine -----------------------------------------------------------------------------


class Rehearsals:
    """Lets each engine render its chains' prompts once, when it becomes ready.

    Args:
        access: Of the engines.
        rehearsed: What there is to render, now.
    """

    def __init__(self, access: EngineAccess, rehearsed: Callable[[], Sequence[Rehearsed]]) -> None:
        self._access = replace(access, guard=None)  # nobody's request: it counts for no key
        self._rehearsed = rehearsed
        # by model: the run of a server, and the entry, that were rendered last
        self._done: dict[str, tuple[object, ModelSpec]] = {}

    async def run(self) -> None:
        """Follow the servers until cancelled."""
        async for _ in self._access.table.changes():
            for rehearsed in self._rehearsed():
                await self._look_at(rehearsed)

    async def _look_at(self, rehearsed: Rehearsed) -> None:
        model = rehearsed.spec.id
        endpoint = self._access.table.endpoint(model)
        if endpoint is None or self._done.get(model) == (endpoint, rehearsed.spec):
            return
        self._done[model] = (endpoint, rehearsed.spec)
        complaint = await self.rehearse(rehearsed)
        if complaint is not None:
            log.warning("%s", complaint)

    async def rehearse(self, rehearsed: Rehearsed) -> str | None:
        """Return what the engine has to say against a chain's prompt; None where it takes it, or does not render."""
        messages = rehearsed.messages()
        words = await self._refusal(rehearsed.spec, messages)
        if words is None:
            return None
        plain = _without_system(messages)
        system = len(plain) < len(messages) and await self._refusal(rehearsed.spec, plain) is None
        return rehearsed.complaint(words, system=system)

    async def _refusal(self, spec: ModelSpec, messages: Sequence[BaseMessage]) -> str | None:
        try:
            async with asyncio.timeout(WITHIN):
                await build_chat_model(spec, self._access).model.acount_tokens(messages)
        except ModelInvalidRequestError as error:
            return scrub(_words(error))[:SHOWN]
        except (ModelError, ServiceError, TimeoutError, LookupError, TypeError) as error:
            log.debug("the engine of '%s' renders no prompt: %r", spec.id, error)
        return None


def _words(error: Exception) -> str:
    """Return what the engine said, without the SDK's words around it."""
    body: Any = getattr(error, "body", None)
    told: Any = cast("Mapping[str, Any]", body).get("message") if isinstance(body, Mapping) else None
    return told if isinstance(told, str) else str(error)
