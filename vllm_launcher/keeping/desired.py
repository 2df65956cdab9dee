"""What was wanted of the servers, on disk: so that a launcher that starts again loads what was loaded.

::

    {"loaded": ["qwen3-8b"], "unloaded": ["smollm2"]}

``loaded``: wanted when the launcher ended. ``unloaded``: loads at startup, and a person has unloaded it since. A
launcher that ends as it should forgets the second: its next start is a start like any other. One that was killed
does not: whoever restarts it (systemd, make) goes on with what was.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

logger = logging.getLogger(__name__)


class Desired(BaseModel):
    """Ids of models."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loaded: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()


class DesiredState:
    """The file at ``path``, kept as ``wanted`` says. An async context manager.

    Args:
        path: The file; its directory exists. None: nothing is kept.
        wanted: Tells what is wanted now.
    """

    def __init__(self, path: Path | None, wanted: Callable[[], Desired]) -> None:
        self._path = path
        self._wanted = wanted
        self._written: Desired | None = None
        self._changed = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def read(self) -> Desired:
        """What the last launcher left; nothing where there is no file, or none that can be read."""
        if self._path is None:
            return Desired()
        try:
            return Desired.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Desired()
        except (OSError, ValidationError) as error:
            logger.warning(
                "what was loaded before is not known: %s cannot be read (%s)", self._path, type(error).__name__
            )
            return Desired()

    def note(self) -> None:
        """Something may have changed."""
        self._changed.set()

    async def __aenter__(self) -> Self:
        if self._path is not None:
            self._task = asyncio.create_task(self._keep(self._path), name="desired state")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is None or self._path is None:
            return
        self._closing = True
        self._changed.set()
        await self._task  # not cancelled: a write cannot be
        await self._write(self._path, Desired(loaded=self._wanted().loaded))

    async def _keep(self, path: Path) -> None:
        while not self._closing:
            await self._changed.wait()
            self._changed.clear()
            await self._write(path, self._wanted())

    async def _write(self, path: Path, desired: Desired) -> None:
        if desired == self._written:
            return
        try:
            await asyncio.to_thread(_replace, path, desired.model_dump_json())
        except OSError as error:  # a full disk: what is loaded is of use even so
            logger.warning("what is loaded could not be written down: %s", error.strerror)
            return
        self._written = desired


def _replace(path: Path, text: str) -> None:
    """Whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)
