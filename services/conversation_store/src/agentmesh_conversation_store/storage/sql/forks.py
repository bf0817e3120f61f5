"""Forking. What a fork needs to know of a log is found by index, however long the log is."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentmesh_conversation_store.domain.forks import (
    Fork,
    ForkConversation,
    ForkPoint,
    require_place,
    shared_by_fork,
)
from agentmesh_conversation_store.domain.history import Milestone, SharedHistory
from agentmesh_conversation_store.domain.model import ConversationView

from . import reads
from .plan import Plan, Session, fetch, first
from .tables import MILESTONES, SHARED
from .unit import Item, Unit

LOCK = "SELECT 1 FROM conversations WHERE tenant = ? AND conversation_id = ? FOR UPDATE"
_PARTS = (
    f"SELECT {SHARED.select} FROM shared_history WHERE tenant = ? AND conversation_id = ?"
    " ORDER BY last_sequence"
)
_MILESTONE = (
    f"SELECT {MILESTONES.select} FROM milestones WHERE tenant = ? AND conversation_id = ?"
    " AND sequence >= ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1"
)
_SAID_BY_WORKERS = (
    "SELECT message_id FROM events WHERE tenant = ? AND conversation_id = ?"
    " AND sequence >= ? AND sequence <= ? AND kind = 'message' AND turn > 0 ORDER BY sequence"
)
# What is said to children stays with their parent.
_INPUTS = (
    "SELECT e.sequence FROM events e JOIN runs r ON r.tenant = e.tenant AND r.run_id = e.run_id"
    " WHERE e.tenant = ? AND e.conversation_id = ? AND e.sequence >= ? AND e.sequence <= ?"
    " AND e.kind = 'message' AND e.turn = 0 AND r.parent_run_id = '' ORDER BY e.sequence"
)
_TOTALS = (
    "SELECT coalesce(sum(length(data)), 0), coalesce(sum(CASE WHEN kind = 'message' THEN 1 ELSE 0"
    " END), 0) FROM events WHERE tenant = ? AND conversation_id = ?"
    " AND sequence >= ? AND sequence <= ?"
)


def fork(session: Session, unit: Unit, wanted: Fork) -> Plan[ConversationView]:
    """Writes the fork. The source is locked: nothing of it is removed meanwhile."""
    yield from first(LOCK, wanted.tenant, wanted.source_id)
    source = yield from reads.conversation(wanted.tenant, wanted.source_id)
    sequence = require_place(source.conversation, wanted.at_sequence)
    parts = yield from shared_parts(wanted.tenant, wanted.source_id)
    shared = shared_by_fork(source.conversation, parts, sequence)
    point = yield from _point(wanted.tenant, source, sequence, shared)
    item = Item(ForkConversation(wanted, source, point))
    yield from unit.carry_out(session, [item])
    if not isinstance(item.result, ConversationView):
        raise item.rejection or AssertionError("a fork is never refused")
    return item.result


def _point(
    tenant: str, source: ConversationView, sequence: int, shared: Sequence[SharedHistory]
) -> Plan[ForkPoint]:
    stands = yield from newest_milestone(tenant, shared, sequence)
    messages: list[str] = []
    unread: list[tuple[str, int]] = []
    for part in after(shared, stands.sequence if stands else 0):
        messages += [row[0] for row in (yield from fetch(_SAID_BY_WORKERS, *_range(tenant, part)))]
    for part in after(shared, stands.inbox_read if stands else 0):
        rows = yield from fetch(_INPUTS, *_range(tenant, part))
        unread += [(part.log_id, row[0]) for row in rows]
    conversation = source.conversation
    if sequence == conversation.head_sequence:
        size, count = conversation.size_bytes, conversation.message_count
    else:
        size, count = yield from totals(tenant, shared, stands)
    return ForkPoint(sequence, shared, stands, tuple(messages), unread, size, count)


def shared_parts(tenant: str, conversation_id: str) -> Plan[Sequence[SharedHistory]]:
    """Where the history of a fork lies, oldest first; nowhere else for any other conversation."""
    rows = yield from fetch(_PARTS, tenant, conversation_id)
    return [SHARED.value(row) for row in rows]


def newest_milestone(
    tenant: str, shared: Sequence[SharedHistory], sequence: int
) -> Plan[Milestone | None]:
    """The newest one at or before a sequence, in a history of several parts."""
    for part in reversed(shared):
        if part.first_sequence <= min(part.last_sequence, sequence):
            row = yield from first(_MILESTONE, *_range(tenant, part.up_to(sequence)))
            if row is not None:
                return MILESTONES.value(row)
    return None


def totals(
    tenant: str, shared: Sequence[SharedHistory], stands: Milestone | None
) -> Plan[tuple[int, int]]:
    """Bytes and messages of a history up to its end, counted from a milestone of it."""
    size = stands.before_bytes if stands else 0
    count = stands.before_messages if stands else 0
    for part in after(shared, stands.before_sequence if stands else 0):
        ((more_bytes, more_messages),) = yield from fetch(_TOTALS, *_range(tenant, part))
        size += int(more_bytes)
        count += int(more_messages)
    return size, count


def after(shared: Sequence[SharedHistory], sequence: int) -> list[SharedHistory]:
    """The parts of a history that come after a sequence."""
    parts = [
        replace(part, first_sequence=max(part.first_sequence, sequence + 1)) for part in shared
    ]
    return [part for part in parts if part.first_sequence <= part.last_sequence]


def _range(tenant: str, part: SharedHistory) -> tuple[str, str, int, int]:
    return tenant, part.log_id, part.first_sequence, part.last_sequence
