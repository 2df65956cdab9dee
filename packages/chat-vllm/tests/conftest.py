"""Fixtures of the chat model's own tests."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def benchmark() -> Callable[..., Any]:
    """What a standard test would time, run once: a timing on a shared machine says nothing."""

    def once(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return once
