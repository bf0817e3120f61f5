"""What the store knows of who may do what in which conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentmesh_conversation_store.domain.access import Access, Caller, Grant


class Sharing(Protocol):
    """The part of a storage that tells."""

    async def access(self, tenant: str, conversation_id: str, caller: Caller) -> Access | None:
        """What the caller may do in a conversation; None if it does not exist for them."""
        ...

    async def grants(
        self, tenant: str, conversation_id: str, after: str, limit: int
    ) -> Sequence[Grant]:
        """A page of a conversation's grants, by the keys of those that it is shared with."""
        ...
