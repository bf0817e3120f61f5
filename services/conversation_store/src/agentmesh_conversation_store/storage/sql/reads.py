"""Reading conversations and logs."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import ConversationStatus, ConversationView
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.storage.interface import ConversationQuery, Head

from .plan import Plan, fetch, fetch_each, first
from .tables import CONVERSATIONS, FACTS, RUNS

EVENT_COLUMNS = "sequence, kind, run_id, agent, message_id, turn, data"

_VIEW = (
    f"SELECT {CONVERSATIONS.qualified('c')}, {FACTS.qualified('f')}, {RUNS.qualified('r')}"
    " FROM conversations c"
    " JOIN conversation_facts f ON f.tenant = c.tenant AND f.conversation_id = c.conversation_id"
    " JOIN runs r ON r.tenant = c.tenant AND r.run_id = c.root_run_id"
)
_TAKES_PART = (
    "EXISTS (SELECT 1 FROM conversation_agents a WHERE a.tenant = c.tenant"
    " AND a.conversation_id = c.conversation_id AND a.agent = ?)"
)
_FACTS_AT = len(CONVERSATIONS.fields)
_RUN_AT = _FACTS_AT + len(FACTS.fields)


def event_of(row: Sequence[Any]) -> StoredEvent:
    """The event of a row of EVENT_COLUMNS."""
    return StoredEvent(*row)


def _view_of(row: Sequence[Any]) -> ConversationView:
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
    return _view_of(row)


def conversations(tenant: str, query: ConversationQuery) -> Plan[Sequence[ConversationView]]:
    """A page of conversations, newest first."""
    conditions = ["c.tenant = ?"]
    arguments: list[Any] = [tenant]

    def require(condition: str, *bound: Any) -> None:
        conditions.append(condition)
        arguments.extend(bound)

    if query.before is not None:
        require("(c.started_at, c.conversation_id) < (?, ?)", *query.before)
    if query.statuses:
        marks = ", ".join("?" * len(query.statuses))
        require(f"c.status IN ({marks})", *(int(status) for status in query.statuses))
    if query.agent:
        require(_TAKES_PART, query.agent)
    if query.started_after is not None:
        require("c.started_at >= ?", query.started_after)
    if query.started_before is not None:
        require("c.started_at < ?", query.started_before)
    rows = yield from fetch(
        f"{_VIEW} WHERE {' AND '.join(conditions)}"
        " ORDER BY c.started_at DESC, c.conversation_id DESC LIMIT ?",
        *arguments,
        query.limit,
    )
    return [_view_of(row) for row in rows]


def events(
    tenant: str, conversation_id: str, after: int, limit: int, max_bytes: int
) -> Plan[Sequence[StoredEvent]]:
    """Consecutive events up to a size, at least one if there is one."""
    rows = yield from fetch(
        f"SELECT {EVENT_COLUMNS} FROM events"
        " WHERE tenant = ? AND conversation_id = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        tenant,
        conversation_id,
        after,
        limit,
    )
    found: list[StoredEvent] = []
    size = 0
    for row in rows:
        event = event_of(row)
        size += len(event.data)
        if found and size > max_bytes:
            break
        found.append(event)
    return found


def tail(tenant: str, conversation_id: str, limit: int) -> Plan[tuple[Head, Sequence[StoredEvent]]]:
    """Where the log ends, and its newest events."""
    found = yield from heads([(tenant, conversation_id)])
    head = found.get((tenant, conversation_id))
    if head is None:
        raise not_found("conversation", conversation_id)
    rows = yield from fetch(
        f"SELECT {EVENT_COLUMNS} FROM events"
        " WHERE tenant = ? AND conversation_id = ? AND sequence > ? ORDER BY sequence",
        tenant,
        conversation_id,
        head.sequence - limit,
    )
    return head, [event_of(row) for row in rows]


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
