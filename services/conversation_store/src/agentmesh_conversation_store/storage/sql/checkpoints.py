"""Checkpoints as chains: each is whole or a difference to its base."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from agentmesh_conversation_store.domain.model import Checkpoint, Run
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.domain.runs import require_current
from agentmesh_conversation_store.storage.interface import CheckpointLink

from .plan import Plan, fetch_each, first
from .tables import CHECKPOINTS, RUNS

# A base is always older than what follows it, so that this ends.
_CHAIN = """
WITH RECURSIVE chain(newest_id, place, checkpoint_id, base_id, size) AS (
    SELECT checkpoint_id, 0, checkpoint_id, base_id, length(data) FROM checkpoints
    WHERE tenant = ? AND checkpoint_id = ?
    UNION ALL
    SELECT chain.newest_id, chain.place + 1, c.checkpoint_id, c.base_id, length(c.data)
    FROM chain JOIN checkpoints c ON c.tenant = ? AND c.checkpoint_id = chain.base_id
    WHERE chain.base_id <> ''
)
SELECT newest_id, checkpoint_id, size FROM chain ORDER BY place DESC
"""
_RUN = f"SELECT {RUNS.select} FROM runs WHERE tenant = ? AND run_id = ?"


def links(
    tenant: str, run_id: str, fence: int, checkpoint_id: str
) -> Plan[Sequence[CheckpointLink]]:
    """The chain that a run stands at, for the holder of its lease."""
    row = yield from first(_RUN, tenant, run_id)
    if row is None:
        raise not_found("run", run_id)
    run = RUNS.value(row)
    require_current(run, fence)
    if run.checkpoint_id != checkpoint_id:
        raise not_found("checkpoint", checkpoint_id)
    return (yield from chain(tenant, checkpoint_id))


def chain(tenant: str, checkpoint_id: str) -> Plan[Sequence[CheckpointLink]]:
    """A checkpoint after those that it follows, oldest first."""
    rows = yield from fetch_each(_CHAIN, [(tenant, checkpoint_id, tenant)])
    return [CheckpointLink(*row[1:]) for row in rows]


def read(tenant: str, checkpoint_ids: Sequence[str]) -> Plan[Sequence[Checkpoint]]:
    """Checkpoints in the order of their ids; those that are gone by now are left out."""
    rows = yield from fetch_each(CHECKPOINTS.get, [(tenant, name) for name in checkpoint_ids])
    return [CHECKPOINTS.value(row[2:]) for row in rows]


def chains(runs: Sequence[Run], most_bytes: int) -> Plan[dict[str, Sequence[Checkpoint]]]:
    """By run id the chain it stands at, oldest first; none that is larger than that together."""
    standing = [run for run in runs if run.checkpoint_id] if most_bytes > 0 else []
    rows = yield from fetch_each(
        _CHAIN, [(run.tenant, run.checkpoint_id, run.tenant) for run in standing]
    )
    members: dict[str, list[CheckpointLink]] = defaultdict(list)
    for newest_id, checkpoint_id, size in rows:
        members[newest_id].append(CheckpointLink(checkpoint_id, size))
    found: dict[str, Sequence[Checkpoint]] = {}
    for run in standing:
        chain = members[run.checkpoint_id]
        if sum(link.weight for link in chain) <= most_bytes:
            names = [link.checkpoint_id for link in chain]
            found[run.run_id] = yield from read(run.tenant, names)
    return found
