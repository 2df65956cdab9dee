"""The router in front of a model's replicas: how it is told where to send requests.

It is vLLM's own (vllm-router), one per model, as one more process on loopback. It balances, sends a request that a
dying server did not take to another one, and goes on with open streams of a server that it no longer sends new ones
to; whom it may send to is the launcher's decision alone.
"""

from collections.abc import Mapping
from typing import Protocol

import aiohttp

from vllm_launcher.errors import LauncherError
from vllm_launcher.registry.entries import Balance

POLICIES: Mapping[Balance, str] = {"load": "power_of_two", "prefix": "cache_aware", "session": "consistent_hash"}
"""vllm-router's names (its src/policies). The session is what the request's header x-session-id says."""
ANSWER = 5.0
"""Seconds for an answer; adding a server includes the router's look at its health."""


class Routes(Protocol):
    """How a router's servers are changed. Tests bring a scripted one."""

    async def add(self, router: str, server: str) -> None:
        """Send requests to that server too; both are base URLs. LauncherError where that did not work."""
        ...

    async def remove(self, router: str, server: str) -> None:
        """Send it nothing new; what it has begun goes on."""
        ...


class HttpRoutes:
    """``Routes`` over vllm-router's own HTTP API."""

    async def add(self, router: str, server: str) -> None:
        """See ``Routes``."""
        await self._ask(f"{router}/add_worker", server)

    async def remove(self, router: str, server: str) -> None:
        """See ``Routes``."""
        await self._ask(f"{router}/remove_worker", server)

    async def _ask(self, url: str, server: str) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, params={"url": server}) as response,
            ):
                if response.status != 200:  # noqa: PLR2004 - OK
                    raise LauncherError(f"The router answered with {response.status}: {(await response.text())[:200]}")
        except (aiohttp.ClientError, OSError) as error:  # time-outs are OSErrors
            raise LauncherError(f"The router does not answer: {error or type(error).__name__}") from error
