"""What waits for a person."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.domain.approvals import Approval
from agentmesh_conversation_store.domain.changes import Scope
from agentmesh_conversation_store.domain.model import Run
from agentmesh_conversation_store.storage.interface import ApprovalQuery

from .plan import Plan, fetch, fetch_each, first
from .sharing import visible
from .tables import APPROVALS

Key = tuple[str, str]

_PENDING = (
    f"SELECT {APPROVALS.select} FROM approvals"
    " WHERE tenant = ? AND run_id = ? AND status = 1 ORDER BY requested_sequence"
)


def pending(
    scopes: Iterable[Scope], runs: Mapping[Key, Mapping[str, Run]]
) -> Plan[dict[Key, dict[str, Approval]]]:
    """What the runs of each scope ask people for, oldest first. Most runs ask for nothing."""
    asking = sorted(
        {
            (run.tenant, run.run_id)
            for scope in scopes
            if scope.live_runs
            for run in runs[scope.tenant, scope.conversation_id].values()
            if run.pending_approvals
        }
    )
    found: dict[Key, dict[str, Approval]] = defaultdict(dict)
    for approval in map(APPROVALS.value, (yield from fetch_each(_PENDING, asking))):
        found[approval.tenant, approval.conversation_id][approval.approval_id] = approval
    return found


_OF_TURN = (
    f"SELECT {APPROVALS.select} FROM approvals"
    " WHERE tenant = ? AND conversation_id = ? AND run_id = ? AND turn = ? AND within_turn = 1"
    " ORDER BY requested_sequence"
)


def of_turns(runs: Iterable[Run]) -> Plan[dict[str, list[Approval]]]:
    """What the turns under way were suspended for, by run, oldest first."""
    asking = [
        (run.tenant, run.conversation_id, run.run_id, run.turn + 1)
        for run in runs
        if run.suspension
    ]
    found: dict[str, list[Approval]] = defaultdict(list)
    for approval in map(APPROVALS.value, (yield from fetch_each(_OF_TURN, asking))):
        found[approval.run_id].append(approval)
    return found


# The rows of a deleted conversation are there until they are removed.
_THERE = (
    "EXISTS (SELECT 1 FROM conversations c WHERE c.tenant = approvals.tenant"
    " AND c.conversation_id = approvals.conversation_id AND {visible})"
)


def get(tenant: str, approval_id: str, caller: Caller) -> Plan[Approval | None]:
    """One approval, of a conversation that the caller may read."""
    allowed = visible(caller)
    row = yield from first(
        f"SELECT {APPROVALS.select} FROM approvals"
        f" WHERE tenant = ? AND approval_id = ? AND {_THERE.format(visible=allowed.sql)}",
        tenant,
        approval_id,
        *allowed.arguments,
    )
    return None if row is None else APPROVALS.value(row)


def listing(tenant: str, query: ApprovalQuery) -> Plan[Sequence[Approval]]:
    """A page of approvals, oldest first."""
    allowed = visible(query.caller)
    conditions = ["tenant = ?", _THERE.format(visible=allowed.sql)]
    arguments: list[Any] = [tenant, *allowed.arguments]
    if query.conversation_id:
        conditions.append("conversation_id = ?")
        arguments.append(query.conversation_id)
    if query.status is not None:
        conditions.append("status = ?")
        arguments.append(int(query.status))
    if query.after is not None:
        conditions.append("(requested_at, approval_id) > (?, ?)")
        arguments.extend(query.after)
    rows = yield from fetch(
        f"SELECT {APPROVALS.select} FROM approvals WHERE {' AND '.join(conditions)}"
        " ORDER BY requested_at, approval_id LIMIT ?",
        *arguments,
        query.limit,
    )
    return [APPROVALS.value(row) for row in rows]
