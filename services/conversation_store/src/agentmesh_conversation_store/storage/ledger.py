"""What the store keeps of tenants as a whole: usage and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from agentmesh_conversation_store.domain.ledger import (
    TenantPolicy,
    UsageQuery,
    UsageSum,
)

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
