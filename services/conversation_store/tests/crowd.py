"""A tenant in which others have very much and one user has little, and what reading costs there."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.domain.approvals import Approval, ApprovalStatus
from agentmesh_conversation_store.domain.ledger import Consumed
from agentmesh_conversation_store.domain.model import ConversationFacts, Visibility
from agentmesh_conversation_store.domain.usage import Usage
from agentmesh_conversation_store.storage.postgres.driver import translated
from agentmesh_conversation_store.storage.sql import usage
from agentmesh_conversation_store.storage.sql.plan import Fetch, FetchEach, Plan, each
from agentmesh_conversation_store.storage.sql.storage import SqlStorage
from agentmesh_conversation_store.storage.sql.tables import APPROVALS
from meshkit.roles import Role

from services.conversation_store.tests.support import start_command

TENANT = "acme"
ALICE = Caller("key:alice", Role.USER)
HOUR = 3600 * 1_000_000
MULTIPLIED = (
    *("conversations", "conversation_facts", "runs"),
    *("approvals", "usage_hours", "message_words"),
)
_KEPT_IDS = {"message_id", "checkpoint_id", "parent_run_id", "key_id"}


async def converse(
    storage: SqlStorage,
    owner: str,
    *,
    visibility: Visibility = Visibility.PRIVATE,
    task: str = "the red house",
    requested_at: int = 1,
    status: ApprovalStatus = ApprovalStatus.PENDING,
    tokens: int = 1,
) -> str:
    """A conversation with an approval, and with something consumed."""
    facts = ConversationFacts(task=task, agents=("writer",))
    command = start_command(TENANT, owner=owner, visibility=visibility, facts=facts)
    await storage.execute(command)
    name = command.conversation_id
    approval = Approval(
        *(TENANT, f"appr_{name}", name, command.run_id, 1, "writer", "?", b""),
        *(requested_at, 1, 2**60, Role.USER, status),
    )
    consumed = Consumed(name, HOUR, Usage(input_tokens=tokens), "writer", "scripted")

    def plan(_: object) -> Plan[None]:
        yield from each(APPROVALS.put, [APPROVALS.row(approval)])
        yield from each(usage.ADD, usage.rows(TENANT, [consumed]))

    await storage._write((TENANT,), plan)
    return name


class Crowd(Protocol):
    """A database with many conversations."""

    async def multiply(self, count: int, events: int) -> None:
        """Copies all that is there so often under other names, but its events less often."""
        ...

    async def work(self, plan: Plan[Any]) -> tuple[Any, int, list[str]]:
        """What a plan returned, how much it looked at, and how the database went about it."""
        ...


def _copies(table: str, columns: list[str], numbers: str, events: int = 0) -> str:
    """Copies the rows of a table under names and places of their own."""
    values = []
    for name in columns:
        named = name.endswith("_id") and name not in _KEPT_IDS
        value = f"t.{name} || '_' || n" if named else f"t.{name}"
        values.append(f"t.feed_position + n * {events}" if name == "feed_position" else value)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"
        f" FROM {table} t, {numbers}"
    )


class SqliteCrowd:
    """Counts the steps of SQLite's machine, a hundred at a time; a row takes some twenty."""

    most_work = 1_500  # hundreds of steps; a look at every row of a table takes more than 10,000

    def __init__(self, path: Path) -> None:
        self._path = path

    async def multiply(self, count: int, events: int) -> None:
        """See `Crowd`."""
        connection = sqlite3.connect(self._path)

        def copy(table: str, times: int, head: int = 0) -> None:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            numbers = (
                "(WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL"
                f" SELECT n + 1 FROM r WHERE n < {times}) SELECT n FROM r)"
            )
            connection.execute(_copies(table, names, numbers, head))

        (head,) = connection.execute("SELECT position FROM tenant_feeds").fetchone()
        for table in MULTIPLIED:
            copy(table, count)
        copy("events", events, head)
        connection.execute(f"UPDATE tenant_feeds SET position = {head * (events + 1)}")
        connection.commit()
        connection.close()

    async def work(self, plan: Plan[Any]) -> tuple[Any, int, list[str]]:
        """See `Crowd`."""
        connection = sqlite3.connect(self._path, isolation_level=None)
        steps = 0
        ways: list[str] = []

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        try:
            operation = next(plan)
            while True:
                assert isinstance(operation, Fetch | FetchEach)
                many = (
                    [operation.arguments] if isinstance(operation, Fetch) else operation.arguments
                )
                rows: list[Any] = []
                for arguments in many:
                    way = connection.execute(f"EXPLAIN QUERY PLAN {operation.sql}", arguments)
                    ways += [row[-1] for row in way]
                    connection.set_progress_handler(count, 100)
                    rows += connection.execute(operation.sql, arguments).fetchall()
                    connection.set_progress_handler(None, 0)
                operation = plan.send(rows)
        except StopIteration as done:
            return done.value, steps, ways
        finally:
            connection.close()


class PostgresCrowd:
    """Counts the rows that Postgres read from tables and indexes."""

    most_work = 6_000  # rows; a look at every row of a table is 100,000

    def __init__(self, url: str) -> None:
        self._url = url

    async def multiply(self, count: int, events: int) -> None:
        """See `Crowd`."""
        connection = await self._connect()
        head = await connection.fetchval("SELECT position FROM tenant_feeds")

        async def copy(table: str, times: int) -> None:
            rows = await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = $1", table
            )
            numbers = f"generate_series(1, {times}) AS n"
            await connection.execute(_copies(table, [row[0] for row in rows], numbers, head))
            await connection.execute(f"ANALYZE {table}")

        for table in MULTIPLIED:
            await copy(table, count)
        await copy("events", events)
        await connection.execute(f"UPDATE tenant_feeds SET position = {head * (events + 1)}")
        await connection.close()

    async def work(self, plan: Plan[Any]) -> tuple[Any, int, list[str]]:
        """See `Crowd`."""
        connection = await self._connect()
        total = 0
        ways: list[str] = []
        try:
            operation = next(plan)
            while True:
                assert isinstance(operation, Fetch | FetchEach)
                many = (
                    [operation.arguments] if isinstance(operation, Fetch) else operation.arguments
                )
                sql = translated(operation.sql)
                rows: list[Any] = []
                for arguments in many:
                    explained = await connection.fetchval(
                        f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", *arguments
                    )
                    total += _rows_read(json.loads(explained)[0]["Plan"], ways)
                    rows += await connection.fetch(sql, *arguments)
                operation = plan.send(rows)
        except StopIteration as done:
            return done.value, total, ways
        finally:
            await connection.close()

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(self._url)
        await connection.execute(f"SET agentmesh.tenants = '{{{TENANT}}}'")
        return connection


def _rows_read(node: dict[str, Any], ways: list[str]) -> int:
    total = sum(_rows_read(child, ways) for child in node.get("Plans", ()))
    relation = node.get("Relation Name") or node.get("Index Name")
    if relation is None:
        return total
    ways.append(f"{node['Node Type']} {relation}")
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows = sum(float(node.get(name, 0)) for name in names)
    return total + round(rows * float(node["Actual Loops"]))
