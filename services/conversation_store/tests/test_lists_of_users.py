"""Lists of users among many conversations of others: whole, in order, and along indexes."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.access import Access, Caller, Grantee
from agentmesh_conversation_store.domain.model import Visibility
from agentmesh_conversation_store.domain.sharing import ShareConversation
from agentmesh_conversation_store.storage.interface import ConversationQuery, Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sql import listing
from agentmesh_conversation_store.storage.sql.plan import Fetch
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from meshkit.roles import Role

from services.conversation_store.tests.support import start_command


async def test_pages_of_a_users_conversations_are_whole_and_in_order(
    storage: Storage, clock: Any
) -> None:
    """However they may be read, each stands once in one order."""
    seen: list[str] = []
    for number in range(24):
        clock.advance(number % 3)
        way = number % 4
        command = start_command(
            owner="key:alice" if way == 0 else "key:bob",
            visibility=Visibility.TENANT if way == 1 else Visibility.PRIVATE,
        )
        await storage.execute(command)
        name = command.conversation_id
        if way == 2:
            for grantee in (Grantee("key:alice"), Grantee(role=Role.VIEWER)):
                await storage.execute(
                    ShareConversation("acme", name, grantee, Access.READ, "key:bob")
                )
        if way != 3:
            seen.append(name)
    alice = Caller("key:alice", Role.USER)
    expected = {
        view.conversation.conversation_id: view.conversation.started_at
        for view in await storage.conversations("acme", ConversationQuery(limit=100))
        if view.conversation.conversation_id in seen
    }
    found: list[tuple[int, str]] = []
    before = None
    while True:
        page = await storage.conversations(
            "acme", ConversationQuery(limit=5, before=before, caller=alice)
        )
        found += [(v.conversation.started_at, v.conversation.conversation_id) for v in page]
        if len(page) < 5:
            break
        before = found[-1]
    assert found == sorted(((at, name) for name, at in expected.items()), reverse=True)


_NO_WORDS: Any = None


def statement(caller: Caller) -> tuple[str, tuple[Any, ...]]:
    """What a list of conversations asks the database."""
    plan = listing.conversations("acme", ConversationQuery(limit=51, caller=caller), _NO_WORDS)
    asked = next(plan)
    assert isinstance(asked, Fetch)
    return asked.sql, tuple(asked.arguments)


WALKED = ("conversations_by_owner", "conversations_open", "conversation_grants_by_grantee")


async def test_lists_of_users_walk_along_indexes_in_sqlite(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "s.db", ProtobufEvents())
    await storage.open()
    sql, arguments = statement(Caller("key:alice", Role.USER))

    def plan() -> Any:
        return (yield Fetch(f"EXPLAIN QUERY PLAN {sql}", arguments))

    lines = [row[-1] for row in await storage._read(("acme",), plan())]
    await storage.close()
    assert not [line for line in lines if line.split()[:2] == ["SCAN", "c"]], lines
    for index in WALKED:
        assert any(index in line for line in lines), lines


async def test_lists_of_users_walk_along_indexes_in_postgres(postgres_url: str) -> None:
    storage = PostgresStorage(postgres_url, ProtobufEvents())
    await storage.open()
    await storage.execute(start_command(owner="key:bob", visibility=Visibility.PRIVATE))
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SET agentmesh.tenants = '{acme}'")
    for table in ("conversations", "conversation_facts", "runs"):
        await _multiply(connection, table, 20_000)
    sql, arguments = statement(Caller("key:alice", Role.USER))
    parts = sql.split("?")
    numbered = "".join(f"{part}${n}" for n, part in enumerate(parts[:-1], 1)) + parts[-1]
    rows = await connection.fetch(f"EXPLAIN {numbered}", *arguments)
    await connection.close()
    await storage.close()
    lines = [row[0] for row in rows]
    assert not [line for line in lines if "Seq Scan" in line], lines
    for index in WALKED:
        assert any(index in line for line in lines), lines


async def _multiply(connection: Any, table: str, count: int) -> None:
    """Copies the row of a table under other names."""
    columns = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = $1", table
    )
    names = [row[0] for row in columns]
    values = [f"{name} || n" if name.endswith("_id") else name for name in names]
    await connection.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)}"
        f" FROM {table}, generate_series(1, {count}) AS n"
    )
    await connection.execute(f"ANALYZE {table}")
