"""Turns what was committed into notices."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.storage.interface import Committed, Head

from .interface import (
    NOTICE_BYTES,
    ChangedRun,
    ConversationDeleted,
    EventsCommitted,
    Fanout,
    FencesRaised,
    RunsChanged,
)

_EVERY_TURN = 2**31
_TURN_ENDS = frozenset({"turn_committed", "turn_discarded", "run_ended"})


class Announcer:
    """Listens to a storage's commits and publishes them, in their order."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout

    def __call__(self, group: Sequence[Committed]) -> None:
        for committed in group:
            if committed.deleted:
                gone = ConversationDeleted(committed.tenant, committed.conversation_id)
                self._fanout.publish(gone)
            if committed.conversation is not None and (committed.events or committed.cut):
                conversation = committed.conversation
                head = Head(
                    conversation.head_sequence,
                    conversation.oldest_sequence,
                    not conversation.status.ended,
                )
                self._fanout.publish(_grown(committed, head))
            if committed.fences:
                self._fanout.publish(FencesRaised(committed.fences))
        runs = [ChangedRun.of(run) for committed in group for run in committed.runs]
        if runs:
            self._fanout.publish(RunsChanged(runs))


def _grown(committed: Committed, head: Head) -> EventsCommitted:
    return EventsCommitted(
        committed.tenant,
        committed.conversation_id,
        head,
        _fitting(committed),
        finished_messages(committed.events),
        ended_turns(committed.events),
        committed.events[0].sequence if committed.events else head.sequence + 1,
    )


def finished_messages(events: Sequence[StoredEvent]) -> list[str]:
    """The messages that these events finish."""
    return [event.message_id for event in events if event.message_id]


def ended_turns(events: Sequence[StoredEvent]) -> list[tuple[str, int]]:
    """The turns (run, number) that these events close, with all turns of the run before them."""
    return [
        (event.run_id, _EVERY_TURN if event.kind == "run_ended" else event.turn)
        for event in events
        if event.kind in _TURN_ENDS
    ]


def _fitting(committed: Committed) -> Sequence[StoredEvent]:
    """The first events that fit into a notice; subscribers read the others from the log."""
    size = 0
    for count, event in enumerate(committed.events):
        size += len(event.data)
        if size > NOTICE_BYTES:
            return committed.events[:count]
    return committed.events
