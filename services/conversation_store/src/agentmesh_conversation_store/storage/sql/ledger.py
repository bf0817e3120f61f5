"""The ledger's part of the storage interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from agentmesh_conversation_store.domain.ledger import (
    AuditPosition,
    AuditQuery,
    AuditRecord,
    TenantPolicy,
    UsageQuery,
    UsageSum,
)
from agentmesh_conversation_store.storage.requests import Request

from . import audit, tenants, usage
from .plan import Plan, Session

T = TypeVar("T")


class SqlLedger(ABC):
    """`Ledger` over plans."""

    @abstractmethod
    async def _read(self, tenants: tuple[str, ...], plan: Plan[T], *, snapshot: bool = False) -> T:
        """Runs a plan that only reads; with `snapshot` all of it sees one point in time."""

    @abstractmethod
    async def _write(self, tenants: tuple[str, ...], plan: Callable[[Session], Plan[T]]) -> T:
        """Runs a plan in a transaction of its own."""

    async def summarize_usage(self, tenant: str, query: UsageQuery) -> Sequence[UsageSum]:
        """See `Ledger`."""
        return await self._read((tenant,), usage.summarize(tenant, query))

    async def tenant_policy(self, tenant: str) -> TenantPolicy:
        """See `Ledger`."""
        return await self._read((tenant,), tenants.policy(tenant))

    async def put_tenant_policy(
        self, policy: TenantPolicy, etag: str, request: Request[TenantPolicy] | None = None
    ) -> TenantPolicy | bytes:
        """See `Ledger`."""
        plan = tenants.put_policy
        return await self._write((policy.tenant,), lambda _: plan(policy, etag, request))

    async def tenants_with_retention(self) -> Sequence[str]:
        """See `Ledger`."""
        return await self._read(("*",), tenants.with_retention())

    async def append_audit(
        self, batch_id: str, records: Sequence[AuditRecord], request: Request[None]
    ) -> None:
        """See `Ledger`."""
        await self._write(("*",), lambda _: audit.append(batch_id, records, request))

    async def list_audit(
        self, tenant: str, query: AuditQuery
    ) -> Sequence[tuple[AuditPosition, AuditRecord]]:
        """See `Ledger`."""
        return await self._read((tenant,), audit.listing(tenant, query))
