"""The ledger's part of the storage interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentmesh_conversation_store.domain.ledger import (
    TenantPolicy,
    UsageQuery,
    UsageSum,
)
from agentmesh_conversation_store.storage.claims import Claim, GivenUp, Standing
from agentmesh_conversation_store.storage.requests import Request

from . import claims, requests, tenants, usage
from .audited import Recorder
from .plan import Plan, Session

T = TypeVar("T")


class SqlLedger(ABC):
    """`Ledger` over plans."""

    _recorder: Recorder

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
        plan = self._recorder.audited(lambda _: tenants.put_policy(policy, etag, request), "policy")
        return await self._write((policy.tenant,), plan)

    async def tenants_with_retention(self) -> Sequence[str]:
        """See `Ledger`."""
        return await self._read(("*",), tenants.with_retention())

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
