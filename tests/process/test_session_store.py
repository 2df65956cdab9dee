"""Conversations in a real database: every test runs on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from sqlalchemy import text

from app.errors import MemoryUnavailable, SessionBusy, SessionChanged, UnknownSession
from app.memory.store import Bounds, Held, SessionName, SessionStore, open_store
from app.memory.turntaking import TurnTaking
from tests.process.fleet import DEADLINE
from tests.processes import eventually

NAME = SessionName("ada", "tiny", "s1")
LEASE = 60.0


@pytest.fixture
async def store(database: str) -> AsyncIterator[SessionStore]:
    """A store on an empty database."""
    opened = open_store(database)
    yield opened
    await opened.close()


@pytest.fixture
async def other(database: str) -> AsyncIterator[SessionStore]:
    """Another worker's store on the same database."""
    opened = open_store(database)
    yield opened
    await opened.close()


async def take(store: SessionStore, name: SessionName = NAME, *, lease: float = LEASE) -> Held:
    """Hold a session that is free."""
    held = await store.take(name, "me", lease=lease)
    assert held is not None
    return held


async def say(store: SessionStore, *texts: str, name: SessionName = NAME, ttl: float | None = None) -> None:
    """Have a conversation of so many turns."""
    for said in texts:
        held = await take(store, name)
        await store.add(held, [HumanMessage(said), AIMessage(f"{said}!")], opens=True, tokens=7, ttl=ttl)
        await store.release(held)


async def told(store: SessionStore, name: SessionName = NAME) -> list[str]:
    """The texts of a session, oldest first."""
    _, turns = await store.read(name)
    return [message.text for turn in turns for message in turn.messages]


async def test_what_was_said_is_there_for_another_worker(store: SessionStore, other: SessionStore) -> None:
    """Turns in their order, with the counts that stand beside them."""
    await say(store, "one", "two")
    held = await take(other)
    assert [turn.messages for turn in held.turns] == [
        [HumanMessage("one"), AIMessage("one!")],
        [HumanMessage("two"), AIMessage("two!")],
    ]
    assert [(turn.number, turn.tokens, turn.opens) for turn in held.turns] == [(0, 7, True), (1, 7, True)]


async def test_workers_that_start_at_once_make_the_tables_once(database: str) -> None:
    """Each of eight finds them made, or makes them."""
    stores = [open_store(database) for _ in range(8)]
    try:
        assert await asyncio.gather(*(store.find("ada") for store in stores)) == [[]] * 8
    finally:
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize("name", [SessionName("eve", "tiny", "s1"), SessionName("ada", "big", "s1")])
async def test_the_same_id_of_another_owner_or_model_is_another_session(store: SessionStore, name: SessionName) -> None:
    """It reads nothing of the first, is not listed with it, and deletes nothing of it."""
    await say(store, "secret")
    assert (await take(store, name)).turns == []
    with pytest.raises(UnknownSession):
        await store.read(name)
    assert await store.find(name.owner, model=name.model) == []
    assert await store.delete(name.owner, model=name.model, id=name.id) == 0
    assert await told(store) == ["secret", "secret!"]


async def test_any_text_comes_back_as_it_was(store: SessionStore) -> None:
    """Characters that PostgreSQL's own JSON type refuses too."""
    said = "NUL \x00, half a pair \ud800, emoji 🐱, quote ' \" \\ and\nlines"
    await say(store, said)
    assert await told(store) == [said, f"{said}!"]


async def test_one_request_holds_a_session(store: SessionStore, other: SessionStore) -> None:
    """Nobody else gets it until it is released; another session is free."""
    held = await take(store)
    assert await other.take(NAME, "other", lease=LEASE) is None
    assert await other.take(SessionName("ada", "tiny", "s2"), "other", lease=LEASE) is not None
    await store.release(held)
    assert await other.take(NAME, "other", lease=LEASE) is not None


async def test_the_session_of_a_dead_worker_is_free_again(store: SessionStore, other: SessionStore) -> None:
    """Its lease has ended; should it live after all, it stores nothing and renews nothing."""
    held = await take(store, lease=-1)
    mine = await other.take(NAME, "other", lease=LEASE)
    assert mine is not None
    with pytest.raises(SessionChanged):
        await store.add(held, [HumanMessage("late")], opens=True, tokens=1, ttl=None)
    assert not await store.prolong(held, lease=LEASE)
    await store.release(held)
    assert await other.prolong(mine, lease=LEASE)
    await other.add(mine, [HumanMessage("mine")], opens=True, tokens=1, ttl=None)
    assert await told(store) == ["mine"]


