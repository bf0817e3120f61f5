"""Reading a conversation and its log."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import ConversationStatus, ConversationView
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.storage.interface import Head

from .plan import Plan, fetch, fetch_each, first
from .tables import CONVERSATIONS, FACTS, RUNS

EVENT_COLUMNS = "sequence, kind, run_id, agent, message_id, turn, data"

VIEW_COLUMNS = f"{CONVERSATIONS.qualified('c')}, {FACTS.qualified('f')}, {RUNS.qualified('r')}"
BESIDE = (
    " JOIN conversation_facts f ON f.tenant = c.tenant AND f.conversation_id = c.conversation_id"
    " JOIN runs r ON r.tenant = c.tenant AND r.run_id = c.root_run_id"
)
_VIEW = f"SELECT {VIEW_COLUMNS} FROM conversations c{BESIDE}"
# What a log holds itself, unless there are events of other logs before that: a fork shares them.
_OWN_EVENTS = (
    f"SELECT {EVENT_COLUMNS} FROM events WHERE tenant = ? AND conversation_id = ? AND sequence > ?"
    " AND sequence >= (SELECT oldest_sequence FROM conversations"
    " WHERE tenant = ? AND conversation_id = ?)"
    " AND NOT EXISTS (SELECT 1 FROM shared_history WHERE tenant = ? AND conversation_id = ?"
    " AND last_sequence > ? AND first_sequence <= last_sequence)"
    " ORDER BY sequence LIMIT ?"
)
_NEXT_SHARED = (
    "SELECT s.log_id, s.first_sequence, s.last_sequence FROM shared_history s"
    " JOIN conversations c ON c.tenant = s.tenant AND c.conversation_id = s.conversation_id"
    " WHERE s.tenant = ? AND s.conversation_id = ? AND s.last_sequence > ?"
    " AND s.first_sequence <= s.last_sequence ORDER BY s.last_sequence LIMIT 1"
)
_SHARED_EVENTS = (
    f"SELECT {EVENT_COLUMNS} FROM events WHERE tenant = ? AND conversation_id = ?"
    " AND sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?"
)
_DEFINITION = "SELECT data FROM definitions WHERE tenant = ? AND digest = ?"
_UNLIMITED = 2**62
_FACTS_AT = len(CONVERSATIONS.fields)
_RUN_AT = _FACTS_AT + len(FACTS.fields)


Retold = Callable[[bytes, str], bytes]
"""How an event is told as one of another conversation; see `EventCodec.belonging_to`."""


def event_of(row: Sequence[Any]) -> StoredEvent:
    """The event of a row of EVENT_COLUMNS."""
    return StoredEvent(*row)


def view_of(row: Sequence[Any]) -> ConversationView:
    """The conversation of a row of VIEW_COLUMNS."""
    return ConversationView(
        CONVERSATIONS.value(row[:_FACTS_AT]),
        FACTS.value(row[_FACTS_AT:_RUN_AT]),
        RUNS.value(row[_RUN_AT:]),
    )


def conversation(tenant: str, conversation_id: str) -> Plan[ConversationView]:
    """One conversation with its newest root run."""
    row = yield from first(
        f"{_VIEW} WHERE c.tenant = ? AND c.conversation_id = ?", tenant, conversation_id
    )
    if row is None:
        raise not_found("conversation", conversation_id)
    return view_of(row)


def definition(tenant: str, digest: str) -> Plan[bytes]:
    """A pinned definition; empty if there is none."""
    row = yield from first(_DEFINITION, tenant, digest)
    return bytes(row[0]) if row else b""


def events(
    tenant: str, conversation_id: str, after: int, limit: int, max_bytes: int, retold: Retold
) -> Plan[Sequence[StoredEvent]]:
    """Consecutive events up to a size, at least one if there is one. All reading of logs goes this
    way: what a fork shares is found in the log that it lies in, and told as the fork's."""
    key = (tenant, conversation_id)
    rows = yield from fetch(_OWN_EVENTS, *key, after, *key, *key, after, limit)
    events = [event_of(row) for row in rows]
    if not events:
        events = yield from _shared_events(tenant, conversation_id, after, limit, retold)
    found: list[StoredEvent] = []
    size = 0
    for event in events:
        size += len(event.data)
        if found and size > max_bytes:
            break
        found.append(event)
    return found


def _shared_events(
    tenant: str, conversation_id: str, after: int, limit: int, retold: Retold
) -> Plan[list[StoredEvent]]:
    part = yield from first(_NEXT_SHARED, tenant, conversation_id, after)
    if part is None:
        return []
    log_id, first_sequence, last_sequence = part
    after = max(after, first_sequence - 1)
    rows = yield from fetch(_SHARED_EVENTS, tenant, log_id, after, last_sequence, limit)
    return [
        replace(event, data=retold(event.data, conversation_id)) for event in map(event_of, rows)
    ]


def tail(
    tenant: str, conversation_id: str, limit: int, retold: Retold
) -> Plan[tuple[Head, Sequence[StoredEvent]]]:
    """Where the log ends, and its newest events."""
    found = yield from heads([(tenant, conversation_id)])
    head = found.get((tenant, conversation_id))
    if head is None:
        raise not_found("conversation", conversation_id)
    newest: list[StoredEvent] = []
    position = head.sequence - limit
    while position < head.sequence:
        more = yield from events(tenant, conversation_id, position, limit, _UNLIMITED, retold)
        if not more:
            break
        newest += more
        position = more[-1].sequence
    return head, newest


def heads(wanted: Sequence[tuple[str, str]]) -> Plan[dict[tuple[str, str], Head]]:
    """Where many logs end."""
    rows = yield from fetch_each(
        "SELECT tenant, conversation_id, head_sequence, oldest_sequence, status"
        " FROM conversations WHERE tenant = ? AND conversation_id = ?",
        wanted,
    )
    return {
        (tenant, conversation_id): Head(sequence, oldest, not ConversationStatus(status).ended)
        for tenant, conversation_id, sequence, oldest, status in rows
    }
