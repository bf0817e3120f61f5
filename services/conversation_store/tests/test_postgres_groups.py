"""What the Postgres writer puts into one transaction, and in what order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from itertools import combinations
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import MessageSent, SendMessage
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import Strategy
from agentmesh_conversation_store.storage.postgres import PostgresStorage, writer
from agentmesh_conversation_store.storage.requests import Request
from agentmesh_conversation_store.storage.sql.plan import Plan, Session
from agentmesh_conversation_store.storage.sql.unit import Item, Unit

from services.conversation_store.tests.support import fresh, start_command


class WatchedUnit:
    """The unit that carries out groups; which were given out, and which beside each other."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.groups: list[list[Item[Any]]] = []
        self.beside: list[tuple[list[Item[Any]], list[Item[Any]]]] = []
        self._running: list[list[Item[Any]]] = []

    def carry_out(self, session: Session, items: Sequence[Item[Any]]) -> Plan[None]:
        """As the unit does."""
        group = list(items)
        self.beside += [(group, other) for other in self._running]
        self.groups.append(group)
        self._running.append(group)
        try:
            yield from self._unit.carry_out(session, items)
        finally:
            self._running = [other for other in self._running if other is not group]


@pytest_asyncio.fixture
async def storage(postgres_url: str) -> AsyncIterator[PostgresStorage]:
    opened = PostgresStorage(postgres_url, ProtobufEvents(), writers=4)
    await opened.open()
    yield opened
    await opened.close()


def watch(storage: PostgresStorage) -> WatchedUnit:
    """From now on."""
    watched = WatchedUnit(storage._unit)
    storage._writer._unit = watched  # type: ignore[assignment]  # as a unit
    return watched


async def start(storage: PostgresStorage, count: int) -> list[str]:
    """So many conversations."""
    started = await asyncio.gather(*(storage.execute(start_command()) for _ in range(count)))
    return [view.conversation.conversation_id for view in started]


def message(conversation_id: str, content: str = "hi") -> SendMessage:
    """One to a conversation."""
    body = UserMessage(fresh("msg"), "user", content, "alice")
    return SendMessage("acme", conversation_id, body, Strategy.AFTER_TURN, fresh("run"), "")


def sent(answer: MessageSent) -> bytes:
    """An answer as it is kept for repetitions."""
    return f"{answer.sequence}".encode()


async def length(storage: PostgresStorage, conversation_id: str) -> int:
    """Of a conversation's log."""
    return len(await storage.events("acme", conversation_id, 0, 1000, 10**9))


def keys(item: Item[Any]) -> set[tuple[str, ...]]:
    """What no two of a group may have in common."""
    of_request = {("request", *item.request.key)} if item.request is not None else set()
    return {("conversation", *item.key), *of_request}


async def test_nothing_in_a_group_or_beside_it_is_of_the_same_conversation_or_request(
    storage: PostgresStorage,
) -> None:
    ids = await start(storage, 8)
    watched = watch(storage)
    chance = random.Random(3)
    requests = [Request("acme", f"r{number}", b"digest", sent) for number in range(40)]
    of_request = {request.request_id: chance.choice(ids) for request in requests}
    early = [storage.execute(message(chance.choice(ids[:4]))) for _ in range(100)]
    late: list[Awaitable[object]] = [
        storage.execute(message(chance.choice(ids))) for _ in range(100)
    ]
    late += [
        storage.execute_once(message(of_request[request.request_id]), request)
        for request in requests
        for _ in range(3)
    ]
    chance.shuffle(late)
    begun = asyncio.gather(*early)
    while not watched.groups:
        await asyncio.sleep(0)
    await asyncio.gather(begun, *late)
    for group in watched.groups:
        for one, other in combinations(group, 2):
            assert not keys(one) & keys(other)
    for left, right in watched.beside:
        for one in left:
            assert not any(keys(one) & keys(other) for other in right)
    assert watched.beside, "several are carried out at once"
    carried_out = [item for group in watched.groups for item in group]
    assert len(carried_out) == len(early) + len(late), (
        "no group was refused and tried again one by one"
    )


async def test_operations_of_a_conversation_keep_their_order(
    storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some are looked at only after others were put back.
    monkeypatch.setattr(writer, "MAX_LOOK_AHEAD", 8)
    [busy, *others] = await start(storage, 5)
    watched = watch(storage)
    contents = [str(number) for number in range(100)]
    work = []
    for content in contents:
        work.append(storage.execute(message(busy, content)))
        work.append(storage.execute(message(others[len(work) % len(others)])))
    answers = await asyncio.gather(*work)
    sequences = [answer.sequence for answer in answers[::2]]
    assert sequences == sorted(sequences)
    assert max(map(len, watched.groups)) > 1


async def test_what_waits_for_another_is_not_overtaken_by_what_waits_for_both(
    storage: PostgresStorage,
) -> None:
    """The second waits for the first one's conversation; the third has the second one's request."""
    ids = await start(storage, 2)
    before = [await length(storage, each) for each in ids]
    watched = watch(storage)
    request = Request("acme", "r1", b"digest", sent)
    await asyncio.gather(
        storage.execute(message(ids[0])),
        storage.execute_once(message(ids[0]), request),
        storage.execute_once(message(ids[1]), request),
    )
    after = [await length(storage, each) for each in ids]
    assert after == [before[0] + 2, before[1]], "the second came before the third"
    assert [len(group) for group in watched.groups] == [1, 1, 1]
