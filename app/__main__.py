"""Run the app: ``python -m app``, with everything it needs in its environment (see ``app/settings.py``)."""

import errno
import socket
import sys

import uvicorn
from pydantic import ValidationError

from app.chains import ChainError
from app.server import create_app
from app.settings import Settings
from app.shutdown import Shutdown
from vllm_launcher.registry import RegistryError

CANNOT_START = 3
"""Exit status: the port is taken or something it was told is wrong. Starting it again changes nothing."""
LAST_WORDS = 3.0
"""Seconds after the deadline for interrupted requests to send their error."""


class Server(uvicorn.Server):
    """uvicorn that tells the app when it is told to stop, not when everything is over."""

    def __init__(self, config: uvicorn.Config, shutdown: Shutdown) -> None:
        super().__init__(config)
        self._shutdown = shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the app, then wait for what is under way."""
        self._shutdown.begin()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until told to stop."""
    try:
        settings = Settings()
        listener = listen(settings.host, settings.port)
        app = create_app(settings)
    except (ValidationError, RegistryError, ChainError, OSError) as error:
        print(f"The app cannot start: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(CANNOT_START)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=settings.access_log,
        log_level="info",
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain + LAST_WORDS),
        timeout_keep_alive=30,
    )
    Server(config, app.state.shutdown).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; an address that cannot be had is told in words."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is taken; choose another with LANGSERVE_VLLM_PORT.") from error
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}.") from error


if __name__ == "__main__":
    main()
