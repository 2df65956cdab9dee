"""What is made when it is first needed: the store of conversations, and the long way to the engines."""

import asyncio
from pathlib import Path

import httpx2
import pytest
from langchain_core.messages import HumanMessage

from app.engines.transport import DeferredTransport
from app.memory.deferred import DeferredStore
from app.memory.kept import SessionName, StoreError
from app.memory.turntaking import TurnTaking

NAME = SessionName("ada", "tiny", "s1")


async def test_the_store_is_opened_by_the_first_session(tmp_path: Path) -> None:
    """Nothing is there before, not even its file, and then it keeps what it is told."""
    file = tmp_path / "sessions.db"
    store = DeferredStore(f"sqlite:///{file}")
    assert await store.sweep() == 0
    assert repr(store) == "<DeferredStore not opened>"
    assert not file.exists()
    held = await store.take(NAME, "me", lease=10)
    assert held is not None
    await store.release(held)
    assert repr(store) == "<DeferredStore open>"
    assert file.exists()
    await store.close()


async def test_what_an_earlier_process_kept_is_swept(tmp_path: Path) -> None:
    """A store that is there is opened to look for what has expired."""
    file = tmp_path / "sessions.db"
    file.touch()
    store = DeferredStore(f"sqlite:///{file}")
    assert await store.sweep() == 0
    assert repr(store) == "<DeferredStore open>"
    await store.close()


async def test_conversations_in_memory_outlive_renewals_that_are_cut_off() -> None:
    """An answer that takes longer renews its lease, and may end in the middle of that: no connection is lost by it."""
    store = DeferredStore(None)
    turns = TurnTaking(store, wait=10, lease=0.003)
    for number in range(100):
        async with turns.turn(SessionName("ada", "tiny", f"s{number % 7}")):
            await asyncio.sleep(0.0005 * (number % 9))  # many moments of a renewal
    await store.close()


async def test_conversations_in_memory_outlive_clients_that_leave_while_they_are_kept() -> None:
    """At whatever moment that is: the turn is kept whole, and everything before it too."""
    store = DeferredStore(None)
    turns = TurnTaking(store, wait=10)
    async with turns.turn(NAME) as held:
        for steps in range(1, 41):
            said = [HumanMessage("hi")]
            keeping = asyncio.create_task(turns.finish(store.add(held, said, opens=True, tokens=1, ttl=None)))
            for _ in range(steps):
                await asyncio.sleep(0)
            keeping.cancel()
            await asyncio.wait([keeping])
    info, _ = await store.read(NAME)
    assert info.turns == 40
    await store.close()


@pytest.mark.parametrize(("address", "words"), [("nonsense", "no URL"), ("mysql://h/d", "neither")])
def test_an_address_that_cannot_be_used_is_told_at_the_start(address: str, words: str) -> None:
    """Not when the first conversation comes."""
    with pytest.raises(StoreError, match=words):
        DeferredStore(address)


async def test_a_transport_is_made_once_by_the_first_request() -> None:
    """And closed only where it was made."""
    made: list[str] = []

    class Transport(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, text=request.url.path)

        async def aclose(self) -> None:
            made.append("closed")

    def make() -> Transport:
        made.append("made")
        return Transport()

    await DeferredTransport(make).aclose()
    assert made == []
    transport = DeferredTransport(make)
    async with httpx2.AsyncClient(transport=transport) as client:
        answers = [await client.get(f"http://engine/{number}") for number in range(2)]
    assert [answer.text for answer in answers] == ["/0", "/1"]
    assert made == ["made", "closed"]
