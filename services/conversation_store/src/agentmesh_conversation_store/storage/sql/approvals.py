"""What waits for a person."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.domain.approvals import Approval
from agentmesh_conversation_store.domain.changes import Scope
from agentmesh_conversation_store.domain.model import Run
from agentmesh_conversation_store.storage.interface import ApprovalQuery

from .conditions import Condition, in_turn
from .plan import Plan, Rows, fetch, fetch_each, first
from .sharing import FEW, few, readable, visible
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
    "EXISTS (SELECT 1 FROM conversations c WHERE c.tenant = a.tenant"
    " AND c.conversation_id = a.conversation_id AND {visible})"
)
_OLDEST_FIRST = "ORDER BY a.requested_at, a.approval_id"
_ALL = Condition("approvals")


def get(tenant: str, approval_id: str, caller: Caller) -> Plan[Approval | None]:
    """One approval, of a conversation that the caller may read."""
    allowed = visible(caller)
    row = yield from first(
        f"SELECT {APPROVALS.select} FROM approvals a"
        f" WHERE tenant = ? AND approval_id = ? AND {_THERE.format(visible=allowed.sql)}",
        tenant,
        approval_id,
        *allowed.arguments,
    )
    return None if row is None else APPROVALS.value(row)


def listing(tenant: str, query: ApprovalQuery) -> Plan[Sequence[Approval]]:
    """A page of approvals, oldest first.

    What it costs does not depend on how much there is that the caller may not read: of the oldest
    few each is looked at, and where that is no page, what may be read is looked up by its
    conversations.
    """
    wanted = _wanted(tenant, query)
    if query.caller.sees_all or query.conversation_id:
        page = yield from _page(wanted, query)
    else:
        oldest = Condition(
            f"(SELECT * FROM approvals a WHERE {wanted.sql} {_OLDEST_FIRST} LIMIT {FEW})",
            wanted.arguments,
        )
        page = yield from _page(in_turn(), query, oldest)
        if len(page) < query.limit:
            every = Condition(
                f"SELECT 1 FROM approvals a WHERE {wanted.sql} {_OLDEST_FIRST}", wanted.arguments
            )
            if not (yield from few(every)):
                page = yield from _of_readable(tenant, query)
    return [APPROVALS.value(row) for row in page]


def _wanted(tenant: str, query: ApprovalQuery, status: str = "a.status") -> Condition:
    conditions = [Condition("a.tenant = ?", (tenant,))]
    if query.conversation_id:
        conditions.append(Condition("a.conversation_id = ?", (query.conversation_id,)))
    if query.status is not None:
        conditions.append(Condition(f"{status} = ?", (int(query.status),)))
    if query.after is not None:
        conditions.append(Condition("(a.requested_at, a.approval_id) > (?, ?)", query.after))
    return in_turn(*conditions)


def _page(wanted: Condition, query: ApprovalQuery, source: Condition = _ALL) -> Plan[Rows]:
    allowed = visible(query.caller)
    return (
        yield from fetch(
            f"SELECT {APPROVALS.select} FROM {source.sql} AS a"
            f" WHERE {wanted.sql} AND {_THERE.format(visible=allowed.sql)} {_OLDEST_FIRST} LIMIT ?",
            *source.arguments,
            *wanted.arguments,
            *allowed.arguments,
            query.limit,
        )
    )


def _of_readable(tenant: str, query: ApprovalQuery) -> Plan[Rows]:
    # So written SQLite takes the index by conversations, and not the one by status.
    wanted = _wanted(tenant, query, status="a.status + 0")
    names = readable(tenant, query.caller)
    return (
        yield from fetch(
            f"WITH readable(name) AS MATERIALIZED ({names.sql}), found AS MATERIALIZED ("
            "SELECT a.* FROM readable CROSS JOIN approvals a"
            f" WHERE a.conversation_id = readable.name AND {wanted.sql})"
            f" SELECT {APPROVALS.select} FROM found a {_OLDEST_FIRST} LIMIT ?",
            *names.arguments,
            *wanted.arguments,
            query.limit,
        )
    )
