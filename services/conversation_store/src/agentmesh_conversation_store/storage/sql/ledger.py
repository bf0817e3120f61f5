"""The ledger's part of the storage interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentmesh_conversation_store.domain.audit_chain import Cut, Seal, SealingKey
from agentmesh_conversation_store.domain.ledger import (
    AuditQuery,
    AuditRecord,
    TenantPolicy,
    UsageQuery,
    UsageSum,
)
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.claims import Claim, GivenUp, Standing
from agentmesh_conversation_store.storage.requests import Request

from . import audit, claims, requests, tenants, usage
from .audited import audited
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
        plan = audited(lambda _: tenants.put_policy(policy, etag, request), "policy")
        return await self._write((policy.tenant,), plan)

    async def tenants_with_retention(self) -> Sequence[str]:
        """See `Ledger`."""
        return await self._read(("*",), tenants.with_retention())

    async def append_audit(self, records: Sequence[AuditRecord], request: Request[None]) -> None:
        """See `Ledger`."""
        await self._write(("*",), lambda _: audit.append(records, request))

    async def list_audit(self, tenant: str, query: AuditQuery) -> Sequence[AuditRecord]:
        """See `Ledger`."""
        return await self._read((tenant,), audit.listing(tenant, query))

    async def tenants_to_seal(self) -> Sequence[str]:
        """See `Ledger`."""
        return await self._read(("*",), audit.waiting())

    async def seal_audit(self, tenant: str, key: SealingKey, limit: int) -> Seal | None:
        """See `Ledger`."""
        return await self._write((tenant,), lambda _: audit.seal_some(tenant, key, limit))

    async def remove_audit(self, tenant: str, key: SealingKey, before: Instant, limit: int) -> int:
        """See `Ledger`."""
        return await self._write((tenant,), lambda _: audit.remove_old(tenant, key, before, limit))

    async def audited_tenants(self) -> Sequence[str]:
        """See `Ledger`."""
        return await self._read(("*",), audit.sealed_tenants())

    async def sealed_audit(
        self, tenant: str, after: int, limit: int
    ) -> Sequence[tuple[Seal, Sequence[AuditRecord]]]:
        """See `Ledger`."""
        return await self._read((tenant,), audit.seals(tenant, after, limit), snapshot=True)

    async def audit_cuts(self, tenant: str) -> Sequence[Cut]:
        """See `Ledger`."""
        return await self._read((tenant,), audit.cuts(tenant))

    async def audit_beyond(self, tenant: str, sequence: int) -> tuple[int, int]:
        """See `Ledger`."""
        return await self._read((tenant,), audit.beyond(tenant, sequence))

    async def claim_request(self, claim: Claim) -> Standing:
        """See `Claims`."""
        return await self._write((claim.request.tenant,), lambda _: claims.claim(claim))

    async def renew_request(self, claim: Claim, note: bytes) -> bool:
        """See `Claims`."""
        return await self._write((claim.request.tenant,), lambda _: claims.renew(claim, note))

    async def finish_request(self, claim: Claim, end: bytes | GivenUp) -> bool:
        """See `Claims`."""
        return await self._write((claim.request.tenant,), lambda _: claims.finish(claim, end))

    async def recall(self, request: Request[Any]) -> bytes | None:
        """See `Claims`."""
        return await self._read((request.tenant,), requests.recall(request))