async def test_a_session_deleted_under_a_request_keeps_nothing_of_it(store: SessionStore) -> None:
    """Not even where a new one of the same name was made meanwhile."""
    await say(store, "one")
    held = await take(store)
    assert await store.delete("ada", model="tiny", id="s1") == 1
    again = await store.take(NAME, "again", lease=LEASE)
    assert again is not None
    assert again.key != held.key
    with pytest.raises(SessionChanged):
        await store.add(held, [HumanMessage("late")], opens=True, tokens=1, ttl=None)
    with pytest.raises(UnknownSession):
        await store.read(NAME)


async def test_a_session_in_which_nothing_was_said_leaves_no_trace(store: SessionStore) -> None:
    """A request that failed in its first turn."""
    held = await take(store)
    assert await store.find("ada") == []
    await store.release(held)
    assert (await take(store)).key != held.key


async def test_sessions_are_listed_by_their_last_use(store: SessionStore) -> None:
    """With how much is in them, page by page; several at once are deleted together."""
    for number in range(3):
        await say(store, "one", "two", name=SessionName("ada", "tiny", f"s{number}"))
    await say(store, "three", name=SessionName("ada", "tiny", "s0"))
    page = await store.find("ada", limit=2)
    assert [(info.id, info.turns) for info in page] == [("s0", 3), ("s2", 2)]
    assert [info.id for info in await store.find("ada", before=page[-1].used_at)] == ["s1"]
    assert await store.delete("ada", model="big") == 0
    assert await store.delete("ada") == 3
    assert await store.find("ada") == []


async def test_a_session_expires(store: SessionStore) -> None:
    """It is neither read, listed nor gone on with, and is swept away."""
    await say(store, "old", ttl=-1)
    await say(store, "new", name=SessionName("ada", "tiny", "s2"), ttl=60)
    with pytest.raises(UnknownSession):
        await store.read(NAME)
    assert [info.id for info in await store.find("ada")] == ["s2"]
    assert await store.sweep() == 1
    await say(store, "older", ttl=-1)
    held = await take(store)
    assert held.turns == []


async def test_the_oldest_turns_of_a_long_session_go(database: str) -> None:
    """What one session may hold is bounded; the newest turn stays whatever its size."""
    store = open_store(database, Bounds(session_bytes=2000))
    try:
        await say(store, *"abcdefghij")
        said = await told(store)
        assert said[-2:] == ["j", "j!"]
        assert 0 < len(said) < 20
        await say(store, "x" * 5000)
        assert await told(store) == ["x" * 5000, "x" * 5000 + "!"]
        assert (await store.find("ada"))[0].bytes > 10_000
    finally:
        await store.close()


async def test_an_owner_has_so_many_sessions(database: str) -> None:
    """Those that were not used for longest go; another owner's stay."""
    store = open_store(database, Bounds(sessions=2))
    try:
        for number in range(4):
            await say(store, "x", name=SessionName("ada", "tiny", f"s{number}"))
        await say(store, "x", name=SessionName("eve", "tiny", "s0"))
        assert await store.sweep() == 2
        assert [info.id for info in await store.find("ada")] == ["s3", "s2"]
        assert [info.id for info in await store.find("eve")] == ["s0"]
    finally:
        await store.close()


async def test_a_summary_stands_for_the_turns_it_tells_of(store: SessionStore) -> None:
    """They are not read for a request any more, and are not lost."""
    await say(store, "one", "two", "three")
    held = await take(store)
    await store.note_summary(held, "They counted.", 1)
    await store.note_tokens(held, {2: 99})
    await store.release(held)
    held = await take(store)
    assert (held.summary, held.summary_turn, held.next_turn) == ("They counted.", 1, 3)
    assert [(turn.number, turn.tokens) for turn in held.turns] == [(2, 99)]
    assert len(await told(store)) == 6


# --- turns -----------------------------------------------------------------------------------


