"""The run directory: what one running launcher owns on disk, and the lock that says so.

::

    launcher.lock     held (flock) while the launcher lives, with its pid inside
    control.sock      the control API
    control.token     what its clients have to show, new at every start
    models.json       the list of models that is served, as it was taken over last
    desired.json      what is loaded, for the next launcher
    servers/NAME.json what identifies the processes of NAME, while there are any (``orphans.py``)
    logs/NAME.log     what NAME printed, bounded
"""

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from vllm_launcher.errors import AlreadyRunning, LauncherError
from vllm_launcher.processes import orphans
from vllm_launcher.processes.process import Launch, ServerProcess

LONGEST_SOCKET_PATH = 107
"""Bytes that Linux has for the path of a Unix socket (unix(7)), without the final zero."""


class RunDirectory:
    """An owned run directory. Made by ``open``; ``close`` gives it up."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Make the directory ours, or raise AlreadyRunning. Its mode is 0700: logs hold prompts."""
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        if len(os.fsencode(control_socket(path))) > LONGEST_SOCKET_PATH:
            raise LauncherError(
                f"The path {control_socket(path)} is too long for a socket (limit {LONGEST_SOCKET_PATH} bytes).",
                "Set LANGSERVE_VLLM_RUN to a shorter one.",
            )
        return cls(path, _lock(path))

    @property
    def control_socket(self) -> Path:
        """Where the control API listens."""
        return control_socket(self.path)

    def log(self, name: str) -> Path:
        """Where the output of ``name`` goes."""
        return self.path / "logs" / f"{name}.log"

    def record(self, name: str) -> Path:
        """What identifies the processes of ``name``."""
        return self.path / "servers" / f"{name}.json"

    async def spawn(self, name: str, launch: Launch, on_line: Callable[[str], None] | None = None) -> ServerProcess:
        """Start a process with its log and its record in here."""
        return await ServerProcess.start(launch, log=self.log(name), record=self.record(name), on_line=on_line)

    def sweep_orphans(self) -> list[int]:
        """End what an earlier launcher left behind; the pids. Blocks while they die."""
        return orphans.sweep(self.path / "servers")

    def close(self) -> None:
        """Let another launcher have it."""
        os.close(self._lock)


def control_socket(run: Path) -> Path:
    """The control socket of the launcher that runs in ``run``, for a client that does not own it."""
    return run / "control.sock"


def new_token(run: Path) -> str:
    """A new token for the control API, and the file with it, which nobody else can read."""
    token = secrets.token_urlsafe(32)
    new = run / "control.token.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    new.replace(run / "control.token")
    return token


def token_of(run: Path) -> str:
    """The token of the launcher that runs there; empty without one."""
    try:
        return (run / "control.token").read_text().strip()
    except OSError:
        return ""


def _lock(path: Path) -> int:
    """An open, locked file descriptor. The lock goes with the process, SIGKILL included; children do not inherit it."""
    lock = os.open(path / "launcher.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).strip()
        os.close(lock)
        raise AlreadyRunning(str(path), int(holder) if holder.isdigit() else None) from None
    os.ftruncate(lock, 0)
    os.write(lock, b"%d\n" % os.getpid())
    return lock
