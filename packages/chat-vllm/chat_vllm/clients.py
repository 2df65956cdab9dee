"""The HTTP clients below ``ChatVLLM``: made at the first request, blind to the OpenAI variables of the environment."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai

AnyClient = TypeVar("AnyClient", openai.OpenAI, openai.AsyncOpenAI)

CONNECTION_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=5.0)


class Lazy:
    """Stands for an object that is made when one of its attributes is first asked for.

    Copies of a chat model share it, so a model reconfigured for one request keeps the connections of the others.
    """

    __slots__ = ("_lock", "_made", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy, pickle and inspect ask for these: no reason to connect
            raise AttributeError(name)
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return getattr(self._made, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return "Lazy(not made yet)" if self._made is None else f"Lazy({self._made!r})"


class SyncHttp(httpx2.Client):
    """Closes its connections when nothing refers to it any more."""

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class AsyncHttp(httpx2.AsyncClient):
    """Likewise, as far as a loop is there to do it."""

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # no loop is running: the sockets go with their owner
            asyncio.get_running_loop().create_task(close_quietly(self))


async def close_quietly(client: httpx2.AsyncClient) -> None:
    """Close connections that may belong to a loop that has ended."""
    with contextlib.suppress(Exception):
        await client.aclose()


@dataclass(frozen=True)
class ClientOptions:
    """What the clients need to know; ``timeout`` in seconds or as a httpx Timeout."""

    base_url: str
    api_key: str
    timeout: Any
    max_retries: int
    headers: Mapping[str, str]
    query: Mapping[str, object]
    http_client: Any = None
    http_async_client: Any = None

    def sync_client(self) -> openai.OpenAI:
        """Make the blocking client."""
        http = self.http_client or SyncHttp(
            limits=CONNECTION_LIMITS, follow_redirects=True, trust_env=not is_loopback(self.base_url)
        )
        return forget_environment(openai.OpenAI(**self._arguments(), http_client=http), self.headers)

    def async_client(self) -> openai.AsyncOpenAI:
        """Make the asyncio client."""
        http = self.http_async_client or AsyncHttp(
            limits=CONNECTION_LIMITS, follow_redirects=True, trust_env=not is_loopback(self.base_url)
        )
        return forget_environment(openai.AsyncOpenAI(**self._arguments(), http_client=http), self.headers)

    def _arguments(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "api_key": self.api_key,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "default_query": dict(self.query),
        }


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine; no proxy of the environment stands between it and us."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def forget_environment(client: AnyClient, headers: Mapping[str, str]) -> AnyClient:
    """Undo what the SDK took from ``OPENAI_*`` variables: what is meant for OpenAI never reaches an engine."""
    client.organization = None
    client.project = None
    client.admin_api_key = None
    client.webhook_secret = None
    client._custom_headers = dict(headers)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return client
