"""Who did what: appended in batches, read newest first."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.ledger import AuditPosition, AuditQuery, AuditRecord
from agentmesh_conversation_store.storage.requests import Request

from .plan import Plan, each, fetch
from .requests import once
from .tables import AUDIT

_ADD = (
    f"INSERT INTO audit_records ({', '.join(AUDIT.columns)})"
    f" VALUES ({', '.join('?' * len(AUDIT.columns))})"
)


def append(batch_id: str, records: Sequence[AuditRecord], request: Request[None]) -> Plan[None]:
    """Keeps a batch once, however often it comes."""

    def write() -> Plan[None]:
        yield from each(
            _ADD, [(batch_id, ordinal, *AUDIT.row(one)) for ordinal, one in enumerate(records)]
        )

    yield from once(request, write)


def listing(tenant: str, query: AuditQuery) -> Plan[Sequence[tuple[AuditPosition, AuditRecord]]]:
    """The tenant's records with their positions."""
    before = query.before
    bounds = (
        ("time >= ?", None if query.since is None else (query.since,)),
        ("time < ?", None if query.until is None else (query.until,)),
        (
            "(time, batch_id, ordinal) < (?, ?, ?)",
            None if before is None else (before.time, before.batch_id, before.ordinal),
        ),
    )
    given = [(condition, values) for condition, values in bounds if values is not None]
    where = "".join(f" AND {condition}" for condition, _ in given)
    rows = yield from fetch(
        f"SELECT time, batch_id, ordinal, {AUDIT.select} FROM audit_records"
        f" WHERE tenant = ?{where} ORDER BY time DESC, batch_id DESC, ordinal DESC LIMIT ?",
        tenant,
        *(value for _, values in given for value in values),
        query.limit,
    )
    return [(AuditPosition(*row[:3]), AUDIT.value(row[3:])) for row in rows]
