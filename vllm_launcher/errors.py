"""What can go wrong in the launcher: one tree.

::

    LauncherError                reason, and a hint where there is something to do about it
    ├── ServerFailed             one attempt at a server ended; the restart policy decides what follows
    │   ├── ServerExited         its process ended, and nobody asked for that
    │   ├── NotReady             it did not get ready, or answers for another model
    │   └── Hung                 it was ready, and has stopped computing
    ├── ChildFailed              a supervised process that is no model server (the app) cannot be kept running
    ├── PortTaken                somebody else listens where we are to
    ├── AlreadyRunning           another launcher owns the run directory
    ├── UnknownModel             the registry has no such model
    ├── InvalidModels            models.json cannot be taken over: every problem of it, with its line
    └── LauncherGone             told to a client: no launcher answers, or it has stopped talking
"""

# ruff: noqa: N818 - the names say what happened; that they are errors, the tree says


class LauncherError(Exception):
    """Base. ``reason`` says what happened, ``hint`` what a person can do about it."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{reason} {hint}" if hint else reason)
        self.reason = reason
        self.hint = hint


class ServerFailed(LauncherError):
    """One attempt at a server ended. ``permanent``: trying again cannot help (a wrong checksum, a missing file)."""

    def __init__(self, reason: str, hint: str | None = None, *, permanent: bool = False) -> None:
        super().__init__(reason, hint)
        self.permanent = permanent


class ServerExited(ServerFailed):
    """The server's process ended with ``code`` (128 + n after signal n). Code 0 is a failure too."""

    def __init__(self, code: int) -> None:
        super().__init__(f"The server's process ended with code {code}.")
        self.code = code


class NotReady(ServerFailed):
    """The server runs, and does not become what was asked for."""


class Hung(ServerFailed):
    """The server's process lives, and its work stands still."""


class ChildFailed(LauncherError):
    """A supervised process ended at its start, or too often."""


class PortTaken(LauncherError):
    """An address that was asked for is in use."""


class AlreadyRunning(LauncherError):
    """The run directory belongs to the living launcher ``pid``."""

    def __init__(self, directory: str, pid: int | None) -> None:
        super().__init__(
            f"Another launcher{f' (pid {pid})' if pid else ''} is running in {directory}.",
            "Stop it first, or give this one a run directory of its own: LANGSERVE_VLLM_RUN=DIR.",
        )
        self.pid = pid


class UnknownModel(LauncherError):
    """No model of this name in the registry."""

    def __init__(self, model: str) -> None:
        super().__init__(f"There is no model {model!r} in the registry.")
        self.model = model


class InvalidModels(LauncherError):
    """The list of models is not valid; what runs goes on as it was."""


class LauncherGone(LauncherError):
    """The launcher does not answer on its control socket."""
