"""What may be fetched from the world."""

from collections.abc import Sequence

import pytest

from app.guard.allow_list import AllowList, NotAllowed, is_public

LIST = AllowList(("example.org", "*.example.net", "example.com:8443"))


def resolving(*addresses: str) -> object:
    """A resolver that knows these addresses for every name."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolve


async def locate(url: str, *addresses: str) -> str:
    """The URL that is really asked."""
    located = await LIST.locate(url, resolving(*(addresses or ("93.184.215.14",))))  # pyright: ignore[reportArgumentType]
    return str(located.request().url)


@pytest.mark.parametrize(
    "url",
    ["https://example.org/a?b=c", "http://EXAMPLE.org./", "https://x.y.example.net/", "https://example.com:8443/"],
)
async def test_a_named_host_is_fetched_from_the_address_that_was_checked(url: str) -> None:
    """Not from its name, which may mean another address a moment later; certificates are still checked for it."""
    located = await LIST.locate(url, resolving("93.184.215.14"))  # pyright: ignore[reportArgumentType]
    request = located.request()
    assert request.url.host == "93.184.215.14"
    assert request.headers["host"].lower().startswith(("example", "x.y.example"))
    assert request.extensions["sni_hostname"] == located.url.host


@pytest.mark.parametrize(
    "url",
    [
        "https://example.net/",
        "https://evilexample.net/",
        "https://example.org.evil.net/",
        "https://example.org:8080/",
        "https://example.com/",
        "https://example.org@evil.net/",
        "https://user:password@example.org/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "file:///etc/passwd",
        "ftp://example.org/",
        "https://",
        "no url",
        "https://example.org/" + "a" * 3000,
    ],
)
async def test_what_is_not_in_the_list_is_refused(url: str) -> None:
    """By host, port and scheme, whatever the rest looks like."""
    with pytest.raises(NotAllowed):
        await locate(url)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.8", "169.254.169.254", "::1", "fe80::1%eth0", "fd00::1"])
async def test_a_named_host_that_leads_inside_is_refused(address: str) -> None:
    """Even where only one of its addresses does."""
    with pytest.raises(NotAllowed, match="public"):
        await locate("https://example.org/", "93.184.215.14", address)


async def test_nothing_may_be_fetched_by_default() -> None:
    """An empty list admits nobody."""
    with pytest.raises(NotAllowed):
        await AllowList().locate("https://example.org/")


async def test_a_name_that_cannot_be_looked_up_is_refused() -> None:
    """With a sentence of its own."""

    async def fail(_host: str, _port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(NotAllowed, match="looked up"):
        await LIST.locate("https://example.org/", fail)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::ffff:8.8.8.8", True),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("not an address", False),
    ],
)
def test_only_addresses_of_the_open_internet_are_public(address: str, public: bool) -> None:  # noqa: FBT001
    """An IPv6 address that stands for an IPv4 one is judged by that one."""
    assert is_public(address) is public
