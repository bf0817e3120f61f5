"""`AuditLog` over plans, and the reading of it."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentmesh_conversation_store.domain.audit_chain import Seal
from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.domain.ledger import AuditQuery, AuditRecord
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.audit import ChainPage, Removal, Sealing
from agentmesh_conversation_store.storage.requests import Request

from . import audit_chain
from .audited import Recorder
from .plan import Plan, Session, fetch
from .tables import AUDIT

T = TypeVar("T")
_SYSTEM = ""


class SqlAuditLog(ABC):
    """`AuditLog` over plans."""

    _recorder: Recorder

    @abstractmethod
    async def _read(self, tenants: tuple[str, ...], plan: Plan[T], *, snapshot: bool = False) -> T:
        """Runs a plan that only reads; with `snapshot` all of it sees one point in time."""

    @abstractmethod
    async def _write(self, tenants: tuple[str, ...], plan: Callable[[Session], Plan[T]]) -> T:
        """Runs a plan in a transaction of its own."""

    async def append_audit(self, records: Sequence[AuditRecord], request: Request[None]) -> None:
        """See `AuditLog`."""
        await self._write(("*",), lambda _: self._recorder.append(records, request))

    async def list_audit(self, tenant: str, query: AuditQuery) -> Sequence[AuditRecord]:
        """See `AuditLog`."""
        return await self._read((tenant,), listing(tenant, query))

    async def tenants_to_seal(self) -> Sequence[str]:
        """See `AuditLog`."""
        return await self._read(("*",), audit_chain.waiting())

    async def seal_audit(
        self, tenant: str, keys: AuditKeys, limit: int, known: Seal | None = None
    ) -> Sealing:
        """See `AuditLog`."""
        return await self._write(
            (tenant, _SYSTEM), lambda _: audit_chain.seal_some(keys, tenant, limit, known)
        )

    async def reconsider_audit(self, keys: AuditKeys, limit: int) -> int:
        """See `AuditLog`."""
        return await self._write(("*",), lambda _: audit_chain.reconsider(keys, limit))

    async def remove_audit(
        self, tenant: str, keys: AuditKeys, before: Instant | None, limit: int
    ) -> Removal:
        """See `AuditLog`."""
        return await self._write(
            (tenant,), lambda _: audit_chain.remove_some(keys, tenant, before, limit)
        )

    async def audited_tenants(self) -> Sequence[str]:
        """See `AuditLog`."""
        return await self._read(("*",), audit_chain.tenants())

    async def audit_page(
        self, tenant: str, keys: AuditKeys, after: int, last_sequence: int, limit: int
    ) -> ChainPage:
        """See `AuditLog`."""
        plan = audit_chain.page(keys, tenant, after, last_sequence, limit)
        return await self._read((tenant, _SYSTEM), plan, snapshot=True)


def listing(tenant: str, query: AuditQuery) -> Plan[Sequence[AuditRecord]]:
    """A page of the tenant's records, without those that were put aside."""
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
        f" WHERE tenant = ? AND sequence >= 0{where} ORDER BY time DESC, record_id DESC LIMIT ?",
        tenant,
        *(value for _, values in given for value in values),
        query.limit,
    )
    return [AUDIT.value(row) for row in rows]
