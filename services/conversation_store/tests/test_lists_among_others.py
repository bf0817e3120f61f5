"""What a user lists among very much of others: whole, and for work that depends on their own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.access import Access, Caller, Grantee
from agentmesh_conversation_store.domain.approvals import ApprovalStatus
from agentmesh_conversation_store.domain.ledger import Dimension, UsageQuery
from agentmesh_conversation_store.domain.model import Visibility
from agentmesh_conversation_store.domain.search import parse_query
from agentmesh_conversation_store.domain.sharing import ShareConversation
from agentmesh_conversation_store.storage.interface import (
    ApprovalQuery,
    ConversationQuery,
    Storage,
)
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sql import approvals, feed, listing, sharing, usage
from agentmesh_conversation_store.storage.sql.storage import SqlStorage
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from meshkit.roles import Role

from services.conversation_store.tests.crowd import (
    ALICE,
    MULTIPLIED,
    TENANT,
    PostgresCrowd,
    SqliteCrowd,
    converse,
)
from tests.support.databases import PostgresServer

OTHERS = 100_000
EVENTS = 3_000
OWN = 10
Crowded = tuple[SqlStorage, SqliteCrowd | PostgresCrowd, list[str]]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgres"])
async def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Crowded]:
    """A hundred thousand conversations of others, which Alice may not read, and ten of her own."""
    storage: SqlStorage
    crowd: SqliteCrowd | PostgresCrowd
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("crowd") / "s.db"
        storage, crowd = SqliteStorage(path, ProtobufEvents()), SqliteCrowd(path)
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database()
        storage, crowd = PostgresStorage(url, ProtobufEvents()), PostgresCrowd(url)
        request.addfinalizer(lambda: server.drop_database(url))
    await storage.open()
    await converse(storage, "key:bob")
    await crowd.multiply(OTHERS, EVENTS)
    own = [
        await converse(storage, "key:alice", requested_at=number) for number in range(2, 2 + OWN)
    ]
    yield storage, crowd, own
    await storage.close()


def within(crowd: SqliteCrowd | PostgresCrowd, work: int, ways: list[str]) -> None:
    """No look at every row of a table, neither by intent nor in effect."""
    assert work <= crowd.most_work, (work, ways)
    scanned = [f"Seq Scan {name}" for name in MULTIPLIED]
    scans = [way for way in ways if way in scanned or way.split()[:2] == ["SCAN", "c"]]
    assert not scans, ways


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("status", [None, ApprovalStatus.PENDING, ApprovalStatus.APPROVED])
async def test_approvals(crowded: Crowded, status: ApprovalStatus | None) -> None:
    _, crowd, own = crowded
    query = ApprovalQuery(51, status=status, caller=ALICE)
    found, work, ways = await crowd.work(approvals.listing(TENANT, query))
    expected = [] if status is ApprovalStatus.APPROVED else own
    assert [approval.conversation_id for approval in found] == expected
    within(crowd, work, ways)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("dimension", [Dimension.TOTAL, Dimension.CONVERSATION])
async def test_usage(crowded: Crowded, dimension: Dimension) -> None:
    _, crowd, own = crowded
    plan = usage.summarize(TENANT, UsageQuery(dimension, 1000, caller=ALICE))
    found, work, ways = await crowd.work(plan)
    if dimension is Dimension.CONVERSATION:
        assert [one.key for one in found] == sorted(own)
    assert sum(one.usage.input_tokens for one in found) == OWN
    within(crowd, work, ways)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("text", ["red house", "hou*", "green"])
async def test_search(crowded: Crowded, text: str) -> None:
    storage, crowd, own = crowded
    query = ConversationQuery(51, text=parse_query(text), caller=ALICE)
    found, work, ways = await crowd.work(listing.conversations(TENANT, query, storage._words))
    names = [view.conversation.conversation_id for view in found]
    assert sorted(names) == ([] if text == "green" else sorted(own))
    within(crowd, work, ways)


@pytest.mark.asyncio(loop_scope="module")
async def test_conversations_of_another_owner(crowded: Crowded) -> None:
    storage, crowd, _ = crowded
    query = ConversationQuery(51, owner="key:bob", caller=ALICE)
    found, work, ways = await crowd.work(listing.conversations(TENANT, query, storage._words))
    assert not found
    within(crowd, work, ways)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_feed_goes_on_by_stretches(crowded: Crowded) -> None:
    """A page may be empty; then it says how far it looked, and that was not far."""
    _, crowd, own = crowded
    first, work, ways = await crowd.work(feed.after(TENANT, 0, 256, 2**20, ALICE))
    assert not first.events
    assert 0 < first.through < first.head
    assert work <= 2 * crowd.most_work, (work, ways)
    end, *_ = await crowd.work(feed.after(TENANT, first.head - 1000, 256, 2**20, ALICE))
    assert end.through == end.head
    assert {event.conversation_id for event in end.events} == set(own)


CALLERS = [
    Caller("key:alice", Role.USER),
    Caller("key:carol", Role.VIEWER),
    Caller("", Role.USER),
]


@pytest.mark.parametrize("few", [2, 500])
async def test_a_user_finds_what_may_be_read_and_nothing_else(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Whichever way is taken, by what is wanted or by what may be read."""
    for module in (sharing, approvals):
        monkeypatch.setattr(module, "FEW", few)
    monkeypatch.setattr(listing, "_PORTION", few)
    monkeypatch.setattr(feed, "_STRETCH", few)
    assert isinstance(storage, SqlStorage)
    chance = random.Random(7)
    for number in range(24):
        name = await converse(
            storage,
            chance.choice(["key:alice", "key:bob", "key:dave"]),
            visibility=Visibility.TENANT if number % 5 == 0 else Visibility.PRIVATE,
            task=chance.choice(["the red house", "a blue door", "the house"]),
            requested_at=chance.randrange(5),
            status=chance.choice([ApprovalStatus.PENDING, ApprovalStatus.APPROVED]),
            tokens=number + 1,
        )
        for grantee in (Grantee("key:alice"), Grantee("key:carol"), Grantee(role=Role.VIEWER)):
            if chance.random() < 0.15:
                share = ShareConversation(TENANT, name, grantee, Access.READ, "key:bob")
                await storage.execute(share)
    for caller in CALLERS:
        await _agree(storage, caller)


