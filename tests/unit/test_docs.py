"""The documentation keeps up with the code."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from app import errors
from app.errors import MEANINGS
from app.protocols.shapes import NATIVE, Native
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


# --- docs/clients.md and docs/grpc.md ------------------------------------------------------

CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
TESTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
NAMED = re.compile(r"`(?:tests/[a-z_/]*)?(test_\w+(?:\.py)?)`")
OVER_HTTP_ALONE = {
    *("unknown_route", "wrong_method", "too_slow", "unknown_session", "unknown_picture"),
    *("unknown_document", "unreadable_document", "documents_waiting"),
}
"""Kinds of errors that no gRPC method can raise."""


def rows(text: str) -> list[list[str]]:
    """Every row of a document's tables, heads and rules included, as its cells."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    """As a file, or as a test of one."""
    named = set(NAMED.findall(document.read_text(encoding="utf-8")))
    missing = [
        name for name in named if name not in TESTS and not any(f"def {name}(" in text for text in TESTS.values())
    ]
    assert missing == []


def test_every_feature_of_a_client_names_its_test() -> None:
    """The tables that begin with ``feature`` have a test in each row."""
    checked, inside = 0, False
    for first, *others in rows(CLIENTS):
        inside = first == "feature" or (inside and first not in ("not here", "failure", "protocol"))
        if inside and first != "feature" and set(first) != {"-"}:
            assert NAMED.search(" ".join(others)), first
            checked += 1
    assert checked > 40


def test_the_errors_of_grpc_are_those_of_the_table() -> None:
    """docs/grpc.md names each kind of error in the row of its status, and leaves none out."""
    text = (ROOT / "docs" / "grpc.md").read_text(encoding="utf-8")
    table = {cells[0].strip("`"): re.findall(r"`(\w+)`", cells[1]) for cells in rows(text) if len(cells) == 2}
    told = {kind: status for status, kinds in table.items() for kind in kinds if status.isupper()}
    wanted = {MEANINGS[kind].type: _native(kind).grpc for kind in MEANINGS}
    assert told == {kind: status for kind, status in wanted.items() if kind not in OVER_HTTP_ALONE}


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ("does not fit", (errors.InvalidInput, errors.Refused)),
        ("no key, or none that may be used", (errors.Unauthorized,)),
        ("the key may not do this", (errors.NotAllowed,)),
        ("unknown model", (errors.UnknownModel,)),
        ("too large", (errors.TooLarge,)),
        ("context too long", (errors.ContextTooLong,)),
        ("engine's queue full", (errors.EngineBusy,)),
        ("beyond the key's limits, or the model's line full", (errors.OverLimit, errors.QueueFull)),
        ("model loads, or cannot be had", (errors.ModelNotReady, errors.ModelFailed, errors.TooManyWaiting)),
        ("engine failed or died", (errors.EngineFailed, errors.EngineDied, errors.EngineUnreachable)),
        ("engine silent", (errors.EngineTimeout,)),
    ],
)
def test_the_errors_of_clients_are_those_of_the_table(row: str, kinds: tuple[type[errors.ServiceError], ...]) -> None:
    """docs/clients.md tells the status, and the name where the protocol has one, that each failure has."""
    (cells,) = [cells[1:] for cells in rows(CLIENTS) if cells[0] == row]
    openai, anthropic, ollama, tgi, kserve, grpc = (cell.replace("`", "") for cell in cells)
    for kind in kinds:
        native = _native(kind)
        assert openai.split()[0] == str(native.openai[0])
        assert openai.split()[-1] in (native.openai[1], "model_not_found", "context_length_exceeded")
        assert anthropic == f"{native.anthropic[0]} {native.anthropic[1]}"
        assert ollama == kserve == str(native.plain)
        assert tgi == f"{native.plain} {native.tgi}"
        assert grpc == native.grpc


def _native(kind: type[errors.ServiceError]) -> Native:
    return next(NATIVE[each] for each in kind.__mro__ if each in NATIVE)
