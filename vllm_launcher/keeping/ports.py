"""The port table: loopback ports for the servers, each used by one server at a time."""

import socket
from collections import deque
from collections.abc import Iterable

LOOPBACK = "127.0.0.1"
REMEMBERED = 1000
"""So many released ports stay out of use: a client with an old endpoint must not reach another model."""
ATTEMPTS = 200


class PortTable:
    """Hands out free ports, and never one that is in use here or was lately."""

    def __init__(self, reserved: Iterable[int] = ()) -> None:
        self._reserved = frozenset(reserved)
        self._held: set[int] = set()
        self._released: deque[int] = deque(maxlen=REMEMBERED)

    def __repr__(self) -> str:
        return f"<PortTable held={sorted(self._held)}>"

    @property
    def held(self) -> frozenset[int]:
        """The ports in use by servers."""
        return frozenset(self._held)

    def take(self) -> int:
        """A port that is free right now. The taker must tell apart who answers there: the gap cannot be closed."""
        for _ in range(ATTEMPTS):
            port = _free_port()
            if port not in self._held and port not in self._released and port not in self._reserved:
                self._held.add(port)
                return port
        raise OSError(f"no free port on {LOOPBACK} after {ATTEMPTS} attempts")

    def release(self, port: int) -> None:
        """Give a port back, once its server is gone."""
        self._held.discard(port)
        self._released.append(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
