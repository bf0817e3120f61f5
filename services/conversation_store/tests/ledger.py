"""What the ledger says of steps that cost something."""

from __future__ import annotations

from typing import Any

from agentmesh_conversation_store.domain.ledger import (
    Dimension,
    TenantPolicy,
    UsageQuery,
)
from agentmesh_conversation_store.domain.usage import NO_USAGE, Budget, Usage
from agentmesh_conversation_store.storage.interface import (
    Storage,
)


async def sums(storage: Storage, dimension: Dimension, tenant: str = "acme") -> dict[Any, Usage]:
    """What the ledger says, by a dimension."""
    found = await storage.summarize_usage(tenant, UsageQuery(dimension, 1000))
    return {one.key: one.usage for one in found}


async def agrees(storage: Storage, *conversations: str, tenant: str = "acme") -> None:
    """The ledger says of each conversation what the conversation itself says, and of all of them
    the same by every dimension."""
    by_conversation = await sums(storage, Dimension.CONVERSATION, tenant)
    total = NO_USAGE
    for conversation_id in conversations:
        shown = (await storage.conversation(tenant, conversation_id)).conversation.usage
        assert by_conversation.get(conversation_id, NO_USAGE) == shown
        total = total.plus(shown)
    for dimension in Dimension:
        summed = NO_USAGE
        for usage in (await sums(storage, dimension, tenant)).values():
            summed = summed.plus(usage)
        assert summed == total


async def allow(storage: Storage, tenant: str = "acme", **budget: int) -> None:
    await storage.put_tenant_policy(TenantPolicy(tenant, daily_budget=Budget(**budget)), "")
