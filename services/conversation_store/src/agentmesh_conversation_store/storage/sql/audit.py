"""Who did what: appended, read newest first, sealed in batches, removed when it is old enough."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentmesh_conversation_store.domain.audit_chain import Cut, Seal, SealingKey, cut, seal
from agentmesh_conversation_store.domain.ledger import AuditQuery, AuditRecord
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.requests import Request

from .plan import Alone, Plan, each, fetch, first, now
from .requests import once
from .tables import AUDIT, CUTS, SEALS

_ADD = f"{AUDIT.add} ON CONFLICT (tenant, record_id) DO NOTHING"
_TO_SEAL = (
    f"SELECT {AUDIT.select} FROM audit_records WHERE tenant = ? AND sequence = 0"
    " ORDER BY time, record_id LIMIT ?"
)
_PLACE = "UPDATE audit_records SET sequence = ? WHERE tenant = ? AND time = ? AND record_id = ?"
_LAST_SEAL = f"SELECT {SEALS.select} FROM audit_seals WHERE tenant = ? ORDER BY number DESC LIMIT 1"
_SEALED = (
    f"SELECT {AUDIT.select} FROM audit_records WHERE tenant = ? AND sequence BETWEEN ? AND ?"
    " ORDER BY sequence"
)
_OLD = (
    "SELECT max(last_sequence) FROM audit_seals WHERE tenant = ? AND sealed_at < ?"
    " AND last_sequence > ?"
)
_CUTS = f"SELECT {CUTS.select} FROM audit_cuts WHERE tenant = ? ORDER BY through_sequence DESC"


def add(records: Sequence[AuditRecord]) -> Plan[None]:
    """Keeps records, each once, as a part of whatever transaction this is."""
    yield from each(_ADD, [AUDIT.row(one) for one in records])


def append(records: Sequence[AuditRecord], request: Request[None]) -> Plan[None]:
    """Keeps a batch once, however often it comes."""
    yield from once(request, lambda: add(records))


def listing(tenant: str, query: AuditQuery) -> Plan[Sequence[AuditRecord]]:
    """A page of the tenant's records."""
    before = query.before
    bounds: tuple[tuple[str, tuple[Any, ...] | None], ...] = (
        ("time >= ?", None if query.since is None else (query.since,)),
        ("time < ?", None if query.until is None else (query.until,)),
        ("(time, record_id) < (?, ?)", None if before is None else (before.time, before.record_id)),
        ("principal = ?", (query.principal,) if query.principal else None),
        ("method = ?", (query.method,) if query.method else None),
        ("resource = ?", (query.resource,) if query.resource else None),
        ("code = ?", (query.code,) if query.code else None),
    )
    given = [(condition, values) for condition, values in bounds if values is not None]
    where = "".join(f" AND {condition}" for condition, _ in given)
    rows = yield from fetch(
        f"SELECT {AUDIT.select} FROM audit_records"
        f" WHERE tenant = ?{where} ORDER BY time DESC, record_id DESC LIMIT ?",
        tenant,
        *(value for _, values in given for value in values),
        query.limit,
    )
    return [AUDIT.value(row) for row in rows]


# --- sealing ---------------------------------------------------------------------------------


def waiting() -> Plan[Sequence[str]]:
    """Tenants with records that are not sealed."""
    rows = yield from fetch("SELECT DISTINCT tenant FROM audit_records WHERE sequence = 0")
    return [tenant for (tenant,) in rows]


def seal_some(tenant: str, key: SealingKey, limit: int) -> Plan[Seal | None]:
    """Seals the oldest records that are not, at most `limit`; None if there are none. Replicas do
    it one after the other, so that there is one chain."""
    yield Alone(f"audit/{tenant}")
    records = [AUDIT.value(row) for row in (yield from fetch(_TO_SEAL, tenant, limit))]
    if not records:
        return None
    last = yield from first(_LAST_SEAL, tenant)
    at = yield from now()
    made, numbered = seal(records, SEALS.value(last) if last else None, at, key)
    yield from each(_PLACE, [(one.sequence, tenant, one.time, one.record_id) for one in numbered])
    yield from each(SEALS.add, [SEALS.row(made)])
    return made


def remove_old(tenant: str, key: SealingKey, before: Instant, limit: int) -> Plan[int]:
    """Removes records of batches that were sealed before then, at most `limit`; how many."""
    yield Alone(f"audit/{tenant}")
    cuts = [CUTS.value(row) for row in (yield from fetch(_CUTS, tenant))]
    through = cuts[0].through_sequence if cuts else 0
    row = yield from first(_OLD, tenant, before, through)
    if row is not None and row[0] is not None:
        through = int(row[0])
        at = yield from now()
        yield from each(CUTS.add, [CUTS.row(cut(tenant, through, at, key))])
    gone = yield from fetch(
        "DELETE FROM audit_records WHERE tenant = ? AND record_id IN (SELECT record_id"
        " FROM audit_records WHERE tenant = ? AND sequence > 0 AND sequence <= ? LIMIT ?)"
        " RETURNING 1",
        tenant,
        tenant,
        through,
        limit,
    )
    return len(gone)


# --- reading a chain -------------------------------------------------------------------------


def sealed_tenants() -> Plan[Sequence[str]]:
    """Tenants with seals or records."""
    rows = yield from fetch(
        "SELECT tenant FROM audit_seals UNION SELECT tenant FROM audit_records ORDER BY tenant"
    )
    return [tenant for (tenant,) in rows]


def seals(tenant: str, after: int, limit: int) -> Plan[Sequence[tuple[Seal, list[AuditRecord]]]]:
    """Seals with a number above `after`, each with the records that stand at its sequences."""
    rows = yield from fetch(
        f"SELECT {SEALS.select} FROM audit_seals WHERE tenant = ? AND number > ?"
        " ORDER BY number LIMIT ?",
        tenant,
        after,
        limit,
    )
    found = []
    for one in map(SEALS.value, rows):
        records = yield from fetch(_SEALED, tenant, one.first_sequence, one.last_sequence)
        found.append((one, [AUDIT.value(row) for row in records]))
    return found


def cuts(tenant: str) -> Plan[Sequence[Cut]]:
    """What retention removed."""
    return [CUTS.value(row) for row in (yield from fetch(_CUTS, tenant))]


def beyond(tenant: str, sequence: int) -> Plan[tuple[int, int]]:
    """How many records claim a place after `sequence` or before the first one, and how many have
    none yet."""
    row = yield from first(
        "SELECT count(*) FILTER (WHERE sequence > ? OR sequence < 0),"
        " count(*) FILTER (WHERE sequence = 0) FROM audit_records WHERE tenant = ?",
        sequence,
        tenant,
    )
    return (int(row[0]), int(row[1])) if row else (0, 0)
