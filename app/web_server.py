"""uvicorn, told to stop in a way that lets the app say goodbye."""

import contextlib
import resource
import socket

import uvicorn
from fastapi import FastAPI

from app.guard.client_connection import bounded
from app.settings import Settings
from app.shutdown import Shutdown

LAST_WORDS = 3.0
"""Seconds after the deadline for interrupted requests to send their error."""
KEEP_ALIVE = 30
"""Seconds an idle connection stays open."""


class Server(uvicorn.Server):
    """uvicorn that tells the app when it is told to stop, not when everything is over."""

    def __init__(self, config: uvicorn.Config, shutdown: Shutdown) -> None:
        super().__init__(config)
        self._shutdown = shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the app, then wait for what is under way."""
        self._shutdown.begin()
        await super().shutdown(sockets)


def run(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve ``app`` on ``listener`` until SIGTERM or SIGINT."""
    raise_file_limit()
    give_up_on_silent_peers(listener, settings.limits.reader_seconds)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=bounded(settings.limits),
        ws="none",
        access_log=settings.access_log,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain + LAST_WORDS),
        timeout_keep_alive=KEEP_ALIVE,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    Server(config, app.state.shutdown).run(sockets=[listener])


def raise_file_limit() -> None:
    """Take as many open files as the system allows: a connection is one, and the usual limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def give_up_on_silent_peers(listener: socket.socket, seconds: float) -> None:
    """Let the kernel end connections whose other side takes nothing for so long, or has vanished (tcp(7)).

    Connections inherit it from the listening socket.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(max(1, seconds)))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(max(1, seconds / 3)))
