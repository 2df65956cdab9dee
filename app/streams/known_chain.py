"""Chains whose steps are known, and what they ask their model: the beginning of the fast path, for every protocol.

Known are prompts, then a chat model, then perhaps a string parser. They are LangChain's own and do what they always do,
up to the request's body. What is left out is what LangChain does with each piece of the answer for callback handlers
that are not there: tees, tasks, merged copies. docs/adr/0014 tells more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import getrandbits
from typing import Any, cast
from uuid import UUID

from chat_vllm import ChatPrompt, ChatVLLM, ConfigurableChat
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from langchain_core.runnables.base import RunnableBinding

OPTIONS = ("extra_headers", "extra_query", "timeout")
"""Arguments about the HTTP request, which the SDK understands."""
PASSED_ON = frozenset({"text", "image_url"})
"""Parts of a content, by their type, that LangChain leaves as they are; a test compares."""


@dataclass(frozen=True)
class KnownChain:
    """A chain whose steps are known."""

    prompts: tuple[Runnable[Any, Any], ...]
    model: Runnable[Any, Any]
    """A ``ChatVLLM`` or one whose sampling a request may change."""
    arguments: Mapping[str, Any]
    """Bound to the model: tools, a schema."""
    parser: StrOutputParser | None

    @property
    def takes_anything(self) -> bool:
        """Whether the first prompt checks its input itself, so that nobody has to bring it into form before."""
        return isinstance(self.prompts[0], ChatPrompt)

    def fits(self, config: RunnableConfig) -> bool:
        """Whether a request with this config may go the fast way, as far as that alone tells."""
        llm, _, config = self._model_for(config)
        return llm is not None and not _listened_to(config, llm)

    async def prepare(self, value: Any, config: RunnableConfig) -> "Asked | None":
        """Return what the model is asked for this input; None where LangChain has to run the chain itself."""
        llm, arguments, config = self._model_for(config)
        if llm is None or _listened_to(config, llm):
            return None
        for prompt in self.prompts:
            asking = prompt.ask(value) if isinstance(prompt, ChatPrompt) else prompt.ainvoke(value, config)
            value = await asking
        if not isinstance(value, PromptValue):
            return None
        passed_on = all(map(_is_passed_on, value.to_messages()))
        return Asked(llm, value, arguments, self.parser) if passed_on else None

    def _model_for(self, config: RunnableConfig) -> tuple[ChatVLLM | None, Mapping[str, Any], RunnableConfig]:
        """Return the model that this config asks for, where it is one that streams and has the short way."""
        model, arguments = self.model, dict(self.arguments)
        if isinstance(model, ConfigurableChat):
            model, config = model.prepare(config)
        model, added = _unbind(model)
        arguments.update(added)
        arguments.pop("ls_structured_output_format", None)  # LangChain tells tracers of it, and takes it out too
        usual = type(model) is ChatVLLM and model.answers_short and not any(name in arguments for name in OPTIONS)
        return cast("ChatVLLM", model) if usual else None, arguments, config


def _is_passed_on(message: BaseMessage) -> bool:
    """Whether ``astream`` gives a message to the model as it is; other parts it brings into LangChain's form first."""
    content: Any = message.content
    return isinstance(content, str) or all(isinstance(part, str) or part.get("type") in PASSED_ON for part in content)


def _listened_to(config: RunnableConfig, llm: ChatVLLM) -> bool:
    """Whether any callback handler is told of this run: the request's, the model's, or one of the environment's."""
    manager = AsyncCallbackManager.configure(config.get("callbacks"), llm.callbacks, verbose=llm.verbose)
    return bool(manager.handlers)


def recognise(chain: Runnable[Any, Any]) -> KnownChain | None:
    """Return a chain's steps if it is of the known kind: prompts, a chat model, perhaps a string parser."""
    chain, kwargs = _unbind(chain)
    if kwargs:
        return None
    steps = [*chain.steps] if isinstance(chain, RunnableSequence) else [chain]
    parser = steps.pop() if type(steps[-1]) is StrOutputParser else None
    if not steps:
        return None
    model, arguments = _unbind(steps.pop())
    known = all(isinstance(step, ChatPromptTemplate) for step in steps)
    if not steps or not known or not isinstance(model, ConfigurableChat | ChatVLLM):
        return None
    return KnownChain(tuple(steps), model, arguments, cast("StrOutputParser | None", parser))


def _unbind(runnable: Runnable[Any, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
    """Return what is below bindings that add nothing but arguments."""
    kwargs: dict[str, Any] = {}
    while _is_binding(runnable):
        binding = cast("Any", runnable)
        if binding.config or binding.config_factories:
            break
        kwargs = {**binding.kwargs, **kwargs}
        runnable = cast("Runnable[Any, Any]", binding.bound)
    return runnable, kwargs


def _is_binding(runnable: Runnable[Any, Any]) -> bool:
    """Whether it is a binding and nothing more: those that inherit from it try again, for example.

    What a chat model's ``bind`` returns is of a class of its own "purely for the type checker", with the same id.
    """
    return isinstance(runnable, RunnableBinding) and runnable.lc_id()[-1] == RunnableBinding.__name__


@dataclass(frozen=True)
class Asked:
    """One request to a chat model."""

    llm: ChatVLLM
    prompt: PromptValue
    arguments: Mapping[str, Any]
    parser: StrOutputParser | None

    async def stream(self) -> Any:
        """Return the engine's answer, as it begins."""
        return await self.llm.ask(self.llm.stream_payload(self.prompt, **self.arguments))

    async def whole(self) -> Any:
        """Return the chain's output."""
        answer = await self.llm.ask(self.llm.whole_payload(self.prompt, **self.arguments))
        result = self.llm.read_answer(b"".join([piece async for piece in answer]))
        generation = result.generations[0]
        message = generation.message
        message.id = message.id or f"{message_id()}-0"
        message.response_metadata = {
            **(result.llm_output or {}),
            **(generation.generation_info or {}),
            **message.response_metadata,
        }
        return self.parse(message)

    def parse(self, message: BaseMessage) -> Any:
        """Return what the chain gives out for a message."""
        return message if self.parser is None else self.parser.parse_result([ChatGeneration(message=message)])


def message_id() -> str:
    """Return an id as LangChain gives messages."""
    return f"lc_run--{new_id()}"


def new_id() -> str:
    """Return an id for a run. It is no secret, so it need not cost a call of the system."""
    return str(UUID(int=getrandbits(128), version=4))
