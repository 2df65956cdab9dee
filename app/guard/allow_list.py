"""Which addresses of the world the app may fetch: those of hosts that the operator named, and only public ones.

A name is looked up once, every address it has must be public, and the request goes to one of those very addresses:
a name that changes its address between the check and the connection (DNS rebinding) gains nothing. Redirects are not
followed; each would have to pass here again.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx2

PORTS = {"http": 80, "https": 443}
URL_LIMIT = 2048
"""Characters of a URL."""
LOOK_UP_SECONDS = 5.0

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host's name and port to its addresses; OSError where it has none."""


class NotAllowed(Exception):  # noqa: N818 -- named for what happened
    """The URL is not to be fetched; the message says why, without any address."""


@dataclass(frozen=True)
class Located:
    """A URL that may be fetched, and the one address to fetch it from."""

    url: httpx2.URL
    address: str

    def request(self, method: str = "GET", headers: dict[str, str] | None = None) -> httpx2.Request:
        """A request that connects to ``address`` and nowhere else; certificates are checked for the URL's host."""
        host = self.url.host
        return httpx2.Request(
            method,
            self.url.copy_with(host=self.address, userinfo=b"", fragment=None),
            headers={**(headers or {}), "Host": self.url.netloc.decode("ascii").rpartition("@")[2]},
            extensions={"sni_hostname": host},
        )


@dataclass(frozen=True)
class AllowList:
    """Hosts that may be fetched from: ``example.org``, ``*.example.org`` (its subdomains), with ``:PORT`` if unusual.

    Empty: nothing may.
    """

    hosts: tuple[str, ...] = ()

    def admits(self, host: str, port: int, scheme: str) -> bool:
        """Whether the operator named this host, at this port."""
        return any(_matches(entry.lower(), host, port, PORTS[scheme]) for entry in self.hosts)

    async def locate(self, url: str, resolve: Resolve | None = None) -> Located:
        """Return where to fetch ``url`` from.

        Raises:
            NotAllowed: It is no plain HTTP URL, its host is not in the list, or has an address that is not public.
        """
        parsed = self._parse(url)
        port = parsed.port or PORTS[parsed.scheme]
        if not self.admits(parsed.host.lower().rstrip("."), port, parsed.scheme):
            raise NotAllowed("The host is not in the list of those that may be fetched from.")
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                addresses = await (resolve or look_up)(parsed.host, port)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            raise NotAllowed("The host's name cannot be looked up.") from error
        if not addresses or not all(map(is_public, addresses)):
            raise NotAllowed("The host has no public address.")
        return Located(parsed, addresses[0])

    def _parse(self, url: str) -> httpx2.URL:
        if len(url) > URL_LIMIT:
            raise NotAllowed(f"The URL is longer than {URL_LIMIT} characters.")
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError, TypeError) as error:
            raise NotAllowed("This is no URL.") from error
        if parsed.scheme not in PORTS or not parsed.host:
            raise NotAllowed("Only http:// and https:// URLs may be fetched.")
        if parsed.userinfo:
            raise NotAllowed("A URL with a user's name or password is not fetched.")
        return parsed


def _matches(entry: str, host: str, port: int, usual: int) -> bool:
    name, colon, wanted = entry.rpartition(":")
    if not colon or not wanted.isdigit():
        name, wanted = entry, str(usual)
    if port != int(wanted):
        return False
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


async def look_up(host: str, port: int) -> Sequence[str]:
    """Return a host's addresses, as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet: not loopback, private, link-local, multicast or reserved.

    An IPv6 address that stands for an IPv4 one (mapped, 6to4, Teredo, NAT64) is judged by that one.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # a zone (fe80::1%eth0) is link-local
        return False
    return all(map(_is_open, _inside(ip) or [ip]))


def _is_open(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _inside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address leads to."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    inside = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in NAT64:
        inside.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [address for address in inside if address is not None]
