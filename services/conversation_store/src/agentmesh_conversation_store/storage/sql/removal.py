"""Removing what nobody can read any more: a step at a time, each a short transaction.

A row of `removals` names a log. What of it is needed is computed anew in each step, from the
conversations that read it: its own, unless that was deleted, and forks. So steps can be repeated,
and two replicas never do the same one, because a step holds the row.
"""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentmesh_conversation_store.domain.history import FOREVER, gaps
from agentmesh_conversation_store.storage.history import Removed

from .blobs import NAMED_BY_NOBODY
from .plan import Plan, Unhurried, each, fetch, fetch_each, first

MOST_BYTES = 1024 * 1024
_HEAVY = 10  # rows that are this many times heavier than others, about

_NEXT = (
    "SELECT tenant, log_id, position FROM removals ORDER BY requested_at, log_id LIMIT 1"
    " FOR UPDATE SKIP LOCKED"
)
_LOOKED_AT = "UPDATE removals SET position = ? WHERE tenant = ? AND log_id = ?"
_DONE = "DELETE FROM removals WHERE tenant = ? AND log_id = ?"
_OLDEST = (
    "SELECT oldest_sequence, root_run_id FROM conversations"
    " WHERE tenant = ? AND conversation_id = ?"
)
_SHARERS = (
    "SELECT first_sequence, last_sequence, checkpoint_id FROM shared_history"
    " WHERE tenant = ? AND log_id = ?"
)
_LET_GO = (
    "INSERT INTO removals (tenant, log_id, requested_at)"
    " SELECT s.tenant, s.log_id, r.requested_at FROM shared_history s"
    " JOIN removals r ON r.tenant = s.tenant AND r.log_id = s.conversation_id"
    " WHERE s.tenant = ? AND s.conversation_id = ?"
    " ON CONFLICT (tenant, log_id) DO UPDATE SET position = 0"
)
_UNSHARE = (
    "DELETE FROM shared_history WHERE tenant = ? AND conversation_id = ? RETURNING last_sequence"
)
_EVENTS = (
    "SELECT sequence, length(data) FROM events WHERE tenant = ? AND conversation_id = ?"
    " AND sequence BETWEEN ? AND ? ORDER BY sequence LIMIT ?"
)
_IN_RANGE = "WHERE tenant = ? AND conversation_id = ? AND sequence BETWEEN ? AND ?"
_BY_SEQUENCE = ("message_words", "milestones", "events")
_CHECKPOINTS = (
    "SELECT sequence, checkpoint_id, length(data) FROM checkpoints"
    " WHERE tenant = ? AND conversation_id = ? AND sequence BETWEEN ? AND ?"
    " ORDER BY sequence DESC LIMIT ?"
)
_FOLLOWERS = (
    "SELECT base_id, checkpoint_id FROM checkpoints"
    " WHERE tenant = ? AND base_id = ? AND base_id <> ''"
)
_FORGET_MANIFESTS = (
    "DELETE FROM workspace_blobs WHERE (tenant, manifest, digest) IN"
    " (SELECT tenant, manifest, digest FROM workspace_blobs"
    f" WHERE tenant = ? AND conversation_id = ? AND {NAMED_BY_NOBODY} LIMIT ?) RETURNING digest"
)
# The first two places of a range: if the turn of the first one was replaced, the second one stands
# at the state before it, which lies outside of the range.
_STANDING = (
    "SELECT checkpoint_id FROM milestones WHERE tenant = ? AND conversation_id = ?"
    " AND sequence >= ? ORDER BY sequence LIMIT 2"
)
_RUNS_STAND = (
    "SELECT checkpoint_id FROM runs WHERE tenant = ? AND conversation_id = ?"
    " AND (status < 5 OR run_id = ?)"
)


@dataclass(frozen=True, slots=True)
class _Log:
    """What is needed of a log: ranges of events, and the checkpoints that teams stand at."""

    tenant: str
    log_id: str
    live: bool
    oldest: int
    shared: bool
    gaps: Sequence[tuple[int, int]]
    standing: frozenset[str]
    position: int


def step(limit: int) -> Plan[Removed | None]:
    """Removes about so many rows of the log that waits longest."""
    row = yield from first(_NEXT)
    if row is None:
        return None
    yield Unhurried()
    tenant, log_id, position = row
    log = yield from _needs(tenant, log_id, position)
    for stage in _LIVE_STAGES if log.live else _DEAD_STAGES:
        removed = yield from stage(log, limit)
        if removed.rows:
            return removed
    yield from each(_DONE, [(tenant, log_id)])
    return Removed(tenant, 0)


def _needs(tenant: str, log_id: str, position: int) -> Plan[_Log]:
    own = yield from first(_OLDEST, tenant, log_id)
    # Read after that: whoever forked it while it was there is seen, and nobody forks it later.
    sharers = yield from fetch(_SHARERS, tenant, log_id)
    kept = [(begin, end) for begin, end, _ in sharers if begin <= end]
    standing = {checkpoint_id for _, _, checkpoint_id in sharers}
    if own is not None:
        kept.append((own[0], FOREVER))
        rows = yield from fetch(_RUNS_STAND, tenant, log_id, own[1])
        standing.update(name for (name,) in rows)
    starts = [(tenant, log_id, begin) for begin, _ in kept if begin > 1]
    rows = yield from fetch_each(_STANDING, starts)
    standing.update(name for (name,) in rows)
    return _Log(
        tenant,
        log_id,
        own is not None,
        own[0] if own else FOREVER,
        bool(sharers),
        gaps(kept),
        frozenset(standing),
        position,
    )


