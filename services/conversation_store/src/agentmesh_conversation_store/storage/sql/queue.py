"""Who works on what: granting, renewing and expiring leases."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Sequence

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Instant,
    Micros,
    RaisedFence,
    Run,
    RunStatus,
    Step,
)
from agentmesh_conversation_store.domain.runs import granted
from agentmesh_conversation_store.storage.interface import (
    Committed,
    Due,
    GrantedTurn,
    LostLease,
    Renewal,
)

from . import requests
from .plan import Alone, Plan, Row, Session, each, fetch, fetch_each, now
from .reads import event_of
from .tables import CHECKPOINTS, FENCES, RUNS, STEPS

FENCES_KEPT = 3600 * SECOND
_HELD = (RunStatus.LEASED, RunStatus.RUNNABLE)

# Jumps from tenant to tenant in the index instead of reading every runnable run.
_TENANTS = """
WITH RECURSIVE waiting(tenant) AS (
    SELECT min(tenant) FROM runs WHERE status = 1
    UNION ALL
    SELECT (SELECT min(tenant) FROM runs WHERE status = 1 AND tenant > waiting.tenant)
    FROM waiting WHERE waiting.tenant IS NOT NULL
)
SELECT tenant FROM waiting WHERE tenant IS NOT NULL
"""
_AT_WORK = "SELECT tenant, count(*) FROM runs WHERE status = 2 GROUP BY tenant"
_CANDIDATES = (
    "SELECT tenant, run_id, runnable_at FROM runs"
    " WHERE status = 1 AND tenant = ? AND runnable_at <= ?"
    " ORDER BY priority DESC, runnable_at, run_id LIMIT ?"
)
_TAKE = (
    f"SELECT {RUNS.select} FROM runs"
    " WHERE tenant = ? AND run_id = ? AND status = 1 FOR UPDATE SKIP LOCKED"
)
_BY_ID = f"SELECT {RUNS.select} FROM runs WHERE run_id = ? FOR UPDATE"
_UNREAD = (
    "SELECT i.run_id, e.sequence, e.kind, e.run_id, e.agent, e.message_id, e.turn, e.data"
    " FROM inputs i JOIN events e ON e.tenant = i.tenant"
    " AND e.conversation_id = i.conversation_id AND e.sequence = i.sequence"
    " WHERE i.tenant = ? AND i.run_id = ? AND i.sequence > ? ORDER BY i.sequence"
)
_LINE_LENGTH = 1000


def grant(session: Session, demand: dict[str, int], lease: Micros) -> Plan[Sequence[Run]]:
    """Leases the next runs to workers with free places.

    One replica at a time chooses, so that fairness and limits hold for all of them together.
    """
    yield Alone("grant")
    free = [(-places, worker_id) for worker_id, places in sorted(demand.items()) if places > 0]
    heapq.heapify(free)
    at = yield from now()
    chosen = yield from _chosen(at, sum(demand.values()))
    rows = yield from fetch_each(_TAKE, chosen)
    leased = []
    for run in map(RUNS.value, rows):
        places, worker_id = heapq.heappop(free)
        leased.append(granted(run, worker_id, lease, at))
        if places + 1 < 0:
            heapq.heappush(free, (places + 1, worker_id))
    yield from each(RUNS.put, [RUNS.row(run) for run in leased])
    session.committed += [
        Committed(run.tenant, run.conversation_id, None, (run,)) for run in leased
    ]
    return leased


def _chosen(at: Instant, places: int) -> Plan[Sequence[tuple[str, str]]]:
    """Runs as (tenant, id). The tenant with the least work under way comes next, each time."""
    if places <= 0:
        return ()
    at_work = {row[0]: row[1] for row in (yield from fetch(_AT_WORK))}
    tenants = yield from fetch(_TENANTS)
    rows = yield from fetch_each(
        _CANDIDATES, [(tenant, at, min(places, _LINE_LENGTH)) for (tenant,) in tenants]
    )
    waiting: dict[str, deque[Row]] = defaultdict(deque)
    for row in rows:
        waiting[row[0]].append(row)
    line = [(at_work.get(tenant, 0), runs[0][2] or 0, tenant) for tenant, runs in waiting.items()]
    heapq.heapify(line)
    chosen: list[tuple[str, str]] = []
    while line and len(chosen) < places:
        busy, _, tenant = heapq.heappop(line)
        chosen.append((tenant, waiting[tenant].popleft()[1]))
        if waiting[tenant]:
            heapq.heappush(line, (busy + 1, waiting[tenant][0][2] or 0, tenant))
    return chosen


def renew(worker_id: str, held: Sequence[tuple[str, int]], lease: Micros) -> Plan[Renewal]:
    """Prolongs leases whose fence is current, also those that ran out and nobody took."""
    rows = yield from fetch_each(_BY_ID, [(run_id,) for run_id, _ in sorted(held)])
    until = (yield from now()) + lease
    runs = {run.run_id: run for run in map(RUNS.value, rows)}
    kept, lost = [], []
    for run_id, fence in held:
        run = runs.get(run_id)
        if run is None:
            lost.append(LostLease(run_id, fence + 1, "unknown"))
        elif run.lease_worker == worker_id and run.fence == fence and run.status in _HELD:
            kept.append((run_id, fence))
        elif run.fence > fence and run.lease_worker != worker_id:
            lost.append(LostLease(run_id, run.fence, "expired"))
    yield from each(
        "UPDATE runs SET lease_until = ?, status = 2, runnable_at = NULL WHERE run_id = ?",
        [(until, run_id) for run_id, _ in kept],
    )
    return Renewal(until, kept, lost)


def shorten(worker_id: str, keep: Micros) -> Plan[None]:
    """Lets the leases of a worker end soon."""
    at = yield from now()
    held = yield from fetch(
        "SELECT run_id FROM runs WHERE status = 2 AND lease_worker = ? ORDER BY run_id FOR UPDATE",
        worker_id,
    )
    yield from each(
        "UPDATE runs SET lease_until = LEAST(lease_until, ?) WHERE run_id = ?",
        [(at + keep, run_id) for (run_id,) in held],
    )


def due(*, expired: bool, limit: int) -> Plan[Sequence[Due]]:
    """Runs that time has something to do to."""
    at = yield from now()
    conditions = [
        "status = 3 AND wake_at IS NOT NULL AND wake_at <= ?",
        "status < 5 AND deadline IS NOT NULL AND deadline <= ?",
    ]
    if expired:
        conditions.append("status = 2 AND lease_until <= ?")
    found: dict[str, Due] = {}
    for condition in conditions:
        rows = yield from fetch(
            f"SELECT tenant, conversation_id, run_id FROM runs WHERE {condition} LIMIT ?",
            at,
            limit,
        )
        for row in rows:
            found.setdefault(row[2], Due(*row))
    return list(found.values())


def raised_fences(since: Instant) -> Plan[Sequence[RaisedFence]]:
    """Fences raised since then, oldest first."""
    rows = yield from fetch(
        f"SELECT {FENCES.select} FROM raised_fences WHERE raised_at >= ? ORDER BY raised_at",
        since,
    )
    return [FENCES.value(row) for row in rows]


def prune() -> Plan[None]:
    """Forgets requests and raised fences that are old enough, some at a time."""
    at = yield from now()
    yield from requests.prune(at)
    yield from each("DELETE FROM raised_fences WHERE raised_at <= ?", [(at - FENCES_KEPT,)])


def granted_turns(runs: Sequence[Run]) -> Plan[Sequence[GrantedTurn]]:
    """What the workers of freshly leased runs need. Runs that are gone by now are left out."""
    definitions = yield from fetch_each(
        "SELECT tenant, digest, data FROM definitions WHERE tenant = ? AND digest = ?",
        sorted({(run.tenant, run.definition_digest) for run in runs}),
    )
    checkpoints = yield from fetch_each(
        CHECKPOINTS.get, [(run.tenant, run.checkpoint_id) for run in runs if run.checkpoint_id]
    )
    steps = yield from fetch_each(
        f"SELECT {STEPS.select} FROM steps WHERE tenant = ? AND run_id = ? AND turn = ?"
        " ORDER BY first_sequence, step_key",
        [(run.tenant, run.run_id, run.turn + 1) for run in runs],
    )
    inputs = yield from fetch_each(
        _UNREAD, [(run.tenant, run.run_id, run.inbox_read) for run in runs if run.has_unread]
    )
    counts = yield from fetch_each(
        "SELECT tenant, conversation_id, head_sequence, message_count FROM conversations"
        " WHERE tenant = ? AND conversation_id = ?",
        sorted({(run.tenant, run.conversation_id) for run in runs}),
    )
    data_of = {(tenant, digest): data for tenant, digest, data in definitions}
    checkpoint_of = {row[1]: CHECKPOINTS.value(row[2:]) for row in checkpoints}
    counts_of = {(row[0], row[1]): (row[2], row[3]) for row in counts}
    steps_of: dict[str, list[Step]] = defaultdict(list)
    for step in map(STEPS.value, steps):
        steps_of[step.run_id].append(step)
    inputs_of: dict[str, list[StoredEvent]] = defaultdict(list)
    for row in inputs:
        inputs_of[row[0]].append(event_of(row[1:]))
    return [
        GrantedTurn(
            run,
            data_of[run.tenant, run.definition_digest],
            checkpoint_of.get(run.checkpoint_id),
            steps_of[run.run_id],
            inputs_of[run.run_id],
            *counts_of[run.tenant, run.conversation_id],
        )
        for run in runs
        if (run.tenant, run.conversation_id) in counts_of
    ]
