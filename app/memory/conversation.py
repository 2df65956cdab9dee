"""What of a conversation is new, what fits into a prompt, and what belongs together. Pure: values in, values out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.base import BaseMessageChunk
from langchain_core.messages.utils import message_chunk_to_message

from app.memory.kept import Turn


def without_system(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """The messages that are said, without those that say how."""
    return [message for message in messages if not isinstance(message, SystemMessage)]


def unseen(stored: Sequence[BaseMessage], sent: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return what of ``sent`` is new.

    A client may send only its new turn, or the conversation so far as well, as LangServe's chat playground does: what
    it repeats of the end of the stored one is left out. System messages are no part of either. Something always stays
    new.
    """
    said, known = without_system(sent), [*map(_identity, without_system(stored))]
    repeated = [*map(_identity, said)]
    for length in range(min(len(known), len(said) - 1), 0, -1):
        if known[-length:] == repeated[:length]:
            return said[length:]
    return said


def _identity(message: BaseMessage) -> str:
    """What makes two messages the same: who says what, with which calls. Ids and metadata come and go."""
    calls = [(call["name"], call["args"]) for call in message.tool_calls] if isinstance(message, AIMessage) else []
    return json.dumps([message.type.removesuffix("MessageChunk").lower(), message.content, calls], sort_keys=True)


def opens(messages: Sequence[BaseMessage]) -> bool:
    """Whether a turn begins with what a person says; one that begins with a tool's result goes on with the last."""
    said = without_system(messages)
    return not said or not isinstance(said[0], ToolMessage)


def exchanges(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Group turns that belong together: a question, the tools called for it, and the answer. Oldest first."""
    groups: list[list[Turn]] = []
    for turn in turns:
        if turn.opens or not groups:
            groups.append([])
        groups[-1].append(turn)
    return groups


def newest_that_fit(turns: Sequence[Turn], room: int, *, going_on: bool) -> list[Turn]:
    """Return the newest whole exchanges that take at most ``room`` tokens together; every turn must be counted.

    Args:
        turns: Oldest first.
        room: Tokens.
        going_on: The new messages go on with the last exchange, which therefore stays in any case.
    """
    kept: list[Turn] = []
    for index, group in enumerate(reversed(exchanges(turns))):
        tokens = sum(turn.tokens or 0 for turn in group)
        if tokens > room and not (going_on and index == 0):
            break
        room -= tokens
        kept[:0] = group
    return kept


def system_of(messages: Iterable[BaseMessage]) -> SystemMessage | None:
    """Return the last system message; several in a row are one."""
    run: list[SystemMessage] = []
    fresh = True
    for message in messages:
        if isinstance(message, SystemMessage):
            run = [message] if fresh else [*run, message]
            fresh = False
        else:
            fresh = True
    if not run:
        return None
    return run[0] if len(run) == 1 else SystemMessage("\n\n".join(message.text for message in run))


def in_pairs(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Leave out calls of tools that nobody answered, and answers to calls that are not there.

    A call is answered before anybody else speaks; the last message may be a call, or answers to one.
    """
    whole: list[BaseMessage] = []
    waiting = set[str]()
    caller = 0
    for message in messages:
        if isinstance(message, ToolMessage):
            if message.tool_call_id in waiting:
                waiting.discard(message.tool_call_id)
                whole.append(message)
            continue
        if waiting:
            del whole[caller:]
        waiting, caller = set[str](), len(whole)
        if isinstance(message, AIMessage):
            waiting = {call["id"] for call in message.tool_calls if call["id"]}
        whole.append(message)
    return whole


class Gathered:
    """The pieces of an answer as they pass by, and the whole messages at the end."""

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self.add = self._pieces.append

    def messages(self) -> list[BaseMessage]:
        """Return the whole messages of the answer; what is no message is left out."""
        return [*_joined(piece for piece in self._pieces if isinstance(piece, BaseMessage))]


def _joined(pieces: Iterator[BaseMessage]) -> Iterator[BaseMessage]:
    chunks: list[AIMessageChunk] = []
    for piece in pieces:
        if isinstance(piece, AIMessageChunk):
            chunks.append(piece)
            continue
        if chunks:
            yield _answer(chunks)
            chunks = []
        yield message_chunk_to_message(piece) if isinstance(piece, BaseMessageChunk) else piece
    if chunks:
        yield _answer(chunks)


def _answer(chunks: Sequence[AIMessageChunk]) -> BaseMessage:
    return message_chunk_to_message(add_ai_message_chunks(*chunks))


def is_whole(messages: Sequence[BaseMessage]) -> bool:
    """Whether an answer ended as the engine ends one, rather than somewhere."""
    last = messages[-1] if messages else None
    return isinstance(last, AIMessage) and bool(last.response_metadata.get("finish_reason"))


def worth_keeping(message: BaseMessage) -> BaseMessage:
    """Return a message without what only its own request needed: probabilities, token ids."""
    if not isinstance(message, AIMessage):
        return message
    kept = {name: message.response_metadata[name] for name in KEPT if name in message.response_metadata}
    return message.model_copy(update={"response_metadata": kept})


KEPT = ("finish_reason", "stop_reason", "model_name", "model_provider")


def text_of(messages: Iterable[BaseMessage]) -> str:
    """Return what was said, one line a message, for a summary."""
    names: dict[type, str] = {HumanMessage: "User", AIMessage: "Assistant", ToolMessage: "Tool"}
    lines = ((names.get(type(message), message.type), message.text.strip()) for message in messages)
    return "\n".join(f"{name}: {text}" for name, text in lines if text)
