"""API keys, of which only hashes are kept."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.keys import ApiKey, KeyRotation, KeyUse
from agentmesh_conversation_store.domain.model import Instant, Micros
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.storage.requests import Request

from .plan import Plan, each, fetch, first, now
from .requests import once
from .tables import KEYS

_COLUMNS = (*KEYS.fields, "hash")
_LOCK = f"SELECT {KEYS.select} FROM api_keys WHERE tenant = ? AND key_id = ? FOR UPDATE"
_ROTATE = f"""
UPDATE api_keys SET previous_hash = hash, hash = ?, rotated_at = ?,
    previous_expires_at = ?
WHERE tenant = ? AND key_id = ? RETURNING {KEYS.select}
"""
_USABLE = f"""
SELECT {KEYS.select} FROM api_keys
WHERE hash = ? OR (previous_hash = ? AND previous_expires_at > ?)
"""
_USE = """
UPDATE api_keys SET last_used_at = ?
WHERE tenant = ? AND key_id = ? AND (last_used_at IS NULL OR last_used_at <= ?)
"""
_ADD = f"INSERT INTO api_keys ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


def add(key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None) -> Plan[ApiKey | bytes]:
    """Keeps a key, unless the request was carried out before."""

    def keep() -> Plan[ApiKey]:
        yield from each(_ADD, [(*KEYS.row(key), secret_hash)])
        return key

    return (yield from once(request, keep))


def as_resource(tenant: str, key_id: str) -> Plan[str]:
    """How an audit record names a key that was just made; "" if an earlier one was answered."""
    row = yield from first("SELECT 1 FROM api_keys WHERE tenant = ? AND key_id = ?", tenant, key_id)
    return f"key:{key_id}" if row else ""


def rotate(
    rotation: KeyRotation, secret_hash: bytes, request: Request[ApiKey] | None
) -> Plan[ApiKey | bytes]:
    """Gives a key another secret, unless the request was carried out before."""
    which = (rotation.tenant, rotation.key_id)

    def change() -> Plan[ApiKey]:
        row = yield from first(_LOCK, *which)
        if row is None:
            raise not_found("key", rotation.key_id)
        rotation.check(KEYS.value(row))
        until = rotation.previous_until
        changed = yield from first(_ROTATE, secret_hash, rotation.at, until, *which)
        assert changed is not None  # noqa: S101  the row is locked
        return KEYS.value(changed)

    return (yield from once(request, change))


def usable(secret_hash: bytes) -> Plan[tuple[ApiKey, Instant] | None]:
    """The key one of whose secrets has this hash, if both are good now."""
    at = yield from now()
    row = yield from first(_USABLE, secret_hash, secret_hash, at)
    if row is None:
        return None
    key = KEYS.value(row)
    return (key, at) if key.usable_at(at) else None


def note_uses(uses: Sequence[KeyUse], apart: Micros) -> Plan[None]:
    """Keeps later uses than those that are kept, if they are late enough."""
    ordered = sorted(uses, key=lambda use: (use.tenant, use.key_id))
    yield from each(_USE, [(u.at, u.tenant, u.key_id, u.at - apart) for u in ordered])


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


def revoke(tenant: str, key_id: str, request: Request[ApiKey] | None) -> Plan[ApiKey | bytes]:
    """Makes a key useless, unless the request was carried out before; the first revocation's time
    stays."""

    def end() -> Plan[ApiKey]:
        at = yield from now()
        row = yield from first(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?)"
            f" WHERE tenant = ? AND key_id = ? RETURNING {KEYS.select}",
            at,
            tenant,
            key_id,
        )
        if row is None:
            raise not_found("key", key_id)
        return KEYS.value(row)

    return (yield from once(request, end))
