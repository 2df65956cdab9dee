"""LangServe's ``stream`` and ``invoke`` at the cost of a proxy, for chains whose steps are known.

Known are prompts, then a chat model, then perhaps a string parser. They are LangChain's own and do what they always do,
up to the request's body. What is left out is what LangChain does with each piece of the answer for callback handlers
that are not there: tees, tasks, merged copies. docs/adr/0014 tells more; tests compare every byte with the general
path's.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import getrandbits
from typing import Any, cast
from uuid import UUID

import orjson
from chat_vllm import ChatPrompt, ChatVLLM, ConfigurableChat
from chat_vllm.events import DONE, EventSplitter, read_plain
from chat_vllm.model import has_finished, require_finish
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from langchain_core.runnables.base import RunnableBinding

from app.protocols.sse import Event

Dumps = Callable[[Any], bytes]
"""LangServe's serializer."""

MARK, ID_MARK = "\x00the text\x00", b"lc_run--the-id"
OPTIONS = ("extra_headers", "extra_query", "timeout")
"""Arguments about the HTTP request, which the SDK understands."""


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
        plain = all(isinstance(message.content, str) for message in value.to_messages())
        return Asked(llm, value, arguments, self.parser) if plain else None

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
    while type(runnable) is RunnableBinding:  # those that inherit from it do more: they try again, for example
        binding = cast("Any", runnable)
        if binding.config or binding.config_factories:
            break
        kwargs = {**binding.kwargs, **kwargs}
        runnable = cast("Runnable[Any, Any]", binding.bound)
    return cast("Runnable[Any, Any]", runnable), kwargs


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
        message.id = message.id or f"{_run_id()}-0"
        message.response_metadata = {
            **(result.llm_output or {}),
            **(generation.generation_info or {}),
            **message.response_metadata,
        }
        return self.parse(message)

    def parse(self, message: BaseMessage) -> Any:
        """Return what the chain gives out for a message."""
        return message if self.parser is None else self.parser.parse_result([ChatGeneration(message=message)])


def _run_id() -> str:
    """Return an id as LangChain gives messages."""
    return f"lc_run--{new_id()}"


def new_id() -> str:
    """Return an id for a run. It is no secret, so it need not cost a call of the system."""
    return str(UUID(int=getrandbits(128), version=4))


@cache
def _around_text(dumps: Dumps, provider: str) -> tuple[bytes, bytes]:
    """Return what stands before and after the text in the frame of a piece that is text alone, and has ``ID_MARK``."""
    piece = AIMessageChunk(content=MARK, id=ID_MARK.decode(), response_metadata={"model_provider": provider})
    before, after = _frame(dumps(piece)).split(orjson.dumps(MARK))
    return before, after


def _frame(data: bytes) -> bytes:
    return b"event: data\r\ndata: " + data + b"\r\n\r\n"


class LangServeFrames:
    """LangServe's frames of one stream: ``metadata``, ``data`` for every piece, ``end``.

    Args:
        asked: What the model was asked.
        run_id: Of the whole run.
        dumps: LangServe's serializer.
    """

    def __init__(self, asked: Asked, run_id: str, dumps: Dumps) -> None:
        self.ended = self.begun = False
        self.error: Exception | None = None
        self._asked = asked
        self._dumps = dumps
        self._splitter = EventSplitter()
        self._finished = False
        self._run_id = run_id
        self._message_id = _run_id()
        if asked.parser is not None:
            self._before, self._after = b"event: data\r\ndata: ", b"\r\n\r\n"
        else:
            before, after = _around_text(dumps, asked.llm.model_provider)
            self._before, self._after = before, after.replace(ID_MARK, self._message_id.encode())

    def feed(self, piece: bytes) -> bytes:
        """Return the frames of the events that ``piece`` completes."""
        frames: list[bytes] = []
        try:
            for event in self._splitter.feed(piece):
                if event.startswith(DONE):
                    self._finish(frames)
                    break
                self._take(event, frames)
        except Exception as error:  # noqa: BLE001 -- the stream's last word
            self.error, self.ended = error, True
        return b"".join(frames)

    def close(self) -> bytes:
        """Return the last frames."""
        frames: list[bytes] = []
        try:
            self._finish(frames)
        except Exception as error:  # noqa: BLE001 -- the stream's last word
            self.error, self.ended = error, True
        return b"".join(frames)

    def _take(self, event: bytes, frames: list[bytes]) -> None:
        plain = read_plain(event)
        if plain is not None and not plain[1]:
            frame = self._before + orjson.dumps(plain[0]) + self._after
        else:
            chunk = self._asked.llm.read_chunk(event)
            if chunk is None:
                return
            self._finished = self._finished or has_finished(chunk)
            message = chunk.message
            message.id = message.id or self._message_id
            message.response_metadata = {**(chunk.generation_info or {}), **message.response_metadata}
            frame = self._frame(message)
        if not self.begun:
            self.begun = True
            frames.append(Event("metadata", json.dumps({"run_id": self._run_id})).encode())
        frames.append(frame)

    def _finish(self, frames: list[bytes]) -> None:
        require_finish(None, finished=self._finished)
        frames.append(self._frame(AIMessageChunk(content="", chunk_position="last", id=self._message_id)))
        frames.append(Event("end").encode())
        self.ended = True

    def _frame(self, message: BaseMessage) -> bytes:
        return _frame(self._dumps(self._asked.parse(message)))
