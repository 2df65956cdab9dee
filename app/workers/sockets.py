"""What is opened before there are workers: an address that cannot be had is told at once, and nobody is refused later.

A worker that dies leaves the sockets as they are: whoever connects meanwhile is taken by the others, or waits.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from app.workers.worker import Worker

BACKLOG = 2048
DOCUMENTS = "d"
"""In the shared folder; so short that the path fits into a socket's address where the control socket's does."""


def listen(host: str, port: int, named: str = "PORT") -> socket.socket:
    """Return a listening socket; an address that cannot be had is told in words, with the setting it is named by."""
    with _told(host, port, named):
        return socket.create_server((host, port), family=_family(host), backlog=BACKLOG)


def reserve(host: str, port: int, named: str) -> socket.socket:
    """Return a socket that keeps a port from others, for workers that each listen there (SO_REUSEPORT)."""
    listen(host, port, named).close()  # with SO_REUSEPORT alone another app of this user would not be noticed
    reserved = socket.socket(_family(host))
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with _told(host, port, named):
        reserved.bind((host, port))
    return reserved


@dataclass(frozen=True)
class Common:
    """What all workers have in common."""

    of: int
    folder: Path
    listener: socket.socket
    documents: socket.socket
    metrics: socket.socket | None
    grpc: socket.socket | None

    def worker(self, number: int) -> Worker:
        """Return one of them."""
        return Worker(number, self.of, self.folder, self.metrics, self.documents)

    def close(self) -> None:
        """Take nobody more, once the workers do not either."""
        for each in (self.listener, self.documents, self.metrics, self.grpc):
            if each is not None:
                each.close()


@contextlib.contextmanager
def open_common(settings: Settings, listener: socket.socket) -> Generator[Common]:
    """Open the rest beside ``listener``; the folder goes at the end of the block.

    Raises:
        OSError: A port is taken, or the folder cannot be made.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_shared_folder(settings.control.parent / "workers" if settings.control else None))
        documents = stack.enter_context(socket.socket(socket.AF_UNIX))
        documents.bind(str(folder / DOCUMENTS))
        documents.listen(BACKLOG)
        metrics = grpc = None
        if settings.metrics and settings.metrics_port is not None:
            metrics = stack.enter_context(listen(settings.metrics_host, settings.metrics_port, "METRICS_PORT"))
        if settings.grpc_port:
            grpc = stack.enter_context(reserve(settings.host, settings.grpc_port, "GRPC_PORT"))
        yield Common(settings.workers, folder, listener, documents, metrics, grpc)


@contextlib.contextmanager
def _shared_folder(path: Path | None) -> Generator[Path]:
    """Make a folder for this user alone, empty whatever an earlier run left, and remove it at the end."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="langserve-vllm-") as made:
            yield Path(made)
        return
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(held, path)
        _empty(path)
        yield path
        _empty(path)
    finally:
        os.close(held)


def _lock(held: int, path: Path) -> None:
    """Hold the folder until the last process that has it open is gone."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(f"{path} is used by the workers of another app; each needs a launcher of its own.") from error


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextlib.contextmanager
def _told(host: str, port: int, named: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is taken; choose another with LANGSERVE_VLLM_{named}.") from error
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}.") from error