async def test_requests_of_a_session_are_answered_one_after_the_other(store: SessionStore, other: SessionStore) -> None:
    """Twenty at once, on two workers: each sees all that was said before it, and none at the same time as another."""
    workers = [TurnTaking(store, wait=DEADLINE), TurnTaking(other, wait=DEADLINE)]
    inside = 0

    async def request(number: int) -> None:
        nonlocal inside
        async with workers[number % 2].turn(NAME) as held:
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            messages = [HumanMessage(f"{number} after {len(held.turns)}")]
            await workers[number % 2].store.add(held, messages, opens=True, tokens=1, ttl=None)
            inside -= 1

    await asyncio.gather(*(request(number) for number in range(20)))
    said = await told(store)
    assert [line.split(" after ")[1] for line in said] == [str(number) for number in range(20)]


async def test_those_who_wait_in_a_worker_come_in_their_order(store: SessionStore) -> None:
    """First come, first served."""
    turns, order = TurnTaking(store, wait=DEADLINE), list[int]()

    async def request(number: int) -> None:
        async with turns.turn(NAME):
            order.append(number)

    await asyncio.gather(*(request(number) for number in range(10)))
    assert order == [*range(10)]


@pytest.mark.parametrize("same_worker", [True, False])
async def test_a_request_does_not_wait_for_ever(store: SessionStore, other: SessionStore, *, same_worker: bool) -> None:
    """It is told that the session is busy, by its own worker or by the database."""
    first = TurnTaking(store, wait=DEADLINE)
    second = TurnTaking(store if same_worker else other, wait=0.2)
    if same_worker:
        second.lines = first.lines
    async with first.turn(NAME):
        with pytest.raises(SessionBusy):
            async with second.turn(NAME):
                pass
    async with second.turn(NAME):
        pass


async def test_the_line_of_a_session_is_bounded(store: SessionStore) -> None:
    """One more than may wait is refused at once."""
    turns = TurnTaking(store, wait=DEADLINE)

    async def request() -> None:
        async with turns.turn(NAME):
            await asyncio.sleep(0)

    outcomes: list[Any] = await asyncio.gather(*(request() for _ in range(40)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, SessionBusy)]
    assert len(refused) == 8
    assert [outcome for outcome in outcomes if outcome is not None] == refused


async def test_a_long_answer_keeps_its_session(store: SessionStore, other: SessionStore) -> None:
    """Its lease is renewed for as long as it takes."""
    async with TurnTaking(store, wait=DEADLINE, lease=1.5).turn(NAME) as held:
        for _ in range(2):
            before = await _held_until(store, held)
            await eventually(lambda: _held_until(store, held), lambda until: until != before, within=DEADLINE)  # noqa: B023 -- asked before it changes
        assert await other.take(NAME, "other", lease=LEASE) is None


async def _held_until(store: SessionStore, held: Held) -> float:
    async with store.engine.connect() as connection:
        query = text("SELECT held_until FROM chat_sessions WHERE key = :key")
        return float((await connection.execute(query, {"key": held.key})).scalar_one())


async def test_who_leaves_gives_the_session_back(store: SessionStore) -> None:
    """Cancelled while it takes the session or while it has it, and again while it gives it back."""
    turns = TurnTaking(store, wait=DEADLINE)
    for delay in (0, 0.001, 0.003, 0.01, 0.03):
        entered = asyncio.Event()

        async def request(entered: asyncio.Event = entered) -> None:
            async with turns.turn(NAME):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(request())
        await asyncio.sleep(delay)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE), turns.turn(NAME):
            pass
    assert turns.lines == {}


async def test_a_database_that_does_not_answer_is_told_by_name() -> None:
    """No address, no statement, no text of a conversation in it."""
    store = open_store("postgresql://nobody:secret@127.0.0.1:9/none")
    with pytest.raises(MemoryUnavailable) as told:
        await store.take(NAME, "me", lease=LEASE)
    assert "127.0.0.1" not in told.value.message
    assert "secret" not in told.value.message
    await store.close()


async def test_tables_of_another_version_are_refused(store: SessionStore, other: SessionStore) -> None:
    """A newer program's data is not touched by guess."""
    await store.find("ada")
    async with store.engine.begin() as connection:
        await connection.execute(text("INSERT INTO chat_tables VALUES (99)"))
    with pytest.raises(MemoryUnavailable, match="version"):
        await other.find("ada")