async def _agree(storage: SqlStorage, caller: Caller) -> None:
    names = {
        view.conversation.conversation_id
        for view in await storage.conversations(TENANT, ConversationQuery(100))
        if await storage.access(TENANT, view.conversation.conversation_id, caller)
    }
    assert 0 < len(names) < 24
    for status in (None, ApprovalStatus.PENDING):
        every = await storage.approvals(TENANT, ApprovalQuery(100, status=status))
        expected = [one.approval_id for one in every if one.conversation_id in names]
        assert await _approvals(storage, caller, status) == expected
    by_name = UsageQuery(Dimension.CONVERSATION, 100)
    sums = {one.key: one.usage for one in await storage.summarize_usage(TENANT, by_name)}
    own = await storage.summarize_usage(
        TENANT, UsageQuery(Dimension.CONVERSATION, 100, caller=caller)
    )
    assert {one.key: one.usage for one in own} == {name: sums[name] for name in names}
    for text in ("house", "red", '"a blue"', "hou* -red", "green", "doo*"):
        words = parse_query(text)
        every_view = await storage.conversations(TENANT, ConversationQuery(100, text=words))
        ids = [view.conversation.conversation_id for view in every_view]
        assert await _found(storage, caller, words) == [name for name in ids if name in names]
    for owner in ("key:alice", "key:bob"):
        every_view = await storage.conversations(TENANT, ConversationQuery(100, owner=owner))
        ids = [view.conversation.conversation_id for view in every_view]
        mine = await storage.conversations(
            TENANT, ConversationQuery(100, owner=owner, caller=caller)
        )
        found = [view.conversation.conversation_id for view in mine]
        assert found == [name for name in ids if name in names]
    assert await _fed(storage, caller) == names


async def _approvals(storage: Storage, caller: Caller, status: Any) -> list[str]:
    found: list[Any] = []
    after = None
    while True:
        query = ApprovalQuery(3, after=after, status=status, caller=caller)
        page = await storage.approvals(TENANT, query)
        found += page
        if len(page) < 3:
            return [one.approval_id for one in found]
        after = page[-1].requested_at, page[-1].approval_id


async def _found(storage: Storage, caller: Caller, text: Any) -> list[str]:
    found: list[str] = []
    before = None
    while True:
        query = ConversationQuery(3, before=before, text=text, caller=caller)
        page = [view.conversation for view in await storage.conversations(TENANT, query)]
        found += [one.conversation_id for one in page]
        if len(page) < 3:
            return found
        before = page[-1].started_at, page[-1].conversation_id


async def _fed(storage: Storage, caller: Caller) -> set[str]:
    names: set[str] = set()
    position = 0
    while True:
        page = await storage.feed(TENANT, position, 3, 2**20, caller)
        names |= {event.conversation_id for event in page.events}
        if page.through >= page.head:
            return names
        assert page.through > position
        position = page.through
