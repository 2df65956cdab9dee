"""Ports are free when they are chosen, and may be somebody else's a moment later."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

from aiohttp import web

from tests.process.conftest import MakeFleet
from tests.process.fleet import until
from vllm_launcher.keeping.ports import PortTable


class Unlucky(PortTable):
    """Hands out first what a stranger has taken meanwhile."""

    def __init__(self, *taken: int) -> None:
        super().__init__()
        self._taken = list(taken)

    def take(self) -> int:
        """See ``PortTable``."""
        if self._taken:
            self._held.add(self._taken[0])
            return self._taken.pop(0)
        return super().take()


@contextlib.asynccontextmanager
async def stranger(*, shares: bool) -> AsyncGenerator[tuple[int, list[str]], None]:
    """A server that answers everything with 200 and names another model; its port, and what it was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"object": "list", "data": [{"id": "a-strangers"}]})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        listener.bind(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        try:
            yield int(listener.getsockname()[1]), asked
        finally:
            await runner.cleanup()


async def test_a_port_that_was_taken_meanwhile_costs_one_attempt(fleet: MakeFleet) -> None:
    """The engine cannot listen and says so; the stranger is taken for nothing, and the next port does."""
    async with stranger(shares=False) as (port, asked):
        engines = fleet(m="")
        engines.ports = Unlucky(port)
        endpoints: set[str | None] = set()
        async with engines.launcher() as launcher:
            async with asyncio.timeout(20):
                async for status in launcher.events():
                    endpoints.add(status.servers[0].endpoint)
                    if status.servers[0].state == "ready":
                        break
            ready = launcher.status().servers[0]
            assert ready.restarts == 1
            assert endpoints == {None, ready.endpoint}
            assert not (ready.endpoint or "").endswith(f":{port}")
        assert "/v1/chat/completions" not in asked


async def test_the_reason_names_the_port_while_it_waits(fleet: MakeFleet) -> None:
    """Somebody who looks at the status in between reads what happened."""
    async with stranger(shares=False) as (port, _):
        engines = fleet(m="")
        engines.ports = Unlucky(port)
        async with engines.launcher() as launcher:
            waiting = await until(launcher.events(), "m", lambda server: server.reason is not None)
            assert "ddress already in use" in (waiting.reason or "") or "a-strangers" in (waiting.reason or "")
            await until(launcher.events(), "m", "ready")


async def test_a_stranger_that_shares_the_port_is_found_by_its_name(fleet: MakeFleet) -> None:
    """Two may listen on one port and split its traffic (SO_REUSEPORT): who answers is asked before it is ready."""
    async with stranger(shares=True) as (port, asked):
        engines = fleet(m="never-ready")
        engines.ports = Unlucky(port)
        async with engines.launcher() as launcher:
            failed = await until(launcher.events(), "m", lambda server: server.reason is not None)
            assert failed.reason
            assert failed.endpoint is None
            assert "/v1/chat/completions" not in asked
            engines.modes["m"] = ""
            await until(launcher.events(), "m", "ready")
