"""What an app worker leaves unimported until it is used: every one costs start-up time and memory."""

import json
import subprocess  # noqa: TID251 -- what is imported is a matter of a whole process
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import app.__main__
from app.server import create_app
from app.settings import Settings
import app.web_server
create_app(Settings())
print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))
"""
"""What a worker does before it serves: it imports, and makes the app of a list of models with one chat chain."""
MODELS = {
    "models": [
        {
            "id": "tiny",
            "task": "chat",
            "engine": {"type": "external", "url": "http://127.0.0.1:9/v1"},
            "chain": {"package": "smollm2_chat"},
        }
    ]
}
UNUSED = {
    "sqlalchemy": "conversations are kept from the first session_id on; 20 MiB",
    "aiosqlite": "likewise",
    "asyncpg": "conversations in PostgreSQL",
    "grpc": "where a port is given for it; with protobuf 11 MiB",
    "google.protobuf": "gRPC alone",
    "langgraph": "chains with tools; 15 MiB",
    "langchain.agents": "chains with tools",
    "langchain_mcp_adapters": "tools of MCP servers",
    "mcp": "tools of MCP servers",
    "PIL": "models that see or draw",
    "image_generation": "models that draw",
    "qdrant_client": "documents",
    "bs4": "documents in HTML, in a process of their own",
    "pypdf": "documents in PDF, in a process of their own",
    "httpcore2": "what goes to engines by no short way; with the certificates 5 MiB",
    "h2": "likewise",
    "opentelemetry.exporter": "where a collector is named",
    "torch": "engines, in processes and environments of their own",
    "transformers": "engines",
}
"""By whom or what each is used."""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Which of them a worker has when it begins to serve, in a process of its own."""
    models: Path = tmp_path_factory.mktemp("models") / "models.json"
    models.write_text(json.dumps(MODELS))
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *UNUSED],
        check=True,
        capture_output=True,
        text=True,
        env={"LANGSERVE_VLLM_MODELS": str(models)},
    )
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", UNUSED)
def test_what_is_not_used_is_not_imported(imported: list[str], name: str) -> None:
    """A service that only chats pays for nothing else."""
    assert name not in imported, UNUSED[name]
