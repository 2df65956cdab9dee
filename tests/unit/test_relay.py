"""A relay between one answer of an engine and one client: slow clients, silent engines, early ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast
from unittest.mock import Mock

import httpx2
import pytest

from app.engines.connection import Answer, Connections
from app.errors import EngineBusy, EngineUnreachable
from app.streams.relay import Relay
from tests.unit.memory_network import MemoryNetwork
from tests.unit.scripted import SOON, ScriptedEngine, answer


class Upper:
    """Renders pieces in capitals; a piece with a full stop ends the stream, one with a question mark is an error."""

    def __init__(self) -> None:
        self.ended = self.begun = False
        self.error: Exception | None = None

    def feed(self, piece: bytes) -> bytes:
        """See ``Renderer``."""
        self.begun = True
        self.ended = b"." in piece or b"?" in piece
        self.error = ValueError("?") if b"?" in piece else None
        return piece.upper()

    def close(self) -> bytes:
        """See ``Renderer``."""
        self.ended = True
        return b" END"

    def end(self) -> bytes:
        """See ``Renderer``."""
        return b" BYE"


class Pieces(httpx2.AsyncByteStream):
    """An engine's stream that a test feeds."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.taken = 0
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self.queue.get()) is not None:
            yield piece
            self.taken += 1

    async def aclose(self) -> None:
        """Note that nobody reads on."""
        self.closed.set()


class Client:
    """A server's connection: it takes pieces at once, unless its client is slow; then ``send`` waits, as uvicorn's."""

    def __init__(self) -> None:
        self.got = b""
        self.reads = asyncio.Event()
        self.reads.set()
        self.news = asyncio.Event()
        self.breaks = False

    def write(self, body: bytes) -> bool:
        """See ``app/guard/client_connection.Write``."""
        if self.breaks:
            raise RuntimeError("the server gave up")
        if not self.reads.is_set():
            return False
        self.got += body
        self.news.set()
        return True

    async def send(self, message: Any) -> None:
        """See ASGI."""
        await self.reads.wait()
        self.write(message["body"])

    async def until(self, text: bytes) -> None:
        """Wait until it got ``text``."""
        async with asyncio.timeout(SOON):
            while text not in self.got:
                self.news.clear()
                await self.news.wait()


async def begin(pieces: Pieces, *, ping: float = 600) -> tuple[Relay, Client, asyncio.Task[None], MemoryNetwork]:
    """Return a relay that runs for a client."""
    network = MemoryNetwork(Engine(pieces))
    relay = Relay(await post(network.connections()), Upper(), ping=ping)
    client = Client()
    return relay, client, asyncio.create_task(relay.run(client.send, client.write)), network


async def post(connections: Connections) -> Answer:
    """Ask."""
    return await connections.post("http://127.0.0.1:1/v1/x", b"{}", {})


class Engine(httpx2.AsyncBaseTransport):
    """Answers with one stream."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:  # noqa: ARG002
        """See httpx2."""
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=self._pieces)


async def test_a_piece_is_sent_in_the_callback_it_came_in() -> None:
    """No task runs between the engine's bytes and the server's."""
    pieces = Pieces()
    _, client, running, network = await begin(pieces)
    await pieces.queue.put(b"one ")
    await client.until(b"ONE ")
    network.opened[0].deliver(b"two ")
    assert client.got == b"ONE TWO "
    await pieces.queue.put(b"three.")
    async with asyncio.timeout(SOON):
        await running
    assert client.got == b"ONE TWO THREE. BYE"


async def test_a_slow_client_keeps_the_engine_waiting() -> None:
    """While ``send`` is suspended nothing is read, and nothing is lost or turned around afterwards."""
    pieces = Pieces()
    _, client, running, network = await begin(pieces)
    await pieces.queue.put(b"a")
    await client.until(b"A")
    client.reads.clear()
    network.opened[0].deliver(b"b")
    assert not network.opened[0].readable
    network.opened[0].deliver(b"c")  # the rest of what one read brought
    await pieces.queue.put(b"d.")
    client.reads.set()
    async with asyncio.timeout(SOON):
        await running
    assert client.got == b"ABCD. BYE"
    assert network.opened[0].readable


async def test_an_end_waits_for_a_slow_client() -> None:
    """The stream is over when the client has everything, not when the engine has said everything."""
    pieces = Pieces()
    _, client, running, network = await begin(pieces)
    await pieces.queue.put(b"a")
    await client.until(b"A")
    client.reads.clear()
    network.opened[0].deliver(b"b.")
    await asyncio.sleep(0)
    assert not running.done()
    client.reads.set()
    async with asyncio.timeout(SOON):
        await running
    assert client.got == b"AB. BYE"


async def test_a_slow_client_that_leaves_is_let_go() -> None:
    """The suspended send ends, and the engine's connection with it."""
    pieces = Pieces()
    relay, client, running, network = await begin(pieces)
    await pieces.queue.put(b"a")
    await client.until(b"A")
    client.reads.clear()
    network.opened[0].deliver(b"b")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await relay.aclose()
    async with asyncio.timeout(SOON):
        await pieces.closed.wait()


