"""API keys: what is stored, what is known again, and the command line that makes and ends them."""

import json
import re
import sqlite3
import stat
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vllm_launcher.__main__ import cli
from vllm_launcher.errors import LauncherError
from vllm_launcher.keys import FORM, KeyStore, is_loopback


@pytest.fixture
def store(tmp_path: Path) -> Generator[KeyStore]:
    """An empty store."""
    with KeyStore.opened(tmp_path / "keys.sqlite") as store:
        yield store


def call(folder: Path, *arguments: str) -> Result:
    """The outcome of a command line, with that run directory."""
    return CliRunner().invoke(cli, ["keys", *arguments], env={"LANGSERVE_VLLM_RUN": str(folder), "COLUMNS": "200"})


def test_a_key_is_known_again_and_kept_as_a_hash_alone(store: KeyStore) -> None:
    """Neither the key nor its secret part is in the file."""
    key, text = store.create("alice", models=("a", "b"), requests_per_minute=60)
    assert FORM.fullmatch(text)
    assert store.find(text) == key
    kept = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert text.encode() not in kept
    assert text.split("_", 2)[2].encode() not in kept


def test_the_file_is_its_owners_alone(store: KeyStore) -> None:
    """SQLite's side files too."""
    store.create("alice")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()}
    assert modes == {0o600}


def test_another_secret_is_no_key(store: KeyStore) -> None:
    """Whatever id it comes with."""
    _, text = store.create("alice")
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), text + "A", text[:-1]):
        assert store.find(wrong) is None


@pytest.mark.parametrize("text", ["", "lsv_", "Bearer x", "lsv_000000000000_" + "x" * 43, "\0", "lsv_é"])
def test_what_is_no_key_is_none(store: KeyStore, text: str) -> None:
    """Of whatever form."""
    store.create("alice")
    assert store.find(text) is None


def test_another_process_changes_hold_at_once(store: KeyStore) -> None:
    """The command line makes and revokes while the app has the file open."""
    with KeyStore.opened(store.path) as other:
        key, text = other.create("alice")
        assert store.find(text) is not None
        other.revoke(key.id)
        assert store.find(text) is None


def test_an_expired_key_is_none(store: KeyStore) -> None:
    """From its moment on."""
    _, text = store.create("alice", expires=time.time() - 1)
    _, other = store.create("bob", expires=time.time() + 60)
    assert store.find(text) is None
    assert store.find(other) is not None


def test_nobody_gets_in_without_an_active_key(store: KeyStore) -> None:
    """Revoked and expired ones do not count."""
    assert not store.any_active()
    key, _ = store.create("alice")
    store.create("bob", expires=time.time() - 1)
    assert store.any_active()
    store.revoke(key.id)
    assert not store.any_active()


def test_a_browsers_session_ends_with_its_key_or_its_time(store: KeyStore) -> None:
    """And its token is stored as a hash too."""
    key, _ = store.create("alice")
    token = store.open_session(key, 60)
    assert store.find_session(token) == key
    assert store.find_session(store.open_session(key, -1)) is None
    assert token.encode() not in b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    store.close_session(token)
    assert store.find_session(token) is None
    token = store.open_session(key, 60)
    store.revoke(key.id)
    assert store.find_session(token) is None


def test_a_key_that_is_not_there_cannot_be_revoked(store: KeyStore) -> None:
    """And that is said."""
    with pytest.raises(LauncherError, match="no key with the id"):
        store.revoke("nope")


def test_a_broken_file_opens_nothing(tmp_path: Path) -> None:
    """It is an error, not an empty list of keys."""
    (tmp_path / "keys.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        KeyStore(tmp_path / "keys.sqlite")


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.7", "example.com", "", "localhost.example.com")),
    ],
)
def test_loopback_is_told_from_other_addresses(host: str, alone: object) -> None:
    """A name that is not known for sure counts as reachable."""
    assert is_loopback(host) is alone


# --- the command line ----------------------------------------------------------------------


def test_create_prints_the_key_alone_on_stdout(tmp_path: Path) -> None:
    """So that a script can take it."""
    told = call(tmp_path, "create", "alice")
    assert told.exit_code == 0
    assert FORM.fullmatch(told.stdout.strip())
    assert "not shown again" in told.stderr


def test_create_as_json_tells_every_limit(tmp_path: Path) -> None:
    """As they were asked for."""
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "9000", "--streams", "4", "--expires-in", "90d")
    told = json.loads(call(tmp_path, "create", "ci", "--model", "a", "--model", "b", *limits, "--json").stdout)
    assert FORM.fullmatch(told["key"])
    assert (told["name"], told["models"], told["state"]) == ("ci", ["a", "b"], "active")
    assert (told["requests_per_minute"], told["tokens_per_minute"], told["streams"]) == (60, 9000, 4)
    assert told["expires"] - told["created"] == pytest.approx(90 * 86_400, abs=5)


def test_list_never_tells_a_secret(tmp_path: Path) -> None:
    """Neither in words nor as JSON; revoked keys stay listed."""
    text = call(tmp_path, "create", "alice", "--streams", "2", "--documents").stdout.strip()
    identity = text.split("_")[1]
    assert json.loads(call(tmp_path, "revoke", identity, "--json").stdout)["state"] == "revoked"
    for told in (call(tmp_path, "list").stdout, call(tmp_path, "list", "--json").stdout):
        assert identity in told
        assert "revoked" in told
        assert text.split("_", 2)[2] not in told


@pytest.mark.parametrize("span", ["90", "0d", "-1h", "1w", "99999999d"])
def test_a_time_that_cannot_be_read_is_refused(tmp_path: Path, span: str) -> None:
    """With what would be understood."""
    told = call(tmp_path, "create", "x", "--expires-in", span)
    assert told.exit_code == 2
    assert re.search(r"30m", told.stderr)


def test_revoking_a_key_that_is_not_there_fails(tmp_path: Path) -> None:
    """With exit status 1."""
    told = call(tmp_path, "revoke", "0123456789ab")
    assert told.exit_code == 1
    assert "no key with the id" in told.stderr
