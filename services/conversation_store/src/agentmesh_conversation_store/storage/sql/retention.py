"""Retention: which histories are too long or too old, and where they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentmesh_conversation_store.domain.forks import shared_by_fork
from agentmesh_conversation_store.domain.history import (
    CutHistory,
    Milestone,
    Retention,
    SharedHistory,
    floor,
)
from agentmesh_conversation_store.domain.model import ConversationView, Instant
from agentmesh_conversation_store.storage.history import Outdated

from . import reads
from .forks import LOCK, newest_milestone, shared_parts, totals
from .plan import Plan, Session, each, fetch, first, now
from .tables import RUNS
from .tenants import policy
from .unit import Item, Unit

_TENANTS = (
    "SELECT tenant FROM tenant_policies"
    " WHERE retention_age IS NOT NULL OR retention_events IS NOT NULL"
    " UNION SELECT tenant FROM conversation_facts"
    " WHERE retention_age IS NOT NULL OR retention_events IS NOT NULL ORDER BY tenant"
)
# A conversation without a limit has a cutoff before all time, and may have events without number.
_OUTDATED = """
WITH kept AS (
    SELECT c.conversation_id, c.status, c.last_event_at, c.oldest_sequence, f.forked_at,
        c.head_sequence - c.oldest_sequence + 1 AS length,
        coalesce(CAST(? AS BIGINT) - coalesce(f.retention_age, CAST(? AS BIGINT)), 0) AS cutoff,
        coalesce(f.retention_events, CAST(? AS BIGINT), 9223372036854775807) AS most
    FROM conversations c JOIN conversation_facts f
    ON f.tenant = c.tenant AND f.conversation_id = c.conversation_id
    WHERE c.tenant = ? AND c.conversation_id > ? AND f.legal_hold = 0
)
SELECT conversation_id, CASE WHEN status >= 4 AND last_event_at < cutoff THEN cutoff END
FROM kept
WHERE length > most
    OR (status >= 4 AND last_event_at < cutoff)
    OR (cutoff > 0 AND oldest_sequence <= forked_at)
    OR (SELECT m.committed_at FROM milestones m
        WHERE m.tenant = ? AND m.conversation_id = kept.conversation_id
        AND m.sequence > kept.oldest_sequence ORDER BY m.sequence LIMIT 1) < cutoff
ORDER BY conversation_id LIMIT ?
"""
_OLDER = (
    "SELECT sequence FROM milestones WHERE tenant = ? AND conversation_id = ?"
    " AND sequence >= ? AND sequence <= ? AND committed_at < ? ORDER BY sequence DESC LIMIT 1"
)
_LIVE = (
    f"SELECT {RUNS.select} FROM runs"  # noqa: S608 - names of our own
    " WHERE tenant = ? AND conversation_id = ? AND status < 5 ORDER BY run_id FOR UPDATE"
)
_UNREAD = "SELECT min(sequence) FROM inputs WHERE tenant = ? AND run_id = ? AND sequence > ?"
_WITHOUT_OLDEST = (
    "UPDATE shared_history SET first_sequence ="
    " CASE WHEN last_sequence < ? THEN last_sequence + 1 ELSE ? END"
    " WHERE tenant = ? AND conversation_id = ? AND first_sequence < ?"
    " AND first_sequence <= last_sequence"
)
_REMOVE = (
    "INSERT INTO removals (tenant, log_id, requested_at)"
    " SELECT DISTINCT tenant, log_id, CAST(? AS BIGINT) FROM shared_history"
    " WHERE tenant = ? AND conversation_id = ?"
    " ON CONFLICT (tenant, log_id) DO UPDATE SET position = 0"
)


def tenants() -> Plan[Sequence[str]]:
    """Tenants with a limit, of their own or of one of their conversations."""
    return [tenant for (tenant,) in (yield from fetch(_TENANTS))]


def outdated(tenant: str, after: str, limit: int) -> Plan[Sequence[Outdated]]:
    """Conversations to look at, by id."""
    at = yield from now()
    limits = yield from policy(tenant)
    rows = yield from fetch(
        _OUTDATED,
        at,
        limits.retention_age,
        limits.retention_events,
        tenant,
        after,
        tenant,
        limit,
    )
    return [Outdated(*row) for row in rows]


def cut(session: Session, unit: Unit, tenant: str, conversation_id: str) -> Plan[bool]:
    """Lets a log begin at a later milestone. What other logs keep for it alone may go as well."""
    if (yield from first(LOCK, tenant, conversation_id)) is None:
        return False
    view = yield from reads.conversation(tenant, conversation_id)
    if view.facts.legal_hold:
        return False
    at = yield from now()
    limits = yield from policy(tenant)
    kept = Retention(limits.retention_age, limits.retention_events).of(view.facts)
    conversation = view.conversation
    parts = yield from shared_parts(tenant, conversation_id)
    history = shared_by_fork(conversation, parts, conversation.head_sequence)
    place = yield from _place(view, history, kept, at)
    if place is None:
        return False
    removed_bytes, messages = yield from totals(tenant, _before(history, place), place)
    place = replace(
        place,
        before_sequence=place.sequence - 1,
        before_bytes=removed_bytes,
        before_messages=messages,
    )
    item = Item(CutHistory(tenant, conversation_id, place))
    yield from unit.carry_out(session, [item])
    if item.rejection is not None:
        raise item.rejection
    oldest = place.sequence
    yield from each(_WITHOUT_OLDEST, [(oldest, oldest, tenant, conversation_id, oldest)])
    yield from each(_REMOVE, [(at, tenant, conversation_id)])
    return True


def _before(history: Sequence[SharedHistory], place: Milestone) -> list[SharedHistory]:
    return [
        part.up_to(place.sequence - 1) for part in history if part.first_sequence < place.sequence
    ]


def _place(
    view: ConversationView, history: Sequence[SharedHistory], kept: Retention, at: Instant
) -> Plan[Milestone | None]:
    """Where to cut, if anywhere: at the newest milestone that retention wants and runs allow."""
    conversation = view.conversation
    tenant = conversation.tenant
    wanted = 0
    if kept.events is not None:
        wanted = conversation.head_sequence - kept.events + 1
    if kept.age is not None:
        for part in reversed(history):
            row = yield from first(
                _OLDER, tenant, part.log_id, part.first_sequence, part.last_sequence, at - kept.age
            )
            if row is not None:
                wanted = max(wanted, row[0])
                break
    if wanted <= conversation.oldest_sequence:
        return None
    needed = yield from _needed(view, history)
    place = yield from newest_milestone(tenant, history, min(wanted, needed))
    return place if place and place.sequence > conversation.oldest_sequence else None


def _needed(view: ConversationView, history: Sequence[SharedHistory]) -> Plan[int]:
    conversation, root = view.conversation, view.run
    tenant = conversation.tenant
    live = [
        RUNS.value(row) for row in (yield from fetch(_LIVE, tenant, conversation.conversation_id))
    ]
    newest = yield from newest_milestone(tenant, history, conversation.head_sequence)
    before_newest = None
    if newest is not None:
        before_newest = yield from newest_milestone(tenant, history, newest.sequence - 1)
    unread = []
    for run in [root, *(run for run in live if run.run_id != root.run_id)]:
        read = run.inbox_read
        if run is root and not root.status.ended:
            # Its newest turn may be replaced: then it has read what the one before had.
            read = min(read, before_newest.inbox_read if before_newest else 0)
        row = yield from first(_UNREAD, tenant, run.run_id, read)
        if row is not None and row[0] is not None:
            unread.append(int(row[0]))
    return floor(live, root, unread, newest.sequence if newest else 0)