def _unshare(log: _Log, limit: int) -> Plan[Removed]:
    """A fork that is gone lets go of what it shared."""
    yield from each(_LET_GO, [(log.tenant, log.log_id)])
    rows = yield from fetch(_UNSHARE, log.tenant, log.log_id)
    return Removed(log.tenant, len(rows))


def _events(log: _Log, limit: int) -> Plan[Removed]:
    for begin, end in log.gaps:
        # Not from the beginning: Postgres would pass over what earlier steps removed, each time.
        begin = max(begin, log.position + 1)
        if begin > end:
            continue
        rows = yield from fetch(_EVENTS, log.tenant, log.log_id, begin, end, limit)
        if rows:
            rows = _light(rows)
            key = (log.tenant, log.log_id, begin, rows[-1][0])
            digests = yield from fetch(
                f"DELETE FROM blob_references {_IN_RANGE} RETURNING digest", *key
            )
            for table in _BY_SEQUENCE:
                yield from each(f"DELETE FROM {table} {_IN_RANGE}", [key])
            yield from each(_LOOKED_AT, [(rows[-1][0], log.tenant, log.log_id)])
            return Removed(log.tenant, len(rows), sorted({digest for (digest,) in digests}))
    return Removed(log.tenant, 0)


def _checkpoints(log: _Log, limit: int) -> Plan[Removed]:
    """Newest first: what follows one comes before it, so that no chain ever breaks."""
    for begin, end in reversed(log.gaps):
        while True:
            rows = yield from fetch(_CHECKPOINTS, log.tenant, log.log_id, begin, end, limit)
            if not rows:
                break
            end = rows[-1][0] - 1
            names = [name for _, name, _ in rows if name not in log.standing]
            followers: dict[str, set[str]] = {name: set() for name in names}
            found = yield from fetch_each(_FOLLOWERS, [(log.tenant, name) for name in names])
            for base_id, name in found:
                followers[base_id].add(name)
            sizes = {name: size for _, name, size in rows}
            gone = _unfollowed(names, followers, sizes)
            if gone:
                yield from each(
                    "DELETE FROM checkpoints WHERE tenant = ? AND checkpoint_id = ?",
                    [(log.tenant, name) for name in gone],
                )
                return Removed(log.tenant, len(gone))
    return Removed(log.tenant, 0)


def _manifests(log: _Log, limit: int) -> Plan[Removed]:
    """Of workspaces: made for this log, and named by nobody any more."""
    rows = yield from fetch(_FORGET_MANIFESTS, log.tenant, log.log_id, limit)
    return Removed(log.tenant, len(rows), sorted({digest for (digest,) in rows}))


def _unfollowed(
    names: Sequence[str], followers: dict[str, set[str]], sizes: dict[str, int]
) -> list[str]:
    gone: list[str] = []
    size = 0
    for name in names:
        if followers[name] <= set(gone):
            gone.append(name)
            size += sizes[name]
            if size > MOST_BYTES:
                break
    return gone


def _light(rows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    size = 0
    for count, (_, length) in enumerate(rows, 1):
        size += length
        if size > MOST_BYTES:
            return rows[:count]
    return rows


Stage = Callable[[_Log, int], Plan[Removed]]


def _of_runs(table: str, key: Sequence[str], condition: str = "", weight: int = 1) -> Stage:
    """Removes rows that belong to the log's runs; `condition` may ask for the log's oldest."""
    columns = ", ".join(key)
    qualified = ", ".join(f"t.{name}" for name in key)
    sql = (
        f"DELETE FROM {table} WHERE (tenant, {columns}) IN (SELECT t.tenant, {qualified}"
        f" FROM runs r JOIN {table} t ON t.tenant = r.tenant AND t.run_id = r.run_id"
        f" WHERE r.tenant = ? AND r.conversation_id = ?{condition} LIMIT ?) RETURNING tenant"
    )

    def stage(log: _Log, limit: int) -> Plan[Removed]:
        arguments = [log.oldest] if condition else []
        rows = yield from fetch(sql, log.tenant, log.log_id, *arguments, max(1, limit // weight))
        return Removed(log.tenant, len(rows))

    return stage


def _of_log(table: str, key: str, *, unless_shared: bool = False) -> Stage:
    """Removes rows that belong to the log as a whole."""
    sql = (
        f"DELETE FROM {table} WHERE (tenant, {key}) IN (SELECT tenant, {key} FROM {table}"
        " WHERE tenant = ? AND conversation_id = ? LIMIT ?) AND conversation_id = ?"
        " RETURNING tenant"
    )

    def stage(log: _Log, limit: int) -> Plan[Removed]:
        if unless_shared and log.shared:
            return Removed(log.tenant, 0)
        rows = yield from fetch(sql, log.tenant, log.log_id, limit, log.log_id)
        return Removed(log.tenant, len(rows))

    return stage


_LIVE_STAGES: Sequence[Stage] = (
    _events,
    _checkpoints,
    _manifests,
    _of_runs("inputs", ("run_id", "sequence"), " AND t.sequence < ?"),
    _of_runs(
        "committed_turns",
        ("run_id", "turn"),
        " AND t.last_sequence < ? AND (t.turn < r.turn OR r.status >= 5)",
    ),
)
_DEAD_STAGES: Sequence[Stage] = (
    _events,
    _checkpoints,
    _manifests,
    # What it shared goes when nothing of its own names it any more.
    _unshare,
    _of_runs("inputs", ("run_id", "sequence")),
    _of_runs("steps", ("run_id", "turn", "step_key"), weight=_HEAVY),
    _of_runs("committed_turns", ("run_id", "turn")),
    _of_log("conversation_agents", "agent"),
    _of_log("approvals", "approval_id"),
    _of_log("conversation_grants", "grantee"),
    # A fork tells by them whose inputs it shares.
    _of_log("runs", "run_id", unless_shared=True),
)
