"""What can be heard, and how it is passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import RaisedFence, Run
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
    """A log grew. `events` are the new ones as far as they fit into a notice.

    `message_ids` are the messages that the new events finish, `ended_turns` the turns (run,
    number) that they close: what is known of them from deltas is void.
    """

    tenant: str
    conversation_id: str
    head: Head
    events: Sequence[StoredEvent]
    message_ids: Sequence[str]
    ended_turns: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class DeltasMade:
    """A worker wrote on."""

    tenant: str
    conversation_id: str
    deltas: Sequence[LiveDelta]


@dataclass(frozen=True, slots=True)
class RunsChanged:
    """Runs changed their status, lease or fence."""

    runs: Sequence[Run]


@dataclass(frozen=True, slots=True)
class FencesRaised:
    """Work under lower fences must stop."""

    fences: Sequence[RaisedFence]


Notice = EventsCommitted | DeltasMade | RunsChanged | FencesRaised
Listener = Callable[[Notice], None]


class Fanout(Protocol):
    """Passes notices to every listener of every replica, in order for each publisher."""

    def publish(self, notice: Notice) -> None:
        """Never waits and never fails; a notice may be lost."""
        ...

    def listen(self, listener: Listener) -> None:
        """Calls `listener` on the event loop. It must be quick."""
        ...
