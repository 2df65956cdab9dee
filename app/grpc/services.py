"""What gRPC serves, and whom: known from the start, without gRPC's own libraries, which are imported where it is on."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from app.protocols.chat_service import ChatService
from app.protocols.kserve.service import KServe
from app.shutdown import Shutdown

Admit = Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[str | None]]
"""Lets a call in, or raises a ServiceError: gets the method and the metadata, and gives the owner for as long as the
call runs. Keys are in ``authorization`` (``Bearer ...``) and ``x-api-key``. Entered in the task that runs the call."""


@contextlib.asynccontextmanager
async def admit_all(_method: str, _metadata: Mapping[str, str]) -> AsyncGenerator[str | None]:
    """Let every call in: keys are off."""
    yield None


@dataclass(frozen=True)
class GrpcServices:
    """What the server serves, and whom."""

    chats: ChatService
    shutdown: Shutdown
    admit: Admit = admit_all

    def ready(self) -> bool:
        """Whether every model of the start is ready."""
        return KServe(self.chats).ready()
