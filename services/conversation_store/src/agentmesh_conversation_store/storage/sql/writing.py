"""Writes what many operations changed, a statement for each kind of row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentmesh_conversation_store.domain.changes import Changes, Scope
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import Conversation

from . import usage
from .blobs import FORGET_MANIFEST
from .plan import Plan, Row, each, fetch_each
from .tables import CHECKPOINTS, COMMITTED, CONVERSATIONS, FACTS, FENCES, RUNS, STEPS, TABLES

_ADD_DEFINITION = (
    "INSERT INTO definitions (tenant, digest, data) VALUES (?, ?, ?)"
    " ON CONFLICT (tenant, digest) DO NOTHING"
)
_ADD_AGENT = (
    "INSERT INTO conversation_agents (tenant, conversation_id, agent) VALUES (?, ?, ?)"
    " ON CONFLICT (tenant, conversation_id, agent) DO NOTHING"
)
ADD_EVENT = (
    "INSERT INTO events (tenant, conversation_id, sequence, kind, run_id, agent, message_id, turn,"
    " data, feed_position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADD_INPUT = "INSERT INTO inputs (tenant, run_id, sequence, conversation_id) VALUES (?, ?, ?, ?)"
_MOVE_INPUTS = (
    "INSERT INTO inputs (tenant, run_id, sequence, conversation_id)"
    " SELECT tenant, CAST(? AS TEXT), sequence, conversation_id FROM inputs"
    " WHERE tenant = ? AND run_id = ? AND sequence > ?"
)
_PRUNE_STEPS = "DELETE FROM steps WHERE tenant = ? AND run_id = ? AND turn < ?"
ADVANCE_FEED = (
    "INSERT INTO tenant_feeds (tenant, position) VALUES (?, ?)"
    " ON CONFLICT (tenant) DO UPDATE SET position = tenant_feeds.position + excluded.position"
    " RETURNING tenant, position"
)


@dataclass(frozen=True, slots=True)
class Written:
    """What one operation leaves behind."""

    scope: Scope
    changes: Changes
    conversation: Conversation | None
    events: Sequence[StoredEvent]


def write_definitions(changes: Sequence[tuple[str, Changes]]) -> Plan[None]:
    """Writes those of changes given with their tenants. Several operations may bring the same."""
    rows = {(tenant, *one) for tenant, change in changes for one in change.definitions}
    yield from each(_ADD_DEFINITION, sorted(rows))


def write(written: Sequence[Written]) -> Plan[None]:
    """Writes all of it but definitions and events."""
    rows = _rows(written)
    for sql, arguments in rows.items():
        yield from each(sql, arguments)


def _rows(written: Sequence[Written]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = defaultdict(list)
    for one in written:
        tenant, conversation_id = one.scope.tenant, one.scope.conversation_id
        changes = one.changes
        if one.conversation is not None:
            rows[CONVERSATIONS.put].append(CONVERSATIONS.row(one.conversation))
        if changes.facts is not None:
            rows[FACTS.put].append((tenant, conversation_id, *FACTS.row(changes.facts)))
            rows[_ADD_AGENT] += [(tenant, conversation_id, a) for a in changes.facts.agents]
        rows[RUNS.put] += [RUNS.row(run) for run in changes.runs]
        rows[STEPS.put] += [(tenant, *STEPS.row(step)) for step in changes.steps]
        rows[COMMITTED.put] += [(tenant, *COMMITTED.row(turn)) for turn in changes.committed]
        rows[usage.ADD] += usage.rows(tenant, changes.consumed)
        rows[FENCES.put] += [FENCES.row(fence) for fence in changes.fences]
        rows[_ADD_INPUT] += [(tenant, *given, conversation_id) for given in changes.inputs]
        rows[_MOVE_INPUTS] += [
            (target, tenant, source, after) for source, target, after in changes.moved_inputs
        ]
        _add_turn_state(rows, tenant, changes)
        _add_records(rows, tenant, conversation_id, changes)
    _forget_manifests(rows, written)
    return rows


def _add_turn_state(rows: dict[str, list[Row]], tenant: str, changes: Changes) -> None:
    if changes.checkpoint is not None:
        rows[CHECKPOINTS.put].append((tenant, *CHECKPOINTS.row(changes.checkpoint)))
    if changes.pruned_steps is not None:
        rows[_PRUNE_STEPS].append((tenant, *changes.pruned_steps))


def _add_records(
    rows: dict[str, list[Row]], tenant: str, conversation_id: str, changes: Changes
) -> None:
    prefixes = {"tenant": tenant, "conversation_id": conversation_id}
    for record in changes.records:
        table = TABLES[type(record)]
        extra = [prefixes[name] for name in table.extra]
        rows[table.put].append((*extra, *table.row(record)))
    for lookup in changes.removed:
        rows[TABLES[lookup.kind].remove].append((tenant, *lookup.key))


def _forget_manifests(rows: dict[str, list[Row]], written: Sequence[Written]) -> None:
    """After all else, for what the rows say then decides who still needs them."""
    rows[FORGET_MANIFEST] = [
        (one.scope.tenant, manifest)
        for one in written
        for manifest in sorted(set(one.changes.replaced_manifests))
    ]


def add_events(written: Sequence[Written]) -> Plan[None]:
    """Writes the events. The feed's row is the last lock: whoever commits first has the lower
    positions."""
    grown: Counter[str] = Counter()
    for one in written:
        grown[one.scope.tenant] += len(one.events)
    growth = sorted((tenant, count) for tenant, count in grown.items() if count)
    position: dict[str, int] = {}
    for tenant, end in (yield from fetch_each(ADVANCE_FEED, growth)):
        position[tenant] = end - grown[tenant]
    rows: list[tuple[Any, ...]] = []
    for one in written:
        tenant = one.scope.tenant
        for event in one.events:
            position[tenant] += 1
            rows.append(event_row(tenant, one.scope.conversation_id, event, position[tenant]))
    yield from each(ADD_EVENT, rows)


def event_row(
    tenant: str, conversation_id: str, event: StoredEvent, feed_position: int
) -> tuple[Any, ...]:
    """The arguments of ADD_EVENT."""
    return (
        tenant,
        conversation_id,
        event.sequence,
        event.kind,
        event.run_id,
        event.agent,
        event.message_id,
        event.turn,
        event.data,
        feed_position,
    )
