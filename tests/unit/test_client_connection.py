"""One client's connection: who works for it is told when it ends."""

import asyncio
from typing import Any, cast
from unittest.mock import Mock

from uvicorn.config import Config
from uvicorn.server import ServerState

from app.guard.bodies import CallerLeft, while_wanted
from app.guard.client_connection import ON_LEAVE, Connection, bounded
from app.settings import Limits
from app.shutdown import Shutdown
from tests.unit.scripted import SOON

HEAD = b"POST /ask HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\n"


class Asked:
    """An app that one request comes to; what it does is told by the test."""

    def __init__(self) -> None:
        self.scope: Any = None
        self.receive: Any = None
        self.begun = asyncio.Event()
        self.over: asyncio.Future[type[BaseException] | None] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: Any, receive: Any, _: Any) -> None:
        """Work until nobody waits for it."""
        self.scope, self.receive = scope, receive
        await receive()
        try:
            async with while_wanted(scope, receive, Shutdown(0)):
                self.begun.set()
                await asyncio.get_running_loop().create_future()
        except BaseException as error:  # noqa: BLE001 -- looked at by the test
            self.over.set_result(type(error))


def connect(app: Asked) -> tuple[Connection, Mock]:
    """Return a connection to an app, and its wire."""
    config = Config(cast("Any", app), http="httptools", lifespan="off", access_log=False)
    config.load()
    connection = cast("Connection", bounded(Limits())(config, ServerState(), {}))
    wire = Mock(spec=asyncio.Transport)
    wire.get_extra_info.return_value, wire.is_closing.return_value = None, False
    connection.connection_made(wire)
    return connection, wire


async def test_who_leaves_ends_the_work() -> None:
    """Without a task that waits for it."""
    app = Asked()
    connection, _ = connect(app)
    connection.data_received(HEAD + b"body")
    async with asyncio.timeout(SOON):
        await app.begun.wait()
        watchers = [task for task in asyncio.all_tasks() if task.get_name() == "caller watch"]
        connection.connection_lost(None)
        assert await app.over is CallerLeft
    assert not watchers


async def test_who_has_left_before_ends_it_at_once() -> None:
    """The block is entered after the end of the connection."""
    app = Asked()
    connection, _ = connect(app)
    connection.data_received(HEAD + b"body")
    connection.connection_lost(None)
    async with asyncio.timeout(SOON):
        assert await app.over is CallerLeft


async def test_the_connection_is_read_while_somebody_works_for_it() -> None:
    """The end of a connection is seen by reading alone, and a large body stops that."""
    app = Asked()
    connection, wire = connect(app)
    connection.data_received(HEAD + b"body")
    connection.flow.pause_reading()
    wire.resume_reading.assert_not_called()
    async with asyncio.timeout(SOON):
        await app.begun.wait()
        wire.resume_reading.assert_called_once()
        connection.connection_lost(None)
        await app.over


async def test_nobody_is_told_after_the_work() -> None:
    """A listener is forgotten with its block."""
    app = Asked()
    connection, _ = connect(app)
    connection.data_received(HEAD + b"body")
    async with asyncio.timeout(SOON):
        await app.begun.wait()
        told: list[str] = []
        with app.scope["extensions"][ON_LEAVE](lambda: told.append("left")):
            pass
        connection.connection_lost(None)
        await app.over
    assert not told
