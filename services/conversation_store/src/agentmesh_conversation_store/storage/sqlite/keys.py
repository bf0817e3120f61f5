"""API keys, of which only hashes are kept."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import sqlite3

from agentmesh_conversation_store.domain.model import ApiKey, Instant
from agentmesh_conversation_store.storage.interface import Request
from agentmesh_conversation_store.storage.rows import KEYS

from .unit import keep_response, kept_response
from .writer import Session


def add(
    session: Session, key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None
) -> ApiKey | bytes:
    """Keeps a key, unless the request was carried out before."""
    if request is not None:
        kept = kept_response(session, request)
        if kept is not None:
            return kept
    columns = (*KEYS.fields, "hash")
    session.connection.execute(
        f"INSERT INTO api_keys ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        (*KEYS.row(key), secret_hash),
    )
    return keep_response(session, request, key) if request is not None else key


def by_hash(db: sqlite3.Connection, secret_hash: bytes) -> ApiKey | None:
    """The key whose secret has this hash."""
    row = db.execute(
        f"SELECT {KEYS.select} FROM api_keys WHERE hash = ?",
        (secret_hash,),
    ).fetchone()
    return KEYS.value(row) if row else None


def exist(db: sqlite3.Connection) -> bool:
    """True if a key was ever made: revoking the last one must not open the door."""
    row = db.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone()
    return row is not None


def listing(
    db: sqlite3.Connection, tenant: str, before: tuple[Instant, str] | None, limit: int
) -> list[ApiKey]:
    """The tenant's keys, newest first."""
    older = "AND (created_at, key_id) < (?, ?)" if before else ""
    rows = db.execute(
        f"SELECT {KEYS.select} FROM api_keys WHERE tenant = ? {older}"
        " ORDER BY created_at DESC, key_id DESC LIMIT ?",
        (tenant, *(before or ()), limit),
    )
    return [KEYS.value(row) for row in rows]


def revoke(session: Session, tenant: str, key_id: str) -> ApiKey | None:
    """Makes a key useless; the first revocation's time stays."""
    session.connection.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE tenant = ? AND key_id = ?",
        (session.now, tenant, key_id),
    )
    row = session.connection.execute(
        f"SELECT {KEYS.select} FROM api_keys WHERE tenant = ? AND key_id = ?",
        (tenant, key_id),
    ).fetchone()
    return KEYS.value(row) if row else None