async def test_an_error_comes_after_what_came_before_it() -> None:
    """Frames first, then what ended them."""
    pieces = Pieces()
    _, client, running, _ = await begin(pieces)
    await pieces.queue.put(b"a")
    await pieces.queue.put(b"b?")
    with pytest.raises(ValueError, match=r"\?"):
        await asyncio.wait_for(running, SOON)
    assert client.got == b"AB?"


async def test_a_server_that_breaks_ends_the_stream() -> None:
    """What ``send`` raises is raised where the stream runs."""
    pieces = Pieces()
    _, client, running, _ = await begin(pieces)
    await pieces.queue.put(b"a")
    await client.until(b"A")
    client.breaks = True
    await pieces.queue.put(b"b")
    with pytest.raises(RuntimeError, match="gave up"):
        await asyncio.wait_for(running, SOON)


async def test_a_server_without_the_short_way_gets_every_piece_too() -> None:
    """A task sends them then, by ASGI's ``send`` alone."""
    pieces = Pieces()
    network = MemoryNetwork(Engine(pieces))
    relay = Relay(await post(network.connections()), Upper(), ping=600)
    client = Client()
    running = asyncio.create_task(relay.run(client.send))
    for piece in (b"a", b"b", b"c."):
        await pieces.queue.put(piece)
    await asyncio.wait_for(running, SOON)
    assert client.got == b"ABC. BYE"


async def test_a_stream_ends_after_its_answer_was_kept() -> None:
    """Whoever sees the end may ask for what was kept."""
    pieces, kept = Pieces(), asyncio.Event()
    relay, client, running = await begin_kept(pieces, kept.wait)
    await pieces.queue.put(b"a.")
    await client.until(b"A.")
    await asyncio.sleep(0)
    assert client.got == b"A."
    kept.set()
    await asyncio.wait_for(running, SOON)
    assert client.got == b"A. BYE"
    await relay.aclose()


async def test_an_answer_that_cannot_be_kept_is_an_error() -> None:
    """In place of the end."""

    async def fail() -> None:
        raise ValueError("full")

    pieces = Pieces()
    _, client, running = await begin_kept(pieces, fail)
    await pieces.queue.put(b"a.")
    with pytest.raises(ValueError, match="full"):
        await asyncio.wait_for(running, SOON)
    assert client.got == b"A."


async def test_a_client_that_leaves_while_its_answer_is_kept_waits_for_nothing() -> None:
    """What is needed for the stream is let go when the keeping has ended."""
    pieces, closed = Pieces(), asyncio.Event()
    relay, client, running = await begin_kept(pieces, asyncio.Event().wait, closed.set)
    await pieces.queue.put(b"a.")
    await client.until(b"A.")
    running.cancel()
    await asyncio.wait([running])
    assert not closed.is_set()
    await asyncio.wait_for(relay.aclose(), SOON)
    assert closed.is_set()


async def begin_kept(pieces: Pieces, keep: Any, closed: Any = lambda: None) -> tuple[Relay, Client, asyncio.Task[None]]:
    """Return a relay that keeps its answer."""
    lifetime = contextlib.AsyncExitStack()
    lifetime.callback(closed)
    answer = await post(MemoryNetwork(Engine(pieces)).connections())
    relay = Relay(answer, Upper(), ping=600, keep=keep, lifetime=lifetime)
    client = Client()
    return relay, client, asyncio.create_task(relay.run(client.send, client.write))


async def test_an_answer_without_a_last_word_is_closed() -> None:
    """The renderer has the last word then."""
    pieces = Pieces()
    _, client, running, _ = await begin(pieces)
    await pieces.queue.put(b"a")
    await pieces.queue.put(None)
    await asyncio.wait_for(running, SOON)
    assert client.got == b"A END BYE"


