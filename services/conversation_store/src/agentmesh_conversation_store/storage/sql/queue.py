"""Who works on what: granting, renewing and expiring leases."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Instant,
    Micros,
    RaisedFence,
    Run,
    RunStatus,
    Step,
    WorkspaceState,
)
from agentmesh_conversation_store.domain.runs import granted
from agentmesh_conversation_store.storage.interface import (
    Committed,
    Due,
    GrantedTurn,
    LostLease,
    Renewal,
)

from . import approvals, checkpoints, requests, transfer
from .plan import Alone, Plan, Row, Session, each, fetch, fetch_each, first, now
from .reads import event_of
from .tables import FENCES, RUNS, STEPS
from .tenants import JOINED, LIMITS, limits_of, room_of

FENCES_KEPT = 3600 * SECOND
STREAMS_KEPT = 30 * 86400 * SECOND
"""Those of replicas that died are never ended; nothing but their rows is left of them by then."""
_HELD = (RunStatus.LEASED, RunStatus.RUNNABLE)

Key = tuple[str, str]

# Jumps from tenant to tenant in the index instead of reading every runnable run. What limits a
# tenant is read in the same statement as what it has under way: a commit changes both at once.
_WAITING = f"""
WITH RECURSIVE waiting(tenant) AS (
    SELECT min(tenant) FROM runs WHERE status = 1
    UNION ALL
    SELECT (SELECT min(tenant) FROM runs WHERE status = 1 AND tenant > waiting.tenant)
    FROM waiting WHERE waiting.tenant IS NOT NULL
)
SELECT t.tenant, {LIMITS} FROM waiting t{JOINED} WHERE t.tenant IS NOT NULL
"""
_CANDIDATES = (
    "SELECT tenant, run_id, runnable_at FROM runs"
    " WHERE status = 1 AND tenant = ? AND runnable_at <= ?"
    " ORDER BY priority DESC, runnable_at, run_id LIMIT ?"
)
_TAKE = (
    f"SELECT {RUNS.select} FROM runs"
    " WHERE tenant = ? AND run_id = ? AND status = 1 FOR UPDATE SKIP LOCKED"
)
_LEASE = (
    "UPDATE runs SET status = 2, fence = ?, attempt = ?, lease_worker = ?, lease_until = ?,"
    " runnable_at = NULL, detail = '' WHERE tenant = ? AND run_id = ?"
)
_KEY = "SELECT tenant, run_id FROM runs WHERE run_id = ?"
_LOCK = f"SELECT {RUNS.select} FROM runs WHERE tenant = ? AND run_id = ? FOR UPDATE"
_UNREAD = (
    "SELECT i.run_id, e.sequence, e.kind, e.run_id, e.agent, e.message_id, e.turn, e.data"
    " FROM inputs i JOIN events e ON e.tenant = i.tenant"
    " AND e.conversation_id = i.conversation_id AND e.sequence = i.sequence"
    " WHERE i.tenant = ? AND i.run_id = ? AND i.sequence > ? ORDER BY i.sequence"
)
_STARTED = (
    f"SELECT {RUNS.select} FROM runs WHERE tenant = ? AND conversation_id = ?"
    " AND parent_run_id = ? AND asked_in_turn = ? ORDER BY started_at, run_id"
)
_OPEN_STREAM = (
    "INSERT INTO lease_streams (worker_id, stream_id, opened_at) VALUES (?, ?, ?)"
    " ON CONFLICT (worker_id) DO UPDATE SET stream_id = excluded.stream_id,"
    " opened_at = excluded.opened_at"
)
_END_STREAM = "DELETE FROM lease_streams WHERE worker_id = ? AND stream_id = ? RETURNING worker_id"
_MANY_TENANTS = 256
_LEAST_LINE = 4


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
    yield from each(
        _LEASE,
        [(r.fence, r.attempt, r.lease_worker, r.lease_until, r.tenant, r.run_id) for r in leased],
    )
    session.committed += [
        Committed(run.tenant, run.conversation_id, None, (run,)) for run in leased
    ]
    return leased


def _chosen(at: Instant, places: int) -> Plan[Sequence[Key]]:
    """Runs as (tenant, id). The tenant with the least work under way comes next, each time."""
    if places <= 0:
        return ()
    limits = [limits_of(row) for row in (yield from fetch(_WAITING))]
    room = {one.policy.tenant: one.room(at) for one in limits}
    able = [one for one in limits if room[one.policy.tenant] != 0]
    # Of very many tenants, some of those with the least work: others have their turn later.
    able.sort(key=lambda one: (one.at_work, random.random()))  # noqa: S311 - a fair draw
    able = able[: max(_MANY_TENANTS, places)]
    line = _Line({one.policy.tenant: one.at_work for one in able}, room)
    share = max(_LEAST_LINE, 2 * places // max(1, len(able)))
    yield from line.fill(line.at_work, at, share)
    chosen = line.draw(places)
    if len(chosen) < places and share < places:
        # Few tenants have much to do: they get the places that the others did not need.
        yield from line.fill(line.cut_off(share), at, places)
        chosen += line.draw(places - len(chosen))
    return chosen


class _Line:
    """Tenants in the order of the work they have under way, each with its next runs."""

    def __init__(self, at_work: dict[str, int], room: Mapping[str, int | None]) -> None:
        self.at_work = at_work
        self._room = dict(room)
        self._waiting: dict[str, deque[Row]] = {}
        self._length: dict[str, int] = {}
        self._taken: set[Key] = set()

    def fill(self, tenants: Iterable[str], at: Instant, length: int) -> Plan[None]:
        """Reads the next runs of tenants, at most `length` of each."""
        wanted = {
            tenant: length if (room := self._room[tenant]) is None else min(length, room)
            for tenant in tenants
            if self._room[tenant] != 0
        }
        for tenant in wanted:
            self._waiting[tenant] = deque()
        rows = yield from fetch_each(
            _CANDIDATES, [(tenant, at, limit) for tenant, limit in sorted(wanted.items())]
        )
        for row in rows:
            self._waiting[row[0]].append(row)
        for tenant in wanted:
            self._length[tenant] = len(self._waiting[tenant])

    def cut_off(self, length: int) -> list[str]:
        """Tenants that had that many runs, and so may have more."""
        return [tenant for tenant, count in self._length.items() if count == length]

    def draw(self, places: int) -> list[Key]:
        """The next runs. Each counts as work of its tenant from then on."""
        heads = [self._head(tenant) for tenant, runs in self._waiting.items() if runs]
        heapq.heapify(heads)
        drawn: list[Key] = []
        while heads and len(drawn) < places:
            *_, tenant = heapq.heappop(heads)
            key = (tenant, self._waiting[tenant].popleft()[1])
            if key not in self._taken:
                self._taken.add(key)
                drawn.append(key)
                self.at_work[tenant] += 1
                self._count(tenant)
            if self._waiting[tenant]:
                heapq.heappush(heads, self._head(tenant))
        return drawn

    def _count(self, tenant: str) -> None:
        left = self._room[tenant]
        if left is not None:
            self._room[tenant] = left - 1
            if left == 1:
                self._waiting[tenant].clear()

    def _head(self, tenant: str) -> tuple[int, Instant, str]:
        return self.at_work[tenant], self._waiting[tenant][0][2] or 0, tenant


def renew(worker_id: str, held: Sequence[tuple[str, int]], lease: Micros) -> Plan[Renewal]:
    """Prolongs leases whose fence is current, also those that ran out and nobody took."""
    # Locked in the order of all others: by tenant, then by run.
    keys = yield from fetch_each(_KEY, [(run_id,) for run_id, _ in held])
    rows = yield from fetch_each(_LOCK, sorted(map(tuple, keys)))
    at = yield from now()
    runs = {run.run_id: run for run in map(RUNS.value, rows)}
    kept, lost = [], []
    for run_id, fence in held:
        run = runs.get(run_id)
        if run is None:
            lost.append(LostLease(run_id, fence + 1, "unknown"))
        elif run.lease_worker == worker_id and run.fence == fence and run.status in _HELD:
            kept.append(run)
        elif run.fence > fence and run.lease_worker != worker_id:
            lost.append(LostLease(run_id, run.fence, "expired"))
    full = yield from _without_room([run for run in kept if run.status is not RunStatus.LEASED], at)
    lost += [LostLease(run.run_id, run.fence + 1, "expired") for run in full]
    kept = [run for run in kept if run not in full]
    yield from each(
        "UPDATE runs SET lease_until = ?, status = 2, runnable_at = NULL WHERE run_id = ?",
        [(at + lease, run.run_id) for run in kept],
    )
    return Renewal(at + lease, [(run.run_id, run.fence) for run in kept], lost)


def _without_room(runs: Sequence[Run], at: Instant) -> Plan[Sequence[Run]]:
    """Which of these runs must not be leased again: others have taken their tenants' places."""
    if not runs:
        return ()
    yield Alone("grant")
    room = yield from room_of({run.tenant for run in runs}, at)
    full = []
    for run in runs:
        left = room.get(run.tenant)
        if left is not None and left <= 0:
            full.append(run)
        elif left is not None:
            room[run.tenant] = left - 1
    return full


