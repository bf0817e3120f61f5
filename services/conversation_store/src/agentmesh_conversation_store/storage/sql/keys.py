"""API keys, of which only hashes are kept."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.model import ApiKey, Instant
from agentmesh_conversation_store.storage.requests import Request

from .plan import Plan, each, fetch, first, now
from .requests import once
from .tables import KEYS

_COLUMNS = (*KEYS.fields, "hash")
_ADD = f"INSERT INTO api_keys ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


def add(key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None) -> Plan[ApiKey | bytes]:
    """Keeps a key, unless the request was carried out before."""

    def keep() -> Plan[ApiKey]:
        yield from each(_ADD, [(*KEYS.row(key), secret_hash)])
        return key

    return (yield from once(request, keep))


def by_hash(secret_hash: bytes) -> Plan[ApiKey | None]:
    """The key whose secret has this hash."""
    row = yield from first(f"SELECT {KEYS.select} FROM api_keys WHERE hash = ?", secret_hash)
    return KEYS.value(row) if row else None


def exist() -> Plan[bool]:
    """True if a key was ever made: revoking the last one must not open the door."""
    return (yield from first("SELECT 1 FROM api_keys LIMIT 1")) is not None


def listing(tenant: str, before: tuple[Instant, str] | None, limit: int) -> Plan[Sequence[ApiKey]]:
    """The tenant's keys, newest first."""
    older = "AND (created_at, key_id) < (?, ?)" if before else ""
    rows = yield from fetch(
        f"SELECT {KEYS.select} FROM api_keys WHERE tenant = ? {older}"
        " ORDER BY created_at DESC, key_id DESC LIMIT ?",
        tenant,
        *(before or ()),
        limit,
    )
    return [KEYS.value(row) for row in rows]


def revoke(tenant: str, key_id: str) -> Plan[ApiKey | None]:
    """Makes a key useless; the first revocation's time stays."""
    at = yield from now()
    row = yield from first(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?)"
        f" WHERE tenant = ? AND key_id = ? RETURNING {KEYS.select}",
        at,
        tenant,
        key_id,
    )
    return KEYS.value(row) if row else None
