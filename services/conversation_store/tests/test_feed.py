"""The feed of a tenant: everything, once, in order within each conversation."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import SendMessage
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import Strategy
from agentmesh_conversation_store.fanout.in_process import InProcessFanout
from agentmesh_conversation_store.storage.interface import EventFilter, Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sql.plan import Each
from agentmesh_conversation_store.storage.sql.writing import ADD_EVENT
from agentmesh_conversation_store.subscriptions.feed import TenantFeeds
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import Database, RunningStore
from services.conversation_store.tests.support import (
    ACME,
    OTHER,
    PATIENCE,
    acting,
    fresh,
    start_command,
    store_pb,
)


class Feed:
    """A reader of the tenant's feed."""

    def __init__(self, store: RunningStore, principal: Any = ACME, **fields: Any) -> None:
        request = store_pb.SubscribeTenantRequest(**fields)
        self.call = store.conversations.SubscribeTenant(request, metadata=acting(principal))
        self.events: list[event_pb2.Event] = []
        self.token = fields.get("resume_token", "")
        self.beats: list[Any] = []

    async def read(self) -> None:
        """Takes one response."""
        response = await self.call.read()
        assert response is not grpc.aio.EOF
        self.events += response.item.events.events
        self.token = response.item.resume_token
        if response.item.HasField("heartbeat"):
            self.beats.append(response.item.heartbeat)

    async def until(self, count: int) -> Feed:
        """Reads until there are that many events."""
        async with asyncio.timeout(PATIENCE):
            while len(self.events) < count:
                await self.read()
        return self

    async def begun(self) -> Feed:
        """Reads up to the first sign of life: the feed is open from here on."""
        async with asyncio.timeout(PATIENCE):
            while not self.beats:
                await self.read()
        return self

    def by_conversation(self) -> dict[str, list[int]]:
        """The sequences that came, by conversation."""
        found: dict[str, list[int]] = defaultdict(list)
        for event in self.events:
            found[event.conversation_id].append(event.sequence)
        return found


@pytest_asyncio.fixture
async def beating(tmp_path: Path, database: Database) -> AsyncIterator[RunningStore]:
    """A store whose heart beats fast."""
    running = await RunningStore.start(tmp_path / "data", **database, heartbeat_seconds=0.1)
    yield running
    await running.stop()


async def test_all_conversations_from_now_on(beating: RunningStore) -> None:
    before = await beating.start_conversation()
    feed = await Feed(beating).begun()
    after = await beating.start_conversation()
    await beating.send(before.conversation_id)
    await feed.until(4)
    assert feed.by_conversation() == {
        after.conversation_id: [1, 2, 3],
        before.conversation_id: [4],
    }
    for conversation_id in (before.conversation_id, after.conversation_id):
        log = {event.sequence: event for event in await beating.log(conversation_id)}
        mine = [e for e in feed.events if e.conversation_id == conversation_id]
        assert mine == [log[event.sequence] for event in mine]
    feed.call.cancel()


async def test_a_token_goes_on_where_it_was(beating: RunningStore) -> None:
    feed = await Feed(beating).begun()
    await beating.start_conversation()
    await feed.until(3)
    feed.call.cancel()
    one = await beating.start_conversation()
    two = await beating.start_conversation()
    again = await Feed(beating, resume_token=feed.token).until(6)
    assert again.by_conversation() == {
        one.conversation_id: [1, 2, 3],
        two.conversation_id: [1, 2, 3],
    }
    again.call.cancel()


async def test_single_events_have_a_token_each(beating: RunningStore) -> None:
    feed = Feed(beating, single_events=True)
    await feed.read()
    assert feed.beats, "the first item says from where"
    tokens = [feed.token]
    conversation = await beating.start_conversation()
    while len(feed.events) < 3:
        await feed.read()
        if len(feed.events) == len(tokens):
            tokens.append(feed.token)
    feed.call.cancel()
    for behind, token in enumerate(tokens[:3]):
        again = await Feed(beating, resume_token=token).until(3 - behind)
        assert [event.sequence for event in again.events] == [1, 2, 3][behind:]
        assert set(again.by_conversation()) == {conversation.conversation_id}
        again.call.cancel()


async def test_filters_pass_what_matches_and_beats_tell_how_far(beating: RunningStore) -> None:
    feed = await Feed(beating, filter=store_pb.EventFilter(kinds=["message"])).begun()
    started = [await beating.start_conversation() for _ in range(3)]
    await feed.until(3)
    assert feed.by_conversation() == {c.conversation_id: [3] for c in started}
    async with asyncio.timeout(PATIENCE):
        while not feed.beats or feed.beats[-1].delivered_through < 9:
            await feed.read()
    assert feed.beats[-1].head_sequence == 9
    feed.call.cancel()


async def test_feeds_of_tenants_never_meet(beating: RunningStore) -> None:
    mine, theirs = await Feed(beating).begun(), await Feed(beating, OTHER).begun()
    conversation = await beating.start_conversation()
    await mine.until(3)
    async with asyncio.timeout(PATIENCE):
        while len(theirs.beats) < 4:
            await theirs.read()
    assert not theirs.events
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await Feed(beating, OTHER, resume_token=mine.token).read()
    assert set(mine.by_conversation()) == {conversation.conversation_id}


async def test_a_token_of_the_future_is_out_of_range(beating: RunningStore, tmp_path: Path) -> None:
    feed = await Feed(beating).begun()
    await beating.start_conversation()
    await feed.until(3)
    empty = await RunningStore.start(tmp_path / "empty")
    with raises_rich(grpc.StatusCode.OUT_OF_RANGE, "BEYOND_HEAD"):
        await Feed(empty, resume_token=feed.token).read()
    await empty.stop()


