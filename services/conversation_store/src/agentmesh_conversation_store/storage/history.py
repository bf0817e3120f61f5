"""What the store does to whole histories: sharing, cutting short, removing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agentmesh_conversation_store.domain.forks import Fork
from agentmesh_conversation_store.domain.model import ConversationView, Instant

if TYPE_CHECKING:
    from .requests import Request


@dataclass(frozen=True, slots=True)
class Outdated:
    """A conversation that retention may have something to do to.

    `idle_before` is set if all of it is too old, unless something happened since then.
    """

    conversation_id: str
    idle_before: Instant | None


@dataclass(frozen=True, slots=True)
class Removed:
    """How much one step removed: rows of a tenant, and the blobs that they referred to."""

    tenant: str
    rows: int
    digests: Sequence[str] = ()


class History(Protocol):
    """The part of a storage that does it.

    What nobody can read any more is removed in steps, each a short transaction, by whichever
    replica asks; what was begun and broken off is found again.
    """

    async def fork(
        self, fork: Fork, request: Request[ConversationView] | None = None
    ) -> ConversationView | bytes:
        """Makes a conversation that shares another one's history; bytes are the kept response of a
        repeated request."""
        ...

    async def tenants_to_keep_short(self) -> Sequence[str]:
        """Tenants whose policy removes history, or that of one of their conversations."""
        ...

    async def outdated(self, tenant: str, after: str, limit: int) -> Sequence[Outdated]:
        """Conversations without legal hold that are longer or older than they may be, by id."""
        ...

    async def cut_history(self, tenant: str, conversation_id: str) -> bool:
        """Lets a log begin later, as its retention says and its runs allow; true if it does."""
        ...

    async def remove_some(self, limit: int) -> Removed | None:
        """Removes about that many rows that nobody can read. None if there is nothing to do, or
        others are at it."""
        ...