def open_stream(worker_id: str, stream_id: str) -> Plan[None]:
    """Remembers the stream on which a worker is heard."""
    at = yield from now()
    yield from each(_OPEN_STREAM, [(worker_id, stream_id, at)])


def end_stream(worker_id: str, stream_id: str, keep: Micros) -> Plan[None]:
    """Lets the leases of a worker end soon, if this is still the stream on which it is heard."""
    if (yield from first(_END_STREAM, worker_id, stream_id)) is None:
        return
    at = yield from now()
    held = yield from fetch(
        "SELECT run_id FROM runs WHERE status = 2 AND lease_worker = ?"
        " ORDER BY tenant, run_id FOR UPDATE",
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
    places = [f"runs WHERE {condition}" for condition in conditions]
    places.append("approvals WHERE status = 1 AND expires_at <= ?")
    places.append("approvals WHERE status = 1 AND escalate_at IS NOT NULL AND escalate_at <= ?")
    found: dict[str, Due] = {}
    for place in places:
        rows = yield from fetch(
            f"SELECT tenant, conversation_id, run_id FROM {place} LIMIT ?", at, limit
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


def prune() -> Plan[bool]:
    """Forgets requests, raised fences and broken imports that are old enough, some at a time; true
    if there is more to forget."""
    at = yield from now()
    more = yield from requests.prune(at)
    yield from transfer.give_up_stale(at)
    yield from each("DELETE FROM raised_fences WHERE raised_at <= ?", [(at - FENCES_KEPT,)])
    yield from each("DELETE FROM lease_streams WHERE opened_at <= ?", [(at - STREAMS_KEPT,)])
    return more


def granted_turns(runs: Sequence[Run], most_chain_bytes: int) -> Plan[Sequence[GrantedTurn]]:
    """What the workers of freshly leased runs need. Runs that are gone by now are left out."""
    definitions = yield from fetch_each(
        "SELECT tenant, digest, data FROM definitions WHERE tenant = ? AND digest = ?",
        sorted({(run.tenant, run.definition_digest) for run in runs}),
    )
    chains = yield from checkpoints.chains(runs, most_chain_bytes)
    steps = yield from fetch_each(
        f"SELECT {STEPS.select} FROM steps WHERE tenant = ? AND run_id = ? AND turn = ?"
        " ORDER BY first_sequence, step_key",
        [(run.tenant, run.run_id, run.turn + 1) for run in runs],
    )
    # Of all runs: what came since the lease is not in their rows, and may be before the head below.
    inputs = yield from fetch_each(
        _UNREAD, [(run.tenant, run.run_id, run.inbox_read) for run in runs]
    )
    asked = yield from approvals.of_turns(runs)
    started = yield from _started(runs)
    counts = yield from fetch_each(
        "SELECT tenant, conversation_id, head_sequence, message_count, workspace_generation,"
        " workspace_manifest, runner_address FROM conversations"
        " WHERE tenant = ? AND conversation_id = ?",
        sorted({(run.tenant, run.conversation_id) for run in runs}),
    )
    data_of = {(tenant, digest): data for tenant, digest, data in definitions}
    counts_of = {(row[0], row[1]): (row[2], row[3]) for row in counts}
    files_of = {(row[0], row[1]): (WorkspaceState(row[4], row[5]), row[6]) for row in counts}
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
            chains.get(run.run_id, ()),
            steps_of[run.run_id],
            inputs_of[run.run_id],
            *counts_of[run.tenant, run.conversation_id],
            approvals=asked.get(run.run_id, ()),
            children=started.get(run.run_id, ()),
            workspace=files_of[run.tenant, run.conversation_id][0],
            runner_address=files_of[run.tenant, run.conversation_id][1],
        )
        for run in runs
        if (run.tenant, run.conversation_id) in counts_of
    ]


def _started(runs: Sequence[Run]) -> Plan[Mapping[str, Sequence[Run]]]:
    """The runs that the turns under way were suspended for, by the run that started them."""
    parents = [
        (run.tenant, run.conversation_id, run.run_id, run.turn + 1)
        for run in runs
        if run.suspension
    ]
    found: dict[str, list[Run]] = defaultdict(list)
    for child in map(RUNS.value, (yield from fetch_each(_STARTED, parents))):
        found[child.parent_run_id].append(child)
    return found
