"""The events that say how the others count as context: summaries, and turns that were given up."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentmesh_conversation_store.domain.events import StoredEvent

from .plan import Plan, fetch
from .reads import EVENT_COLUMNS, Retold, event_of

# As the condition of the index events_marks: both databases compare them word by word.
_MARKS = "kind IN ('context_summary', 'turn_discarded')"
_OF_LOG = (
    f"SELECT {EVENT_COLUMNS} FROM events"
    f" WHERE tenant = ? AND conversation_id = ? AND sequence <= ? AND {_MARKS}"
)
_SHARED = (
    f"SELECT {', '.join(f'e.{name}' for name in EVENT_COLUMNS.split(', '))} FROM shared_history s"
    " JOIN events e ON e.tenant = s.tenant AND e.conversation_id = s.log_id"
    " AND e.sequence BETWEEN s.first_sequence AND s.last_sequence"
    f" AND e.{_MARKS} WHERE s.tenant = ? AND s.conversation_id = ? AND e.sequence <= ?"
)


def marks(
    tenant: str, conversation_id: str, through: int, retold: Retold
) -> Plan[Sequence[StoredEvent]]:
    """Those of a conversation up to a sequence, what it shares included, in order."""
    arguments = (tenant, conversation_id, through)
    shared = yield from fetch(_SHARED, *arguments)
    own = yield from fetch(_OF_LOG, *arguments)
    told = [
        replace(event, data=retold(event.data, conversation_id)) for event in map(event_of, shared)
    ]
    return sorted((*told, *map(event_of, own)), key=lambda event: event.sequence)