async def test_a_drain_ends_it_with_a_time_to_come_back(beating: RunningStore) -> None:
    feed = await Feed(beating).begun()
    stopping = asyncio.create_task(beating.host.stop())
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING") as drained:
        async with asyncio.timeout(PATIENCE):
            while True:
                await feed.read()
    assert drained.error.retry_after is not None
    await stopping


async def test_events_of_another_replica_come(tmp_path: Path, database: Database) -> None:
    # No sign of life, before which the feed looks as well, is due that early.
    one = await RunningStore.start(tmp_path, **database, heartbeat_seconds=15)
    two = await RunningStore.start(tmp_path, **database)
    feed = await Feed(one).begun()
    conversation = await two.start_conversation()
    async with asyncio.timeout(10):
        await feed.until(3)
    assert feed.by_conversation() == {conversation.conversation_id: [1, 2, 3]}
    feed.call.cancel()
    await two.stop()
    await one.stop()


async def test_a_look_that_fails_is_not_the_last(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody tells of what is committed here, as if another replica did that."""
    feeds = TenantFeeds(storage, InProcessFanout(), heartbeat=60, head_check=0.01)
    responses: Any = feeds.subscribe("acme", "", EventFilter())
    await anext(responses)  # the sign of life that says from where
    heads = storage.feed_heads
    defects = [LookupError("one"), LookupError("two")]

    async def failing(tenants: Sequence[str]) -> dict[str, int]:
        if defects:
            raise defects.pop()
        return await heads(tenants)

    monkeypatch.setattr(storage, "feed_heads", failing)
    reading = asyncio.ensure_future(anext(responses))
    await feeds.start()
    async with asyncio.timeout(PATIENCE):
        while defects:
            await asyncio.sleep(0.01)
        await storage.execute(start_command())
        assert await reading
    assert caplog.text.count("a look at the feeds failed") == 2
    await responses.aclose()
    await feeds.stop()


async def test_who_has_positions_already_commits_before_others_get_theirs(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's writer is alone: there is nobody who could come in between."""
    replicas = [PostgresStorage(postgres_url, ProtobufEvents()) for _ in range(2)]
    for storage in replicas:
        await storage.open()
    slow, other = replicas
    first, second = [await other.execute(start_command()) for _ in range(2)]
    carry_out = slow._driver._carry_out
    has_positions, may_go_on = asyncio.Event(), asyncio.Event()

    async def with_a_pause(connection: Any, operation: Any) -> Any:
        if isinstance(operation, Each) and operation.sql == ADD_EVENT:
            has_positions.set()
            await may_go_on.wait()
        return await carry_out(connection, operation)

    monkeypatch.setattr(slow._driver, "_carry_out", with_a_pause)
    begun = asyncio.create_task(slow.execute(_message(first.conversation.conversation_id)))
    await has_positions.wait()
    later = asyncio.create_task(other.execute(_message(second.conversation.conversation_id)))
    # Long enough for a commit that need not wait.
    await asyncio.wait({later}, timeout=0.5)
    assert not later.done()
    assert [one.position for one in (await other.feed("acme", 0, 99, 10**6)).events] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    may_go_on.set()
    await asyncio.gather(begun, later)
    news = [
        (one.position, one.conversation_id)
        for one in (await other.feed("acme", 6, 99, 10**6)).events
    ]
    assert news == [
        (7, first.conversation.conversation_id),
        (8, second.conversation.conversation_id),
    ]
    for storage in replicas:
        await storage.close()


async def test_late_committers_are_never_skipped(postgres_url: str) -> None:
    """A reader that reads on all the time, while groups of two replicas commit in any order."""
    replicas = [PostgresStorage(postgres_url, ProtobufEvents()) for _ in range(2)]
    for storage in replicas:
        await storage.open()
    started = [await replicas[0].execute(start_command()) for _ in range(12)]
    ids = [view.conversation.conversation_id for view in started]
    seen: list[tuple[str, int]] = []
    total = len(ids) * 3 + 600

    async def read() -> None:
        position = 0
        async with asyncio.timeout(60):
            while len(seen) < total:
                batch = (await replicas[1].feed("acme", position, 7, 10**6)).events
                if batch:
                    position = batch[-1].position
                seen.extend((e.conversation_id, e.event.sequence) for e in batch)

    reading = asyncio.create_task(read())
    chance = random.Random(3)
    for _ in range(20):
        await asyncio.gather(
            *(chance.choice(replicas).execute(_message(chance.choice(ids))) for _ in range(30))
        )
    await reading
    assert len(seen) == len(set(seen)) == total
    by_conversation: dict[str, Sequence[int]] = {
        cid: [sequence for c, sequence in seen if c == cid] for cid in ids
    }
    for sequences in by_conversation.values():
        assert list(sequences) == list(range(1, len(sequences) + 1))
    for storage in replicas:
        await storage.close()


def _message(conversation_id: str) -> SendMessage:
    body = UserMessage(fresh("msg"), "user", "hi", "alice")
    return SendMessage("acme", conversation_id, body, Strategy.AFTER_TURN, fresh("run"), "")


@pytest.mark.parametrize("token", ["x", "AAAA", "ÄÖ"])
async def test_a_broken_token_is_named(beating: RunningStore, token: str) -> None:
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await Feed(beating, resume_token=token).read()
