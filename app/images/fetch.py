"""Images by address: fetched by the app, over https, from hosts that an allow-list names, and from nowhere inside.

The addresses a name resolves to are checked, and the connection goes to exactly those: a name that answers otherwise a
moment later (DNS rebinding) leads nowhere else. Each redirect is checked like the first address.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from app.errors import InvalidInput, Refused, ServiceError
from app.images.raster import Bounds, too_many_bytes

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A host's name to its addresses."""
REDIRECTS = 3
SECONDS = 10.0
CONNECT_SECONDS = 5.0
PORT = 443
USER_AGENT = "langserve-vllm"


class Inside(OSError):  # noqa: N818 -- what was found, not what failed
    """A name leads to this machine or its network."""


def is_outside(address: str) -> bool:
    """Tell whether an address is of the public internet: not of this machine, its network, or any special range."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        hidden = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if hidden is not None and not is_outside(str(hidden)):
            return False
        if found in NAT64:
            return is_outside(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""


async def resolve(host: str) -> Sequence[str]:
    """Return the addresses of a host, as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class OutsideResolver(AbstractResolver):
    """Gives aiohttp the addresses of a host, all of them checked; it connects to these and asks nobody again."""

    def __init__(self, resolve: Resolve, allowed: Callable[[str], bool]) -> None:
        self._resolve = resolve
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the host's addresses.

        Raises:
            Inside: One of them is not of the public internet.
        """
        addresses = await self._resolve(host)
        if not addresses or not all(map(self._allowed, addresses)):
            raise Inside
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class ImageFetcher:
    """Fetches images from hosts that are allowed.

    Args:
        hosts: Their names; one that begins with a dot stands for every name below it. None: nothing is fetched.
        resolve: Looks names up.
        allowed: Which addresses may be connected to.
        port: The only one.
        tls: For connections; by default the system's certificates.
    """

    hosts: Collection[str] = ()
    resolve: Resolve = resolve
    allowed: Callable[[str], bool] = is_outside
    port: int = PORT
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    async def fetch(self, url: str, bounds: Bounds, place: str) -> bytes:
        """Return the bytes an address gives.

        Raises:
            InvalidInput: It is not one that may be fetched.
            Refused: It could not be had.
            TooLarge: It has more bytes than allowed.
        """
        self._check(url, place)
        try:
            async with asyncio.timeout(SECONDS), self._session() as session:
                return await self._follow(session, url, bounds, place)
        except ServiceError:
            raise
        except Inside as error:
            raise forbidden(place) from error
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            if any(isinstance(link, Inside) for link in (error.__cause__, error.__context__, *error.args)):
                raise forbidden(place) from error
            raise Refused("The image could not be fetched from its address.", param=place, hint=SEND) from error

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=OutsideResolver(self.resolve, self.allowed),
            ssl=self.tls if self.tls is not None else True,
            use_dns_cache=False,
            force_close=True,
        )
        timeout = aiohttp.ClientTimeout(total=SECONDS, connect=CONNECT_SECONDS)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _follow(self, session: aiohttp.ClientSession, url: str, bounds: Bounds, place: str) -> bytes:
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        for _ in range(REDIRECTS + 1):
            async with session.get(url, allow_redirects=False, headers=headers) as response:
                if not response.headers.get("Location") or response.status not in (301, 302, 303, 307, 308):
                    return await _read(response, bounds, place)
                url = urljoin(url, response.headers["Location"])
                self._check(url, place)
        raise Refused("The image's address leads on and on.", param=place, hint=SEND)

    def _check(self, url: str, place: str) -> None:
        """Refuse an address by what it says, before anything is looked up."""
        if not self.hosts:
            raise InvalidInput("Images by address are not fetched here.", param=place, hint=SEND)
        try:
            parts = urlsplit(url)
            port = parts.port or self.port
        except ValueError as error:
            raise InvalidInput("The image's address is none.", param=place) from error
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme.lower() != "https":
            raise InvalidInput("Images are fetched over https alone.", param=place, hint=SEND)
        if parts.username is not None or parts.password is not None or port != self.port or not self._knows(host):
            raise forbidden(place)

    def _knows(self, host: str) -> bool:
        if not host.isascii() or _is_address(host):
            return False
        return any(host == name or (name.startswith(".") and host.endswith(name)) for name in self.hosts)


SEND = "Send the image itself: a data: URI in base64."


def forbidden(place: str) -> InvalidInput:
    """Return the one error for every address that is not allowed: it tells nothing of what is behind it."""
    return InvalidInput("The image's address is not one that may be fetched.", param=place, hint=SEND)


def _is_address(host: str) -> bool:
    """Tell an address from a name; also in the forms that only old resolvers read (2130706433, 0x7f.1)."""
    return ":" in host or all(part.isdigit() or part.startswith("0x") for part in host.split("."))


async def _read(response: aiohttp.ClientResponse, bounds: Bounds, place: str) -> bytes:
    if response.status != 200:  # noqa: PLR2004
        raise Refused("The image could not be fetched from its address.", param=place, hint=SEND)
    if (response.content_length or 0) > bounds.file_bytes:
        raise too_many_bytes(bounds, place)
    data = bytearray()
    async for piece in response.content.iter_chunked(1 << 16):
        data += piece
        if len(data) > bounds.file_bytes:
            raise too_many_bytes(bounds, place)
    return bytes(data)
