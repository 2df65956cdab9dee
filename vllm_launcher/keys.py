"""API keys: made here, checked here, kept as hashes in one SQLite file that the command line and the app share.

A key is ``lsv_<id>_<secret>``: the id says which row, the secret is 256 random bits. Only the SHA-256 of the whole
key is stored; for a secret nobody can guess a slow hash would add nothing. A key is shown once, when it is made.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Generator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from vllm_launcher.errors import LauncherError

if TYPE_CHECKING:
    import sqlite3

PREFIX = "lsv"
"""Scanners for leaked secrets find keys by it."""
FORM = re.compile(r"lsv_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
FILE_NAME = "keys.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, digest TEXT NOT NULL, revoked REAL, told TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (digest TEXT PRIMARY KEY, key TEXT NOT NULL, expires REAL NOT NULL);
"""

Count = Annotated[int, Field(ge=1)]


class Key(BaseModel):
    """What is known of a key, without its secret. A limit that is None does not limit."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    """Whose it is, for people."""
    models: tuple[str, ...] = ()
    """Ids it may use; empty for all."""
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Prompt and answer together."""
    streams: Count | None = None
    """Requests under way at once."""
    metrics: bool = False
    """It may read /metrics, which tells of everybody's requests."""
    documents: bool = False
    """It may ingest and delete documents, which decides what chains answer from them."""
    created: float
    """Unix seconds, as all times here."""
    expires: float | None = None
    revoked: float | None = None

    def allows(self, model: str) -> bool:
        """Whether it may use a model."""
        return not self.models or model in self.models

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


class KeyStore:
    """The file of keys, open. Other processes may change it at any time. For one thread at a time.

    Args:
        path: Made where it is missing, readable by its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = _connect(path)
        self._seen: tuple[int, int] | None = None
        self._known: dict[str, tuple[Key, str]] = {}

    def __repr__(self) -> str:
        return f"<KeyStore {self.path}>"

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Generator["KeyStore"]:
        """A store for the time of the block."""
        store = cls(path)
        try:
            yield store
        finally:
            store.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # --- changing ----------------------------------------------------------------------------

    def create(self, name: str, *, expires: float | None = None, **limits: Any) -> tuple[Key, str]:
        """Make a key; returns what is known of it, and the key itself, which is kept nowhere."""
        identity = secrets.token_hex(6)
        text = f"{PREFIX}_{identity}_{secrets.token_urlsafe(32)}"
        key = Key(id=identity, name=name, created=time.time(), expires=expires, **limits)
        told = key.model_dump_json(exclude={"id", "revoked"})
        with self._db:
            self._db.execute("INSERT INTO keys VALUES (?, ?, NULL, ?)", (key.id, digest(text), told))
        return key, text

    def revoke(self, identity: str) -> Key:
        """End a key for good, with the browser sessions that it opened.

        Raises:
            LauncherError: There is no such key.
        """
        with self._db:
            self._db.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), identity))
            self._db.execute("DELETE FROM sessions WHERE key = ?", (identity,))
        key = next((key for key in self.list() if key.id == identity), None)
        if key is None:
            raise LauncherError(f"There is no key with the id '{identity}'.", "`keys list` shows the ids.")
        return key

    # --- reading -----------------------------------------------------------------------------

    def list(self) -> Sequence[Key]:
        """Every key that was ever made, oldest first."""
        return [key for key, _ in self._current().values()]

    def any_active(self) -> bool:
        """Whether anybody could get in."""
        now = time.time()
        return any(key.state(now) == "active" for key in self.list())

    def find(self, text: str) -> Key | None:
        """The key that ``text`` is, if it is one and may be used now. Takes the same time for every wrong secret."""
        form = FORM.fullmatch(text)
        row = self._current().get(form[1]) if form else None
        if row is None or not hmac.compare_digest(row[1], digest(text)):
            return None
        return row[0] if row[0].state(time.time()) == "active" else None

    def _current(self) -> dict[str, tuple[Key, str]]:
        """All rows by id; read again only after another process, or this one, has changed them."""
        version = (int(self._db.execute("PRAGMA data_version").fetchone()[0]), self._db.total_changes)
        if version != self._seen:
            rows = self._db.execute("SELECT id, digest, revoked, told FROM keys ORDER BY rowid").fetchall()
            self._known = {row[0]: (_key(row), row[1]) for row in rows}
            self._seen = version
        return self._known

    # --- browsers ----------------------------------------------------------------------------

    def open_session(self, key: Key, seconds: float) -> str:
        """A token that stands for the key in a browser, for so long at most."""
        token, now = secrets.token_urlsafe(32), time.time()
        with self._db:
            self._db.execute("DELETE FROM sessions WHERE expires <= ?", (now,))
            self._db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (digest(token), key.id, now + seconds))
        return token

    def find_session(self, token: str) -> Key | None:
        """The key that a browser's token stands for, if both may be used now."""
        row = self._db.execute(
            "SELECT key FROM sessions WHERE digest = ? AND expires > ?", (digest(token), time.time())
        ).fetchone()
        known = self._current().get(row[0]) if row else None
        return known[0] if known and known[0].state(time.time()) == "active" else None

    def close_session(self, token: str) -> None:
        """Forget a browser's token."""
        with self._db:
            self._db.execute("DELETE FROM sessions WHERE digest = ?", (digest(token),))


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone; any other one asks for keys."""
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


NO_KEYS = "On {host} others can reach the service, so it asks for API keys, and there is none yet."
MAKE_ONE = "Make one with: langserve-vllm keys create NAME"


def digest(text: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(text.encode()).hexdigest()


def _key(row: tuple[str, str, float | None, str]) -> Key:
    identity, _, revoked, told = row
    return Key(id=identity, revoked=revoked, **json.loads(told))


def _connect(path: Path) -> "sqlite3.Connection":
    """Open the file, made with mode 0600 first: SQLite gives its side files the same."""
    import sqlite3  # noqa: PLC0415 -- a megabyte, for services with keys

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    db = sqlite3.connect(path, timeout=10, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(_SCHEMA)
    return db
