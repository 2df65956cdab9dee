"""What an app worker leaves unimported until it is used: every one costs start-up time and memory."""

import json
import subprocess  # noqa: TID251 -- what is imported is a matter of a whole process
import sys

import pytest

PROGRAM = "import app.server, json, sys; print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))"
UNUSED = ("qdrant_client", "mcp", "langchain_mcp_adapters", "pypdf", "aiosqlite", "asyncpg", "torch", "transformers")


@pytest.fixture(scope="module")
def imported() -> list[str]:
    """Which of them the app's module brings with it, in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, *UNUSED], check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", UNUSED)
def test_what_is_not_used_is_not_imported(imported: list[str], name: str) -> None:
    """A service that keeps no documents and has no tools of other servers pays for neither."""
    assert name not in imported
