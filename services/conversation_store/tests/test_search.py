"""Full-text search: what it finds, the same on every database, and by an index."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import hypothesis.strategies as st
import pytest
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import SendMessage
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import ConversationFacts, Strategy
from agentmesh_conversation_store.domain.search import Words, parse_query, words_of
from agentmesh_conversation_store.storage.interface import ConversationQuery, Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.postgres.words import TsvectorWords
from agentmesh_conversation_store.storage.sql import listing
from agentmesh_conversation_store.storage.sql.plan import Fetch
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from agentmesh_conversation_store.storage.sqlite.database import connect, migrate, migrations
from agentmesh_conversation_store.storage.sqlite.words import Fts5Words
from hypothesis import HealthCheck, example, given, settings

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import (
    ACME,
    ManualClock,
    acting,
    fresh,
    start_command,
    store_pb,
)


async def _conversation(storage: Storage, *texts: str, tenant: str = "acme") -> str:
    """A conversation whose task and messages are these texts."""
    command = start_command(tenant, facts=ConversationFacts(task=texts[0], agents=("writer",)))
    view = await storage.execute(command)
    cid = view.conversation.conversation_id
    for text in texts[1:]:
        body = UserMessage(fresh("msg"), "user", text, "alice")
        await storage.execute(
            SendMessage(tenant, cid, body, Strategy.AFTER_TURN, fresh("run"), traceparent="")
        )
    return cid


async def _found(storage: Storage, text: str, tenant: str = "acme", limit: int = 100) -> list[str]:
    query = ConversationQuery(limit=limit, text=parse_query(text))
    return [v.conversation.conversation_id for v in await storage.conversations(tenant, query)]


async def test_all_words_stand_in_one_message(storage: Storage, clock: ManualClock) -> None:
    whole = await _conversation(storage, "plan", "the red house has a blue door")
    clock.advance(1)
    apart = await _conversation(storage, "paint the red house", "and a blue door")
    assert await _found(storage, "red door") == [whole]
    assert await _found(storage, "RED, House!") == [apart, whole]
    assert await _found(storage, '"blue door"') == [apart, whole]
    assert await _found(storage, '"red door"') == []
    assert await _found(storage, "door -red") == [apart]
    assert await _found(storage, 'door -"a blue"') == []
    assert await _found(storage, "hou*") == [apart, whole]
    assert await _found(storage, '"blue do"*') == [apart, whole]
    assert await _found(storage, "hou") == []
    assert await _found(storage, "plan") == [whole]


@pytest.mark.parametrize("text", ["", "   ", "-red", '""', "*", "-", "!!! ???", "\x00"])
async def test_a_query_without_a_word_finds_nothing(storage: Storage, text: str) -> None:
    await _conversation(storage, "the red house")
    assert await _found(storage, text) == []


async def test_case_and_width_and_accents_written_otherwise_are_the_same(storage: Storage) -> None:
    cid = await _conversation(storage, "Die STRASSE nach ÅRHUS, ﬁne", "日本語のテキスト", "हिन्दी")
    queries = (
        "straße",
        "århus",
        "A\u030arhus",
        "fine",
        "\uff26\uff29\uff2e\uff25",
        "日本",
        "本語の",
        "हिन्दी",
        "हिन्*",
    )
    for query in queries:
        assert await _found(storage, query) == [cid], query
    assert await _found(storage, "arhus") == []
    assert await _found(storage, "本日") == []


async def test_another_tenant_finds_nothing(storage: Storage) -> None:
    mine = await _conversation(storage, "the secret plan")
    theirs = await _conversation(storage, "the secret plan", tenant="other")
    assert await _found(storage, "secret") == [mine]
    assert await _found(storage, "secret", tenant="other") == [theirs]
    assert await _found(storage, "secret", tenant="third") == []


async def test_long_texts_are_found_by_all_their_words(storage: Storage) -> None:
    many = " ".join(f"w{number}" for number in range(30_000))
    often = "again " * 300 + "over"
    cid = await _conversation(storage, many, often)
    for query in (
        "w0",
        '"w15998 w15999"',
        "w16000",
        "w29999",
        "w2999* w0",
        "over",
        '"again again"',
    ):
        assert await _found(storage, query) == [cid], query
    # Beyond the places that are kept, only single words are found: on every database alike.
    for query in ('"w16000 w16001"', '"w15999 w16000"', '"again over"'):
        assert await _found(storage, query) == [], query


async def test_a_huge_text_is_indexed_as_far_as_there_is_room(storage: Storage) -> None:
    text = " ".join(f"{number:060d}" for number in range(20_000))
    cid = await _conversation(storage, text)
    assert await _found(storage, f"{0:060d} {8000:060d}") == [cid]
    assert await _found(storage, f"{19_999:060d}") == []


async def test_a_query_of_many_words_is_answered(storage: Storage) -> None:
    words = [f"w{number}" for number in range(500)]
    cid = await _conversation(storage, " ".join(words))
    assert await _found(storage, " ".join(words)) == [cid]
    assert await _found(storage, '"' + " ".join(words) + '"') == [cid]
    assert await _found(storage, "w1 " + " ".join(f"-x{word}" for word in words)) == [cid]


async def test_search_goes_with_filters_and_pages(store: RunningStore) -> None:
    started = [await store.start_conversation(task=f"blue {n}") for n in range(5)]
    await store.start_conversation(task="red")
    await store.cancel(started[1].conversation_id)
    wanted = [c.conversation_id for c in reversed(started)]

    async def listed(**fields: Any) -> list[str]:
        found: list[str] = []
        request = store_pb.ListConversationsRequest(page_size=2, text="blue", **fields)
        while True:
            page = await store.conversations.ListConversations(request, metadata=acting(ACME))
            found += [c.conversation_id for c in page.conversations]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    assert await listed() == wanted
    running = [cid for cid in wanted if cid != started[1].conversation_id]
    assert await listed(statuses=["CONVERSATION_STATUS_RUNNING"]) == running
    assert await listed(started_before=started[2].started_at) == wanted[3:]


TEXT = st.text(
    st.sampled_from(list('abAB  ""*-\'\\&|!():<>~_\t0é日\u0301\u00b7\x00')), max_size=12
) | st.text(max_size=12)


@asynccontextmanager
async def _both(url: str, folder: Path) -> AsyncIterator[Sequence[Storage]]:
    clock = ManualClock()
    storages: list[Storage] = [
        SqliteStorage(folder / "s.db", ProtobufEvents(), clock=clock),
        PostgresStorage(url, ProtobufEvents(), clock=clock),
    ]
    for storage in storages:
        await storage.open()
    try:
        yield storages
    finally:
        for storage in storages:
            await storage.close()


def test_whatever_is_asked_every_database_finds_the_same(postgres_url: str) -> None:
    """Nothing raises, and the databases agree."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        stack = _both(postgres_url, Path(folder))
        storages = runner.run(stack.__aenter__())

        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(TEXT.filter(bool), min_size=1, max_size=3), st.lists(TEXT, max_size=6))
        @example(["a b a", "b a b"], ['"a b" -"b a"', "a* -b", '"a b a"', "a-b*"])
        def agree(texts: list[str], queries: list[str]) -> None:
            tenant = fresh("tenant")
            ids = [
                runner.run(_conversation(storage, *texts, tenant=tenant)) for storage in storages
            ]
            for query in [*queries, *texts]:
                found = [
                    runner.run(_found(storage, query, tenant)) == [ours]
                    for storage, ours in zip(storages, ids, strict=True)
                ]
                assert found[0] == found[1], (texts, query)
            for text in texts:
                if words_of(text) and "-" not in text:
                    plain = " ".join(words_of(text).placed)
                    assert runner.run(_found(storages[0], plain, tenant)) == [ids[0]]

        agree()
        runner.run(stack.__aexit__(None, None, None))


