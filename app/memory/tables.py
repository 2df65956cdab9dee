"""The tables of conversations: the same for SQLite and PostgreSQL.

A turn is one row, so it is there as a whole or not at all. Messages are JSON text, not the database's JSON type:
PostgreSQL's refuses a NUL character, which models can write.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSION = 1
"""Of the tables below. A database of another version is refused, never changed by guess."""

metadata = MetaData()

_Key = BigInteger().with_variant(Integer, "sqlite")

versions = Table("chat_tables", metadata, Column("version", Integer, primary_key=True))

sessions = Table(
    "chat_sessions",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("owner", String(128), nullable=False),
    Column("model", String(64), nullable=False),
    Column("id", String(128), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("next_turn", Integer, nullable=False, default=0),
    Column("bytes", BigInteger, nullable=False, default=0),
    Column("holder", String(64)),  # the request whose turn it is, and until when it is taken to be alive
    Column("held_until", Float),
    Column("summary", Text),
    Column("summary_turn", Integer, nullable=False, default=-1),  # the last turn that the summary tells of
    UniqueConstraint("owner", "model", "id"),
    Index("chat_sessions_expiry", "expires_at"),
    Index("chat_sessions_use", "owner", "used_at"),
    sqlite_autoincrement=True,  # a deleted session's key is never given to another
)

turns = Table(
    "chat_turns",
    metadata,
    Column("session", _Key, ForeignKey("chat_sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("messages", Text, nullable=False),
    Column("opens", Boolean, nullable=False),  # begins with what a person says, not with a tool's result
    Column("tokens", Integer),  # that it takes of a later prompt; NULL: not counted
    Column("bytes", Integer, nullable=False),
)
