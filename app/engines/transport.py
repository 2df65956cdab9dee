"""The long way to the engines, made when something first goes by it.

HTTP clients in general, their HTTP/2 and the system's certificates take 5 MiB; what is streamed, and every chain of a
known kind, has a short way of its own (``connection.py``).
"""

import asyncio
from collections.abc import Callable

import httpx2
from typing_extensions import override


class DeferredTransport(httpx2.AsyncBaseTransport):
    """A transport that is made, in a thread, for its first request.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], httpx2.AsyncBaseTransport]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._made: httpx2.AsyncBaseTransport | None = None

    def __repr__(self) -> str:
        return f"<DeferredTransport {self._made or 'not made'}>"

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request by it."""
        if self._made is None:
            async with self._making:
                self._made = self._made or await asyncio.to_thread(self._make)
        return await self._made.handle_async_request(request)

    @override
    async def aclose(self) -> None:
        """Close it, if it was made."""
        if self._made is not None:
            await self._made.aclose()
