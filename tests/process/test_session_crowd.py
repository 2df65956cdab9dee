"""Many conversations at once, on two workers and one database: nothing is mixed up."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from chat_vllm import TokenCount, chat_prompt
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from app.guard.owner import current_owner
from app.memory.chain import Habits, RememberingChain
from app.memory.counting import Counter
from app.memory.store import SessionName, SessionStore, open_store
from app.memory.turntaking import TurnTaking
from tests.process.fleet import DEADLINE

SESSIONS = 50
TURNS = 20


class Parrot(BaseChatModel):
    """Says back the whole conversation it was asked with, in two pieces."""

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _said(self, messages: Sequence[BaseMessage]) -> list[AIMessageChunk]:
        text = f"[{len(messages)}: {messages[-1].text}]"
        return [
            AIMessageChunk(content=text[:3]),
            AIMessageChunk(content=text[3:], response_metadata={"finish_reason": "stop"}),
        ]

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        first, rest = self._said(messages)
        whole = AIMessage(first.text + rest.text, response_metadata={"finish_reason": "stop"})
        return ChatResult(generations=[ChatGeneration(message=whole)])

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._said(messages):
            await asyncio.sleep(0)
            yield ChatGenerationChunk(message=chunk)


class Scales:
    """Counts a token a message."""

    async def acount_tokens(self, messages: Sequence[BaseMessage], *, generation_prompt: bool = True) -> TokenCount:
        """As the engine's tokenizer."""
        return TokenCount(len(messages) + generation_prompt, 10_000)


def worker(store: SessionStore) -> RememberingChain:
    """One worker's chain."""
    llm = Parrot()
    return RememberingChain(
        chat_prompt("Be brief.") | llm,
        llm,
        turns=TurnTaking(store, wait=DEADLINE * 4),
        counter=Counter(Scales()),
        habits=Habits("parrot"),
    )


async def converse(workers: Sequence[RememberingChain], owner: str, session: str, mark: str) -> None:
    """Have one conversation, each turn on the next worker; every answer shows all of it and nothing else."""
    current_owner.set(owner)
    config: Any = {"configurable": {"session_id": session}}
    for turn in range(TURNS):
        said = f"{mark} {turn}"
        chain = workers[turn % len(workers)]
        if turn % 3:
            answer = "".join([chunk.text async for chunk in chain.astream(said, config)])
        else:
            answer = (await chain.ainvoke(said, config)).text
        assert answer == f"[{2 + 2 * turn}: {said}]"


@pytest.mark.timeout(240)
async def test_fifty_conversations_at_once_are_kept_apart(database: str) -> None:
    """Of twenty turns each; a session id that two owners use is two conversations."""
    stores = [open_store(database), open_store(database)]
    workers = [worker(store) for store in stores]
    who = [(f"owner{number % 2}", f"s{number // 2}", f"m{number}") for number in range(SESSIONS)]
    try:
        await asyncio.gather(*(converse(workers, *each) for each in who))
        for owner, session, mark in who:
            info, turns = await stores[0].read(SessionName(owner, "parrot", session))
            texts = [message.text for turn in turns for message in turn.messages]
            expected = [(f"{mark} {turn}", f"[{2 + 2 * turn}: {mark} {turn}]") for turn in range(TURNS)]
            assert info.turns == TURNS
            assert texts == [text for pair in expected for text in pair]
    finally:
        await asyncio.gather(*(store.close() for store in stores))
