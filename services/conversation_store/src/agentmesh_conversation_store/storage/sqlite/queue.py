"""Who works on what: granting, renewing and expiring leases."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import heapq
import sqlite3
from collections import deque
from collections.abc import Sequence

from agentmesh_conversation_store.domain.model import (
    SECOND,
    Instant,
    Micros,
    RaisedFence,
    Run,
    RunStatus,
)
from agentmesh_conversation_store.domain.runs import granted
from agentmesh_conversation_store.storage.interface import (
    Committed,
    Due,
    GrantedTurn,
    LostLease,
    Renewal,
)
from agentmesh_conversation_store.storage.rows import CHECKPOINTS, FENCES, RUNS, STEPS

from .reads import EVENT_COLUMNS, event_of
from .unit import PUT_RUN
from .writer import Session

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
_CANDIDATES = (
    f"SELECT {RUNS.select} FROM runs WHERE status = 1 AND tenant = ? AND runnable_at <= ?"
    " ORDER BY priority DESC, runnable_at, run_id LIMIT ?"
)


def grant(session: Session, demand: dict[str, int], lease: Micros) -> list[Run]:
    """Leases the next runs to workers with free places."""
    free = [(-places, worker_id) for worker_id, places in sorted(demand.items()) if places > 0]
    heapq.heapify(free)
    leased = []
    for run in _chosen(session, sum(places for places in demand.values())):
        places, worker_id = heapq.heappop(free)
        held = granted(run, worker_id, lease, session.now)
        session.connection.execute(PUT_RUN, RUNS.row(held))
        leased.append(held)
        if places + 1 < 0:
            heapq.heappush(free, (places + 1, worker_id))
    if leased:
        session.committed.extend(
            Committed(run.tenant, run.conversation_id, None, (run,)) for run in leased
        )
    return leased


def _chosen(session: Session, places: int) -> list[Run]:
    """The tenant with the least work under way comes next, each time."""
    db = session.connection
    at_work = dict(db.execute("SELECT tenant, count(*) FROM runs WHERE status = 2 GROUP BY tenant"))
    waiting: dict[str, deque[Run]] = {}
    line: list[tuple[int, Instant, str]] = []
    for (tenant,) in db.execute(_TENANTS).fetchall():
        rows = db.execute(_CANDIDATES, (tenant, session.now, places)).fetchall()
        if rows:
            waiting[tenant] = deque(map(RUNS.value, rows))
            first = waiting[tenant][0].runnable_at or 0
            heapq.heappush(line, (at_work.get(tenant, 0), first, tenant))
    chosen: list[Run] = []
    while line and len(chosen) < places:
        busy, _, tenant = heapq.heappop(line)
        chosen.append(waiting[tenant].popleft())
        if waiting[tenant]:
            following = waiting[tenant][0].runnable_at or 0
            heapq.heappush(line, (busy + 1, following, tenant))
    return chosen


def renew(
    session: Session, worker_id: str, held: Sequence[tuple[str, int]], lease: Micros
) -> Renewal:
    """Prolongs leases whose fence is current, also those that ran out and nobody took."""
    until = session.now + lease
    kept, lost = [], []
    for run_id, fence in held:
        row = session.connection.execute(
            f"SELECT {RUNS.select} FROM runs WHERE run_id = ?",
            (run_id,),
        ).fetchone()
        run = RUNS.value(row) if row else None
        if run is None:
            lost.append(LostLease(run_id, fence + 1, "unknown"))
        elif run.lease_worker == worker_id and run.fence == fence and run.status in _HELD:
            kept.append((run_id, fence))
            session.connection.execute(
                "UPDATE runs SET lease_until = ?, status = 2, runnable_at = NULL WHERE run_id = ?",
                (until, run_id),
            )
        elif run.fence > fence and run.lease_worker != worker_id:
            lost.append(LostLease(run_id, run.fence, "expired"))
    return Renewal(until, kept, lost)


def shorten(session: Session, worker_id: str, keep: Micros) -> None:
    """Lets the leases of a worker end soon."""
    session.connection.execute(
        "UPDATE runs SET lease_until = min(lease_until, ?) WHERE status = 2 AND lease_worker = ?",
        (session.now + keep, worker_id),
    )


def due(db: sqlite3.Connection, now: Instant, *, expired: bool, limit: int) -> list[Due]:
    """Runs that time has something to do to."""
    found: dict[str, Due] = {}
    conditions = [
        "status = 3 AND wake_at IS NOT NULL AND wake_at <= ?",
        "status < 5 AND deadline IS NOT NULL AND deadline <= ?",
    ]
    if expired:
        conditions.append("status = 2 AND lease_until <= ?")
    for condition in conditions:
        rows = db.execute(
            f"SELECT tenant, conversation_id, run_id FROM runs WHERE {condition} LIMIT ?",
            (now, limit),
        )
        for row in rows:
            found.setdefault(row[2], Due(*row))
    return list(found.values())


def raised_fences(db: sqlite3.Connection, since: Instant) -> list[RaisedFence]:
    """Fences raised since then, oldest first."""
    rows = db.execute(
        f"SELECT {FENCES.select} FROM raised_fences WHERE raised_at >= ? ORDER BY raised_at",
        (since,),
    )
    return [FENCES.value(row) for row in rows]


def prune(session: Session) -> None:
    """Forgets requests and raised fences that are old enough, some at a time."""
    session.connection.execute(
        "DELETE FROM requests WHERE rowid IN"
        " (SELECT rowid FROM requests WHERE expires_at <= ? LIMIT 1000)",
        (session.now,),
    )
    session.connection.execute(
        "DELETE FROM raised_fences WHERE raised_at <= ?", (session.now - FENCES_KEPT,)
    )


def granted_turn(db: sqlite3.Connection, run: Run) -> GrantedTurn:
    """What the worker of a freshly leased run needs."""
    tenant, turn = run.tenant, run.turn + 1
    (definition,) = db.execute(
        "SELECT data FROM definitions WHERE tenant = ? AND digest = ?",
        (tenant, run.definition_digest),
    ).fetchone()
    checkpoint = db.execute(
        f"SELECT {CHECKPOINTS.select} FROM checkpoints WHERE tenant = ? AND checkpoint_id = ?",
        (tenant, run.checkpoint_id),
    ).fetchone()
    steps = db.execute(
        f"SELECT {STEPS.select} FROM steps WHERE tenant = ? AND run_id = ? AND turn = ?"
        " ORDER BY rowid",
        (tenant, run.run_id, turn),
    ).fetchall()
    inputs = db.execute(
        f"SELECT {EVENT_COLUMNS} FROM events"
        " WHERE tenant = ? AND conversation_id = ? AND sequence IN"
        " (SELECT sequence FROM inputs WHERE tenant = ? AND run_id = ? AND sequence > ?)"
        " ORDER BY sequence",
        (tenant, run.conversation_id, tenant, run.run_id, run.inbox_read),
    ).fetchall()
    head, message_count = db.execute(
        "SELECT head_sequence, message_count FROM conversations"
        " WHERE tenant = ? AND conversation_id = ?",
        (tenant, run.conversation_id),
    ).fetchone()
    return GrantedTurn(
        run=run,
        definition=definition,
        checkpoint=CHECKPOINTS.value(checkpoint) if checkpoint else None,
        steps=[STEPS.value(row) for row in steps],
        inputs=[event_of(row) for row in inputs],
        head_sequence=head,
        message_count=message_count,
    )
