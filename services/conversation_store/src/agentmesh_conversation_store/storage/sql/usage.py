"""The usage ledger: sums by hour, conversation, agent and model."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from agentmesh_conversation_store.domain.ledger import (
    DAY,
    Consumed,
    Dimension,
    UsageQuery,
    UsageSum,
)
from agentmesh_conversation_store.domain.usage import ADDITIVE, NO_USAGE, Usage

from .conditions import Condition, in_turn
from .plan import Plan, Row, fetch
from .sharing import few, readable, visible

_KEY = ("tenant", "hour", "conversation_id", "agent", "model")
_COLUMNS = (*_KEY, *ADDITIVE, "estimated")
_GROWN = ", ".join(f"{name} = usage_hours.{name} + excluded.{name}" for name in ADDITIVE)

# Only transactions that hold the conversation's lock touch these rows.
ADD = (
    f"INSERT INTO usage_hours ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    f" ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {_GROWN},"
    " estimated = CASE WHEN usage_hours.estimated > excluded.estimated"
    " THEN usage_hours.estimated ELSE excluded.estimated END"
)
_SUMS = ", ".join(f"CAST(coalesce(sum({name}), 0) AS BIGINT)" for name in ADDITIVE)
_OF_CONVERSATION = (
    "EXISTS (SELECT 1 FROM conversations c WHERE c.tenant = usage_hours.tenant"
    " AND c.conversation_id = usage_hours.conversation_id AND {visible})"
)
_DIMENSIONS = {
    Dimension.TOTAL: "CAST('' AS TEXT)",
    Dimension.DAY: f"hour - hour % {DAY}",
    Dimension.AGENT: "agent",
    Dimension.CONVERSATION: "conversation_id",
    Dimension.MODEL: "model",
}


def rows(tenant: str, consumed: Iterable[Consumed]) -> list[Row]:
    """The arguments of `ADD`."""
    return [
        (
            tenant,
            one.hour,
            one.conversation_id,
            one.agent,
            one.model,
            *(getattr(one.usage, name) for name in ADDITIVE),
            int(one.usage.estimated),
        )
        for one in consumed
    ]


def summarize(tenant: str, query: UsageQuery) -> Plan[Sequence[UsageSum]]:
    """Sums by key, in the order of keys.

    What it costs does not depend on how much others consumed: where that is more than a few rows,
    what the caller may read is looked up by its conversations.
    """
    key = _DIMENSIONS[query.dimension]
    rows = yield from _rows(tenant, _bounds(query, key), query)
    found = yield from fetch(
        f"{rows.sql.format(columns=f'{key} AS key, {_SUMS}, max(estimated)')}"
        " GROUP BY key ORDER BY key LIMIT ?",
        *rows.arguments,
        query.limit,
    )
    return [UsageSum(row[0], _usage(row[1:])) for row in found]


def _bounds(query: UsageQuery, key: str) -> Condition:
    bounds = (
        ("hour >= ?", query.since),
        ("hour < ?", query.until),
        (f"{key} > ?", query.after),
    )
    given = (Condition(sql, (value,)) for sql, value in bounds if value is not None)
    return in_turn(*given)


def _rows(tenant: str, bounds: Condition, query: UsageQuery) -> Plan[Condition]:
    """A query for `{columns}` of the rows within bounds that may be read."""
    wanted = Condition("tenant = ?", (tenant,)).and_also(bounds)
    start = f"SELECT {{columns}} FROM usage_hours WHERE {wanted.sql}"
    if query.caller.sees_all:
        return Condition(start, wanted.arguments)
    every = Condition(f"{start.format(columns='1')} ORDER BY hour", wanted.arguments)
    if (yield from few(every)):
        allowed = visible(query.caller)
        return Condition(
            f"{start} AND {_OF_CONVERSATION.format(visible=allowed.sql)}",
            wanted.arguments + allowed.arguments,
        )
    names = readable(tenant, query.caller)
    # So written SQLite takes the index by conversations, and not the tenant's whole table.
    return Condition(
        f"WITH readable(name) AS MATERIALIZED ({names.sql}) SELECT {{columns}}"
        " FROM readable CROSS JOIN usage_hours"
        f" WHERE conversation_id = name AND tenant || '' = ? AND {bounds.sql}",
        (*names.arguments, tenant, *bounds.arguments),
    )


def _usage(row: Row) -> Usage:
    *sums, estimated = row
    counts = dict(zip(ADDITIVE, map(int, sums), strict=True))
    return replace(NO_USAGE, **counts, estimated=bool(estimated))