async def test_postgres_searches_a_large_table_by_its_index(postgres_url: str) -> None:
    """Under row-level security, as the owner of the tables, with many texts of other tenants."""
    storage = PostgresStorage(postgres_url, ProtobufEvents())
    await storage.open()
    cid = await _conversation(storage, "a common word and a rare one")
    index = TsvectorWords()
    connection = await asyncpg.connect(postgres_url)
    common = words_of("common words of many")
    tenants = ("acme", "other")
    rows = [index.row(tenants[n % 2], f"conv_{n}", 1, common) for n in range(20_000)]
    await connection.execute("SET agentmesh.tenants = '{acme,other}'")
    await connection.executemany(_numbered(index.add), rows)
    await connection.execute("VACUUM ANALYZE message_words")
    await connection.execute("SET agentmesh.tenants = '{acme}'")
    query = ConversationQuery(limit=10, text=parse_query("rare"))
    asked = next(listing.conversations("acme", query, index))
    assert isinstance(asked, Fetch)
    plan = await connection.fetch(f"EXPLAIN {_numbered(asked.sql)}", *asked.arguments)
    lines = "\n".join(row[0] for row in plan)
    assert "Bitmap Index Scan on message_words_index" in lines, lines
    assert await _found(storage, "rare") == [cid]
    assert await _found(storage, "common") == [cid]
    await connection.close()
    await storage.close()


def _numbered(sql: str) -> str:
    first, *others = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))


def test_a_database_of_before_is_made_searchable(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    connection = connect(path)
    connection.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
    connection.executescript(migrations()[0][1])
    connection.execute("INSERT INTO schema_version VALUES (1)")
    connection.execute(
        "INSERT INTO events VALUES ('acme', 'conv_1', 1, 'message', '', '', '', 0, x'00')"
    )
    index = Fts5Words()
    migrate(connection, lambda _: index.text(words_of("Said before")))
    arguments = index.arguments("acme", parse_query("before"))
    assert connection.execute(index.found, arguments).fetchall() == [("conv_1", 1)]
    connection.execute("DELETE FROM message_words")
    assert connection.execute(index.found, arguments).fetchall() == []
    connection.execute(
        "INSERT INTO message_words_index (message_words_index) VALUES ('integrity-check')"
    )
    connection.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_words_are_cut_alike_in_texts_and_queries() -> None:
    assert words_of("Foo-Bar_baz, x2!") == Words(("foo", "bar", "baz", "x2"))
    assert not words_of("!!! … ???")
    long = "x" * 100
    assert words_of(long).placed == ("x" * 64,)
    assert parse_query(long).wanted[0].words == ("x" * 64,)
