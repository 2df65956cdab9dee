"""uvicorn, told to stop in a way that lets the app say goodbye."""

import socket

import uvicorn
from fastapi import FastAPI

from app.protocols.relay import DirectSend
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
    config = uvicorn.Config(
        DirectSend(app),
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=settings.access_log,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain + LAST_WORDS),
        timeout_keep_alive=KEEP_ALIVE,
    )
    Server(config, app.state.shutdown).run(sockets=[listener])
