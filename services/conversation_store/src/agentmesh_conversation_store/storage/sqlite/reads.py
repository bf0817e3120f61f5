"""Reading conversations and logs."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import ConversationStatus, ConversationView
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.storage.interface import ConversationQuery, Head
from agentmesh_conversation_store.storage.rows import CONVERSATIONS, FACTS, RUNS

EVENT_COLUMNS = "sequence, kind, run_id, agent, message_id, turn, data"
_HEADS_AT_ONCE = 400

_VIEW = (
    f"SELECT {CONVERSATIONS.qualified('c')}, {FACTS.qualified('f')}, {RUNS.qualified('r')}"
    " FROM conversations c"
    " JOIN conversation_facts f USING (tenant, conversation_id)"
    " JOIN runs r ON r.tenant = c.tenant AND r.run_id = c.root_run_id"
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


def conversation(db: sqlite3.Connection, tenant: str, conversation_id: str) -> ConversationView:
    """One conversation with its newest root run."""
    row = db.execute(
        f"{_VIEW} WHERE c.tenant = ? AND c.conversation_id = ?", (tenant, conversation_id)
    ).fetchone()
    if row is None:
        raise not_found("conversation", conversation_id)
    return _view_of(row)


def conversations(
    db: sqlite3.Connection, tenant: str, query: ConversationQuery
) -> list[ConversationView]:
    """A page of conversations, newest first."""
    conditions, values = ["c.tenant = ?"], [tenant]
    parameters: list[Any] = list(values)

    def require(condition: str, *bound: Any) -> None:
        conditions.append(condition)
        parameters.extend(bound)

    if query.before is not None:
        require("(c.started_at, c.conversation_id) < (?, ?)", *query.before)
    if query.statuses:
        marks = ", ".join("?" * len(query.statuses))
        require(f"c.status IN ({marks})", *(int(status) for status in query.statuses))
    if query.agent:
        require("EXISTS (SELECT 1 FROM json_each(f.agents) WHERE value = ?)", query.agent)
    if query.started_after is not None:
        require("c.started_at >= ?", query.started_after)
    if query.started_before is not None:
        require("c.started_at < ?", query.started_before)
    rows = db.execute(
        f"{_VIEW} WHERE {' AND '.join(conditions)}"
        " ORDER BY c.started_at DESC, c.conversation_id DESC LIMIT ?",
        (*parameters, query.limit),
    )
    return [_view_of(row) for row in rows]


def events(
    db: sqlite3.Connection,
    tenant: str,
    conversation_id: str,
    after: int,
    limit: int,
    max_bytes: int,
) -> list[StoredEvent]:
    """Consecutive events up to a size, at least one if there is one."""
    rows = db.execute(
        f"SELECT {EVENT_COLUMNS} FROM events"
        " WHERE tenant = ? AND conversation_id = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (tenant, conversation_id, after, limit),
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


def tail(
    db: sqlite3.Connection, tenant: str, conversation_id: str, limit: int
) -> tuple[Head, list[StoredEvent]]:
    """Where the log ends, and its newest events."""
    head = heads(db, [(tenant, conversation_id)]).get((tenant, conversation_id))
    if head is None:
        raise not_found("conversation", conversation_id)
    rows = db.execute(
        f"SELECT {EVENT_COLUMNS} FROM events"
        " WHERE tenant = ? AND conversation_id = ? AND sequence > ? ORDER BY sequence",
        (tenant, conversation_id, head.sequence - limit),
    )
    return head, [event_of(row) for row in rows]


def heads(db: sqlite3.Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Head]:
    """Where many logs end."""
    found: dict[tuple[str, str], Head] = {}
    for start in range(0, len(wanted), _HEADS_AT_ONCE):
        chunk = wanted[start : start + _HEADS_AT_ONCE]
        rows = db.execute(
            "SELECT tenant, conversation_id, head_sequence, oldest_sequence, status"
            " FROM conversations WHERE (tenant, conversation_id) IN"
            f" (VALUES {', '.join(['(?, ?)'] * len(chunk))})",
            [part for pair in chunk for part in pair],
        )
        for tenant, conversation_id, sequence, oldest, status in rows:
            active = not ConversationStatus(status).ended
            found[tenant, conversation_id] = Head(sequence, oldest, active)
    return found
