"""What a request has to pass: its body, its wishes, and somebody who waits for the answer."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput, ShuttingDown
from app.guard.bodies import CallerLeft, parse_json, parse_preferences, while_wanted
from app.shutdown import Shutdown
from tests.unit.scripted import SOON

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_any_json_that_can_be_written_is_read(value: Any) -> None:
    """The checks refuse nothing that is whole."""
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), 64) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_named_error(body: bytes) -> None:
    """Nothing else ever comes out of parsing."""
    with suppress(InvalidInput):
        parse_json(body, 8)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "at line 2, column 6"),
        (b"\xff\xfe{}x", "UTF-8|no JSON"),
        (b'{"a": "\xc3\x28"}', "no UTF-8: byte 7"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e400}', "number too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "number nobody"),
        (rb'{"a": "\ud800"}', "half a character"),
        (rb'{"\ud800": 1}', "half a character"),
        (b"[" * 9 + b"]" * 9, "deeper than 8"),
        (b"[" * 100_000, "deeper than 8"),
        (b"", "line 1, column 1"),
    ],
)
def test_a_bad_body_is_told_with_what_is_wrong(body: bytes, message: str) -> None:
    """Position, character or limit: never a 500, never a hang."""
    with pytest.raises(InvalidInput, match=message):
        parse_json(body, 8)


@pytest.mark.parametrize(
    ("headers", "wait", "tolerant"),
    [
        ([], None, False),
        (["wait=10"], 10, False),
        (["respond-async, wait=10"], 10, False),
        (["Wait=10; foo=bar", "return-exceptions"], 10, True),
        (["wait=10, wait=20"], 10, False),
        (["wait=ten"], None, False),
        (["wait=-1"], None, False),
        (["wait"], None, False),
        (['wait="7"'], 7, False),
        (["wait=99999999999999999999"], None, False),
        (["wait=99999999"], 86_400, False),
        (["wait=²"], None, False),
        ([",,;=,"], None, False),
    ],
)
def test_preferences_are_read_as_the_rfc_says(headers: list[str], wait: float | None, *, tolerant: bool) -> None:
    """The first of a name counts, unknown ones are ignored, and so are senseless ones."""
    preferences = parse_preferences(headers)
    assert preferences.wait == wait
    assert preferences.return_exceptions is tolerant


@given(st.lists(st.text()))
def test_no_preference_is_an_error(headers: list[str]) -> None:
    """The RFC: a preference that is not understood is ignored."""
    parse_preferences(headers)


class Channel:
    """A request's channel whose caller leaves when told."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        """Wait for the caller to leave."""
        await self.left.wait()
        return {"type": "http.disconnect"}


async def test_work_is_cancelled_when_the_caller_leaves() -> None:
    """And the cancellation reaches the work itself."""
    channel, cancelled = Channel(), asyncio.Event()

    async def work() -> None:
        channel.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(CallerLeft):
        async with asyncio.timeout(SOON), while_wanted({}, channel.receive, Shutdown(0)):
            await work()
    assert cancelled.is_set()


async def test_work_that_ends_in_time_is_left_alone() -> None:
    """Nothing is left behind of the watching."""
    before = asyncio.all_tasks()
    async with while_wanted({}, Channel().receive, Shutdown(0)):
        pass
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def test_a_time_out_of_the_work_is_its_own() -> None:
    """It is not taken for the caller's leaving."""
    with pytest.raises(TimeoutError):
        async with while_wanted({}, Channel().receive, Shutdown(0)):
            raise TimeoutError


async def test_work_goes_on_for_the_time_of_grace_and_ends_at_the_deadline() -> None:
    """A stop does not cut what could still finish."""
    shutdown = Shutdown(0)
    asyncio.get_running_loop().call_soon(shutdown.begin)
    with pytest.raises(ShuttingDown):
        async with asyncio.timeout(SOON), while_wanted({}, Channel().receive, shutdown):
            await asyncio.Event().wait()


async def test_an_endless_stream_ends_when_the_end_begins() -> None:
    """It would use up everybody's time of grace."""
    shutdown = Shutdown(3600)
    asyncio.get_running_loop().call_soon(shutdown.begin)
    with pytest.raises(ShuttingDown):
        async with asyncio.timeout(SOON), while_wanted({}, Channel().receive, shutdown, endless=True):
            await asyncio.Event().wait()


async def test_a_stop_is_told_once_and_to_latecomers_too() -> None:
    """Who starts to listen afterwards hears at once."""
    shutdown = Shutdown(3600)
    told: list[str] = []
    with shutdown.on_begin(lambda: told.append("early")):
        shutdown.begin()
        shutdown.begin()
    with shutdown.on_begin(lambda: told.append("late")):
        pass
    assert told == ["early", "late"]
