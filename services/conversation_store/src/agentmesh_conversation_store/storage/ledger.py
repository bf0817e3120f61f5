"""What the store keeps of tenants as a whole: usage, limits, audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from agentmesh_conversation_store.domain.audit_chain import Cut, Seal, SealingKey
from agentmesh_conversation_store.domain.ledger import (
    AuditQuery,
    AuditRecord,
    TenantPolicy,
    UsageQuery,
    UsageSum,
)
from agentmesh_conversation_store.domain.model import Instant

if TYPE_CHECKING:
    from .requests import Request


class Ledger(Protocol):
    """The part of a storage that keeps it. Usage is booked by the commands that cause it."""

    async def summarize_usage(self, tenant: str, query: UsageQuery) -> Sequence[UsageSum]:
        """Sums in the order of their keys. What deleted conversations consumed counts."""
        ...

    async def tenant_policy(self, tenant: str) -> TenantPolicy:
        """The tenant's limits; a policy without limits if none were set."""
        ...

    async def put_tenant_policy(
        self, policy: TenantPolicy, etag: str, request: Request[TenantPolicy] | None = None
    ) -> TenantPolicy | bytes:
        """Replaces the limits if `etag` is empty or current; bytes are the kept response of a
        repeated request. Runs that waited for a new day may go on."""
        ...

    async def tenants_with_retention(self) -> Sequence[str]:
        """Tenants whose policy removes events by age or number."""
        ...

    async def append_audit(self, records: Sequence[AuditRecord], request: Request[None]) -> None:
        """Keeps a batch of records of any tenants; a repeated request changes nothing. What the
        store itself carries out for somebody it records in the same transaction."""
        ...

    async def list_audit(self, tenant: str, query: AuditQuery) -> Sequence[AuditRecord]:
        """The tenant's records, newest first."""
        ...

    async def tenants_to_seal(self) -> Sequence[str]:
        """Tenants with audit records that have no place in their chain yet."""
        ...

    async def seal_audit(self, tenant: str, key: SealingKey, limit: int) -> Seal | None:
        """Seals the oldest of them, at most `limit`; None if there is nothing to seal."""
        ...

    async def remove_audit(self, tenant: str, key: SealingKey, before: Instant, limit: int) -> int:
        """Removes records that were sealed before then, at most `limit`, and keeps their seals and
        a signed note of it; says how many."""
        ...

    async def audited_tenants(self) -> Sequence[str]:
        """Tenants with audit records or seals, by name; "" for calls of nobody known."""
        ...

    async def sealed_audit(
        self, tenant: str, after: int, limit: int
    ) -> Sequence[tuple[Seal, Sequence[AuditRecord]]]:
        """The tenant's seals with a number above `after`, each with its records."""
        ...

    async def audit_cuts(self, tenant: str) -> Sequence[Cut]:
        """What retention removed, the latest first."""
        ...

    async def audit_beyond(self, tenant: str, sequence: int) -> tuple[int, int]:
        """How many records have a place that no chain up to `sequence` gave, and how many none."""
        ...
