"""Drives plans on a SQLite connection."""

from __future__ import annotations

import functools
import sqlite3
from typing import TypeVar

from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.sql.plan import (
    Alone,
    Each,
    Fetch,
    FetchEach,
    Now,
    Operation,
    Plan,
    Rows,
    Unhurried,
)

T = TypeVar("T")


# On Postgres a function, which looks at all tenants whatever the transaction is bound to.
_OVERDUE = "(SELECT run_id FROM runs WHERE status = 1 AND runnable_at <= ? LIMIT 2)"


@functools.cache
def translated(sql: str) -> str:
    """Our SQL as SQLite's: a writer is alone, so that there are no row locks."""
    for lock in (" FOR UPDATE SKIP LOCKED", " FOR UPDATE"):
        sql = sql.replace(lock, "")
    return sql.replace("LEAST(", "min(").replace("overdue_runs(?)", _OVERDUE)


def drive(connection: sqlite3.Connection, plan: Plan[T], now: Instant) -> T:
    """What the plan returns. Runs inside the caller's transaction."""
    rows: Rows = ()
    try:
        operation = next(plan)
        while True:
            rows = _carry_out(connection, operation, now)
            operation = plan.send(rows)
    except StopIteration as done:
        result: T = done.value
        return result


def _carry_out(connection: sqlite3.Connection, operation: Operation, now: Instant) -> Rows:
    match operation:
        case Fetch(sql, arguments):
            return connection.execute(translated(sql), arguments).fetchall()
        case FetchEach(sql, many):
            statement = translated(sql)
            return [row for one in many for row in connection.execute(statement, one).fetchall()]
        case Each(sql, many):
            connection.executemany(translated(sql), many)
            return ()
        case Now():
            return ((now,),)
        case Alone() | Unhurried():
            return ()
