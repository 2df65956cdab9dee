"""Who has a port, by the kernel's table, where somebody really has it."""

import socket

import pytest

from vllm_launcher.machine import find_listener
from vllm_launcher.up import Address


@pytest.mark.parametrize(
    ("listens", "wanted", "taken"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.2", "127.0.0.1", False),
    ],
)
def test_a_listener_is_found_where_it_is_in_the_way(listens: str, wanted: str, taken: bool) -> None:  # noqa: FBT001
    """By its name and process id; one on another address is not in the way."""
    with socket.create_server((listens, 0)) as server:
        found = find_listener(Address(wanted, server.getsockname()[1]))
    assert (found is not None) is taken
    assert found is None or "(pid " in found
