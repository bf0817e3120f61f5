"""What can be heard, and how it is passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import RaisedFence, Run, RunStatus
from agentmesh_conversation_store.storage.interface import Head

NOTICE_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class LiveDelta:
    """A piece of a message that is being made; see `Delta` in the contracts."""

    run_id: str
    turn: int
    message_id: str
    agent: str
    kind: int
    text: str
    fence: int
    first_index: int
    last_index: int
    after_sequence: int
    tool: str


@dataclass(frozen=True, slots=True)
class EventsCommitted:
    """A log grew, or begins later than before, without new events. `events` are the new ones as far
    as they fit into a notice.

    `message_ids` are the messages that the new events finish, `ended_turns` the turns (run,
    number) that they close: what is known of them from deltas is void. Both are complete: they
    speak for all events from `first_sequence` to the head, also those that did not fit.
    """

    tenant: str
    conversation_id: str
    head: Head
    events: Sequence[StoredEvent]
    message_ids: Sequence[str]
    ended_turns: Sequence[tuple[str, int]]
    first_sequence: int = 0


@dataclass(frozen=True, slots=True)
class DeltasMade:
    """A worker wrote on."""

    tenant: str
    conversation_id: str
    deltas: Sequence[LiveDelta]


@dataclass(frozen=True, slots=True)
class ChangedRun:
    """What others need to know of a run. `lease_worker` holds or held its lease."""

    run_id: str
    status: RunStatus
    fence: int
    lease_worker: str

    @classmethod
    def of(cls, run: Run) -> Self:
        """What of it others need to know."""
        return cls(run.run_id, run.status, run.fence, run.lease_worker)


@dataclass(frozen=True, slots=True)
class RunsChanged:
    """Runs changed their status, lease or fence."""

    runs: Sequence[ChangedRun]


@dataclass(frozen=True, slots=True)
class FencesRaised:
    """Work under lower fences must stop."""

    fences: Sequence[RaisedFence]


@dataclass(frozen=True, slots=True)
class NoticesMissed:
    """Notices of other replicas may be missing until now, and arrive from now on: look at the log.

    About the conversations (tenant, id), or if that is None, about everything that concerns no
    single conversation.
    """

    conversations: Sequence[tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class TextWanted:
    """Another replica begins to follow a conversation: `Fanout.tell` it of the messages that are
    being made."""

    replica: str
    tenant: str
    conversation_id: str


@dataclass(frozen=True, slots=True)
class ConversationDeleted:
    """There is no such conversation any more."""

    tenant: str
    conversation_id: str


Notice = (
    EventsCommitted
    | DeltasMade
    | RunsChanged
    | FencesRaised
    | NoticesMissed
    | TextWanted
    | ConversationDeleted
)
N = TypeVar("N", bound=Notice)


class Fanout(Protocol):
    """Passes notices to every listener of every replica, in order for each publisher.

    Notices of different publishers may cross, so a listener must not let an older one undo a newer.
    """

    async def start(self) -> None:
        """Begins to talk to other replicas. Does not wait for them."""
        ...

    async def stop(self) -> None:
        """Says what is left to say, if that can be done quickly."""
        ...

    def publish(self, notice: Notice) -> None:
        """Never waits and never fails; a notice may be lost on its way to other replicas."""
        ...

    def tell(self, replica: str | None, notice: DeltasMade) -> None:
        """As `publish`, but to other replicas only: to one, or to all if that is None."""
        ...

    def listen(self, kind: type[N], listener: Callable[[N], None]) -> None:
        """Calls `listener` on the event loop with every notice of that kind. It must be quick."""
        ...

    def follow(self, tenant: str, conversation_id: str) -> bool:
        """Other replicas' notices about this conversation are wanted; those of this replica come
        anyhow. True if there may be such: `NoticesMissed` tells from when on they arrive, and
        what other replicas know of messages that are being made there follows."""
        ...

    def unfollow(self, tenant: str, conversation_id: str) -> None:
        """They are not wanted any more."""
        ...