async def test_silence_is_filled_with_comments() -> None:
    """An idle stream is kept open."""
    pieces = Pieces()
    _, client, running, _ = await begin(pieces, ping=0.01)
    await client.until(b": ping\r\n\r\n: ping\r\n\r\n")
    await pieces.queue.put(b"a.")
    await asyncio.wait_for(running, SOON)
    assert client.got.endswith(b"A. BYE")


async def test_what_came_before_the_client_is_not_lost() -> None:
    """Frames wait for the client; the engine waits with them."""
    pieces = Pieces()
    network = MemoryNetwork(Engine(pieces))
    relay = Relay(await post(network.connections()), Upper(), ping=600)
    await pieces.queue.put(b"a")
    await relay.hold(SOON)
    assert not network.opened[0].readable
    await pieces.queue.put(b"b.")
    client = Client()
    await asyncio.wait_for(relay.run(client.send), SOON)
    assert client.got == b"AB. BYE"


async def test_an_error_before_any_output_is_raised_while_holding() -> None:
    """So that it gets a status."""
    pieces = Pieces()
    network = MemoryNetwork(Engine(pieces))
    renderer = Upper()
    relay = Relay(await post(network.connections()), renderer, ping=600)
    network.opened[0].abort()
    with pytest.raises(Exception, match="ended in the middle"):
        await relay.hold(SOON)


async def test_a_connection_is_readable_again_after_its_last_piece_had_to_wait() -> None:
    """The end of the answer may come in the same read as the piece that made the engine wait."""
    network = MemoryNetwork(Engine(Pieces()))
    got = await post(network.connections())
    got.push(lambda _: got.pause(), lambda _: None)
    network.opened[0].deliver(b"Paris.", last=True)
    assert network.opened[0].readable
    network.opened[0].abort()


# --- connections -----------------------------------------------------------------------------


async def test_a_connection_is_used_again() -> None:
    """An answer that was read to its end leaves its connection for the next one."""
    network = MemoryNetwork(ScriptedEngine(lambda _: (200, answer("Paris."))))
    connections = network.connections()
    for _ in range(3):
        got = await post(connections)
        assert b"Paris." in b"".join([piece async for piece in got])
        got.close()
    assert len(network.opened) == 1


async def test_a_connection_whose_answer_was_left_is_not_used_again() -> None:
    """Its rest would be taken for the next answer."""
    network = MemoryNetwork(Engine(Pieces()))
    connections = network.connections()
    (await post(connections)).close()
    (await post(connections)).close()
    assert len(network.opened) == 2
    assert network.opened[0].is_closing()


async def test_answers_under_way_are_bounded() -> None:
    """One more is told that the service is busy."""
    connections = MemoryNetwork(Engine(Pieces())).connections(limit=1)
    first = await post(connections)
    with pytest.raises(EngineBusy):
        await post(connections)
    first.close()
    (await post(connections)).close()


async def test_a_refused_connection_says_so() -> None:
    """``refused``: the engine has not seen the request, so it may be sent to another."""
    network = MemoryNetwork(Engine(Pieces()))
    network.refuse = 1
    with pytest.raises(EngineUnreachable) as caught:
        await post(network.connections())
    assert caught.value.refused


async def test_a_header_cannot_become_another_request() -> None:
    """A line end in a header is refused."""
    connections = MemoryNetwork(Engine(Pieces())).connections()
    with pytest.raises(ValueError, match="line end"):
        await connections.post("http://127.0.0.1:1/v1/x", b"{}", {"Authorization": "Bearer a\r\nX: y"})


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%b"


async def test_what_comes_after_an_answer_is_nobodys() -> None:
    """Neither the answer that has ended nor the next one by the same connection gets bytes that nobody asked for."""
    opened: list[Any] = []

    async def connect(protocol_factory: Any, host: str, port: int, *, ssl: Any) -> tuple[Any, Any]:  # noqa: ARG001
        connection, transport = protocol_factory(), cast("Any", Mock(spec=asyncio.Transport))
        transport.is_closing.return_value = False
        transport.write = partial(write, connection)
        connection.connection_made(transport)
        opened.append(connection)
        return transport, connection

    wires = [WHOLE % b"a" + WHOLE % b"x" + b"HTTP/1.1 2", WHOLE % b"b"]

    def write(connection: Any, _: bytes) -> None:
        asyncio.get_running_loop().call_soon(connection.data_received, wires.pop(0))

    connections = Connections(10, connect_within=5, silence=60, connect=connect)
    async with asyncio.timeout(SOON):
        first = [piece async for piece in await post(connections)]
        second = [piece async for piece in await post(connections)]
    assert (first, second, len(opened)) == ([b"a"], [b"b"], 1)
