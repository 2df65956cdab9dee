"""Unit tests touch no network: sockets are off, but for the socket pairs that an event loop is made of."""

from collections.abc import Iterator

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Make every attempt to open a network socket an error."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
