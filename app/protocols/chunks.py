"""A known chain's stream pulled piece by piece, for wires that nothing can be pushed into: gRPC's.

The pieces are those of the chain's ``astream``, without what LangChain does to each for callback handlers that are not
there; see ``known_chain.py``.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from chat_vllm.events import DONE, EventSplitter, read_plain
from chat_vllm.model import has_finished, require_finish

from app.streams.known_chain import Asked


async def stream_chunks(asked: Asked) -> AsyncGenerator[Any, None]:
    """Yield the chain's output; a piece of text and nothing else as that text.

    Raises:
        ModelError: See ``chat_vllm.errors``.
        ServiceError: The engine failed.
    """
    splitter, finished = EventSplitter(), False
    async with aclosing(await asked.stream()) as answer:
        async for piece in answer:
            for event in splitter.feed(piece):
                if event.startswith(DONE):
                    require_finish(None, finished=finished)
                    return
                plain = read_plain(event)
                if plain is not None and not plain[1]:
                    yield plain[0]
                    continue
                chunk = asked.llm.read_chunk(event)
                if chunk is not None:
                    finished = finished or has_finished(chunk)
                    message: Any = chunk.message
                    message.response_metadata = {**(chunk.generation_info or {}), **message.response_metadata}
                    yield asked.parse(message)
    require_finish(None, finished=finished)
