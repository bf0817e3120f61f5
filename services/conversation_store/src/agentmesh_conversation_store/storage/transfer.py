"""What the store does to take conversations out and in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import BlobReference, Checkpoint, ConversationView
from agentmesh_conversation_store.domain.search import Words
from agentmesh_conversation_store.storage.requests import Request

if TYPE_CHECKING:
    from .interface import CheckpointLink


@dataclass(frozen=True, slots=True)
class Departing:
    """A conversation as it stands, with what its next run would begin with: the checkpoints of its
    newest root run, oldest first, and the inputs that this has not read."""

    view: ConversationView
    definition: bytes
    chain: Sequence[CheckpointLink]
    unread: Sequence[int]


@dataclass(slots=True)
class Arrivals:
    """A part of what an import brings, in the order of its events."""

    events: list[StoredEvent] = field(default_factory=list)
    words: list[tuple[int, Words]] = field(default_factory=list)
    references: list[BlobReference] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)


class Transfer(Protocol):
    """The part of a storage that does it.

    What an import brings is written part by part, and known to nobody until it is complete. One
    that breaks off is removed as deleted conversations are.
    """

    async def departing(self, tenant: str, conversation_id: str) -> Departing:
        """What an export begins with, at one point in time."""
        ...

    async def begin_import(self, tenant: str, conversation_id: str, run_id: str) -> bool:
        """Takes these ids for an import; false if one of them is in use."""
        ...

    async def add_arrivals(self, tenant: str, conversation_id: str, arrivals: Arrivals) -> None:
        """Writes a part. Refused with NOT_FOUND if the import was given up."""
        ...

    async def finish_import(
        self,
        view: ConversationView,
        definition: bytes,
        unread: Sequence[int],
        request: Request[ConversationView] | None = None,
    ) -> ConversationView | bytes:
        """Makes all of it known at once. If the same request brought a conversation before, the
        answer is what was answered then, and this import is given up."""
        ...

    async def give_up_import(self, tenant: str, conversation_id: str) -> None:
        """Lets what was written be removed."""
        ...
