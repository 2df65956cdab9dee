"""From a ``ChatRequest`` to an answer: the model made ready, its chain run, and every failure a ``ServiceError``.

Knows no wire. A route keeps its caller in view (``app/guard.while_wanted``, or gRPC's own cancellation): whoever
cancels ``answer``, or closes ``stream``, cancels the engine's work.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import RunnableConfig

from app.catalogue import Catalogue, Choice
from app.engines.table import ServerTable
from app.errors import EngineFailed, InvalidInput, ModelNotReady, Refused, ServiceError, ShuttingDown, TooLarge
from app.images import ImageCheck
from app.images.blocks import find_images
from app.memory.session import current_session
from app.protocols.chat_request import ChatRequest
from app.protocols.chunks import stream_chunks
from app.protocols.plain_completion import complete, complete_stream
from app.responses import name_error, named_errors
from app.settings import Settings
from app.shutdown import Shutdown
from app.streams.asking import Question

T = TypeVar("T")


class ChatService:
    """Answers conversations.

    Args:
        catalogue: The models.
        table: Knows the ready servers.
        settings: Waits and limits.
        shutdown: Refuses new work once it has begun.
        images: Checks the pictures of questions.
    """

    def __init__(
        self, catalogue: Catalogue, table: ServerTable, settings: Settings, shutdown: Shutdown, images: ImageCheck
    ) -> None:
        self.catalogue = catalogue
        self.settings = settings
        self.shutdown = shutdown
        self.images = images
        self.table = table

    def check(self, request: ChatRequest) -> Choice:
        """Return the model of a request that can be answered; starts nothing.

        Raises:
            ServiceError: It cannot be.
        """
        if self.shutdown.begun:
            raise ShuttingDown
        choice = self.catalogue.choose(request.model)
        choice.answerer()
        request.check()
        limits = self.settings.limits
        if len(request.messages) > limits.messages:
            raise TooLarge(f"More than {limits.messages} messages.", param="messages")
        if not 1 <= request.n <= limits.choices:
            raise InvalidInput(f"n: from 1 to {limits.choices}.", param=request.names.get("n", "n"))
        return choice

    async def look_at(self, choice: Choice, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return messages with their pictures as the model takes them.

        Raises:
            ServiceError: A picture is none, too large, or out of reach; or the model sees none.
        """
        spec = choice.served.spec
        if spec.task == "vision-chat":
            return await self.images.check_images(messages, spec.limits)
        if given := find_images(messages):
            raise Refused(f"'{choice.name}' sees no pictures.", param=given[0].place)
        return [*messages]

    async def see(self, choice: Choice, request: ChatRequest) -> ChatRequest:
        """Return a question with its pictures as the model takes them.

        Raises:
            ServiceError: As ``look_at``.
        """
        if request.seen or all(isinstance(message.content, str) for message in request.messages):
            return request
        return replace(request, messages=await self.look_at(choice, request.messages), seen=True)

    async def _accept(self, request: ChatRequest) -> tuple[Choice, ChatRequest]:
        """Return a question that can be answered, and its model, ready."""
        choice = self.check(request)
        current_session.set(request.session)
        request = await self.see(choice, request)
        await self.ensure_ready(choice, request.wait)
        return choice, request

    async def ensure_ready(self, choice: Choice, wait: float | None = None) -> None:
        """Wait for the model's server.

        Raises:
            ServiceError: It is not ready in time, or never will be.
        """
        settings = self.settings
        seconds = min(settings.wait_ready if wait is None else wait, settings.wait_ready_max)
        await self.table.ensure_ready(choice.id, seconds)

    async def is_ready_within(self, choice: Choice, wait: float | None, seconds: float) -> bool:
        """Wait so long; False if the request would wait longer, and the model is not ready.

        Raises:
            ServiceError: It is not ready in time, or never will be.
        """
        settings = self.settings
        most = min(settings.wait_ready if wait is None else wait, settings.wait_ready_max)
        try:
            await self.table.ensure_ready(choice.id, min(most, seconds))
        except ModelNotReady:
            if most <= seconds:
                raise
            return False
        return True

    # --- the short way -----------------------------------------------------------------------

    def may_push(self, choice: Choice, request: ChatRequest) -> bool:
        """Whether a request may go the short way: one answer from a chain of a known kind."""
        known = self.settings.fast_path and choice.fast is not None and request.n == 1
        return known and not (choice.raw and request.prompt is not None)

    async def ask(self, choice: Choice, request: ChatRequest, index: int = 0) -> Question | None:
        """Return what the chain asks the model, which is ready; None where LangChain has to run it after all."""
        current_session.set(request.session)
        if choice.fast is None or not self.settings.fast_path:
            return None
        return await choice.fast.ask({"messages": request.turns()}, _config(request, index))

    # --- answers -----------------------------------------------------------------------------

    async def answer(self, request: ChatRequest) -> list[AIMessage]:
        """Return ``request.n`` answers.

        Raises:
            ServiceError: What went wrong.
        """
        with named_errors():
            choice, request = await self._accept(request)
            if request.n == 1:
                return [await self._answer(choice, request, 0)]
            return await gather(self._answer(choice, request, index) for index in range(request.n))

    async def _answer(self, choice: Choice, request: ChatRequest, index: int) -> AIMessage:
        if choice.raw and request.prompt is not None:
            return await complete(choice, request, _seeded(request, index))
        if (question := await self.ask(choice, request, index)) is not None:
            return as_message(await question.whole())
        config = _config(request, index)
        return as_message(await choice.answerer().ainvoke({"messages": request.turns()}, config))

    async def count(self, request: ChatRequest) -> int:
        """Return the tokens of a conversation as the model would be given it; a raw one's are its chain's.

        Raises:
            ServiceError: What went wrong.
        """
        with named_errors():
            choice, request = await self._accept(request)
            counter = choice.served.counter
            if counter is None:
                raise Refused(f"The tokens of '{choice.name}' cannot be counted.", param="model")
            counted = await counter.ainvoke({"messages": request.turns()}, {"configurable": {**request.options}})
            usage = as_message(counted).usage_metadata
            if usage is None:
                raise EngineFailed("The engine did not count.")
            return usage["input_tokens"]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[AIMessageChunk, None]:
        """Yield the pieces of one answer; ``n`` has to be 1.

        An error before the first piece is raised at the first ``anext``, as any later one is where it happens.

        Raises:
            ServiceError: What went wrong.
        """
        async for _, chunk in self.stream_choices(request):
            yield chunk

    async def stream_choices(self, request: ChatRequest) -> AsyncGenerator[tuple[int, AIMessageChunk], None]:
        """Yield the pieces of ``n`` answers as they come, each with its answer's index.

        Raises:
            ServiceError: What went wrong; with the first error all answers end.
        """
        try:
            choice, request = await self._accept(request)
            if request.n == 1:
                async for chunk in self._stream(choice, request, 0):
                    yield 0, chunk
                return
            async for piece in self._stream_several(choice, request):
                yield piece
        except ServiceError:
            raise
        except Exception as error:
            raise name_error(error) from error

    async def _stream(self, choice: Choice, request: ChatRequest, index: int) -> AsyncGenerator[AIMessageChunk, None]:
        if choice.raw and request.prompt is not None:
            pieces: Any = complete_stream(choice, request, _seeded(request, index))
        elif (question := await self._pull(choice, request)) is not None:
            pieces = stream_chunks(question.asked)
        else:
            pieces = choice.answerer().astream({"messages": request.turns()}, _config(request, index))
        try:
            async for piece in pieces:
                chunk = as_chunk(piece)
                if chunk is not None:
                    yield chunk
        finally:
            await pieces.aclose()

    async def _pull(self, choice: Choice, request: ChatRequest) -> Question | None:
        """Return what the model is asked where its answer can be pulled past LangChain; a memory needs LangChain."""
        pulled = request.session is None and self.may_push(choice, request)
        return await self.ask(choice, request) if pulled else None

    async def _stream_several(
        self, choice: Choice, request: ChatRequest
    ) -> AsyncGenerator[tuple[int, AIMessageChunk], None]:
        """Each answer runs in a task of its own; the queue is short, so a slow reader slows the engine."""
        queue: asyncio.Queue[tuple[int, AIMessageChunk] | None] = asyncio.Queue(request.n)

        async def run(index: int) -> None:
            async for chunk in self._stream(choice, request, index):
                await queue.put((index, chunk))

        async def run_all() -> None:
            try:
                await gather(run(index) for index in range(request.n))
            finally:
                await queue.put(None)

        running = asyncio.create_task(run_all(), name="several answers")
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await running
        finally:
            while not running.done():  # its last put may wait for room
                running.cancel()
                await asyncio.wait([running], timeout=0.1)


async def gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


def _seeded(request: ChatRequest, index: int) -> dict[str, Any]:
    """Return the options of one of several answers: the same seed for all would make them all the same."""
    configurable = request.configurable()
    seed = configurable.get("seed")
    return configurable if seed is None else {**configurable, "seed": seed + index}


def _config(request: ChatRequest, index: int) -> RunnableConfig:
    return {"configurable": _seeded(request, index)}


def as_message(output: Any) -> AIMessage:
    """Return a chain's output as a message; a chain may give one, or plain text.

    Raises:
        EngineFailed: It is neither.
    """
    if isinstance(output, AIMessage):
        return output
    if isinstance(output, str):
        return AIMessage(output)
    raise EngineFailed("The chain's output is neither a message nor a text.", hint="Other protocols show it as it is.")


def as_chunk(output: Any) -> AIMessageChunk | None:
    """Return a piece of a chain's output as a piece of a message; None for what is none (a tool's message)."""
    if isinstance(output, AIMessageChunk):
        return output
    if isinstance(output, str):
        return AIMessageChunk(content=output)
    if isinstance(output, AIMessage):
        fields = output.model_dump(exclude={"type"})
        return AIMessageChunk(**fields)
    return None
