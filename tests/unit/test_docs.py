"""The documentation keeps up with the code."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from app.settings import Documents, Limits
from app.settings import Settings as AppSettings
from vllm_launcher.__main__ import cli
from vllm_launcher.settings import Settings as LauncherSettings

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def variables() -> list[str]:
    """Every environment variable that a settings class reads under our own prefix."""
    return [
        *(f"LANGSERVE_VLLM_{name.upper()}" for name in AppSettings.model_fields if name not in ("limits", "documents")),
        *(f"LANGSERVE_VLLM_LIMITS__{name.upper()}" for name in Limits.model_fields),
        *(f"LANGSERVE_VLLM_DOCUMENTS__{name.upper()}" for name in Documents.model_fields),
        *(f"LANGSERVE_VLLM_{name.upper()}" for name in LauncherSettings.model_fields if not name.startswith("hf_")),
    ]


@pytest.mark.parametrize("variable", variables())
def test_every_setting_is_documented(variable: str) -> None:
    """A setting nobody can read about does not exist."""
    assert f"`{variable}`" in OPERATIONS


def test_every_command_is_documented() -> None:
    """What the command line offers stands in the table of commands."""
    commands = getattr(get_command(cli), "commands", {})
    assert commands
    missing = [name for name in commands if name != "version" and f"`{name}" not in OPERATIONS]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """A relative link names a file that exists."""
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
