"""What may come twice, or from somebody else than the one it belongs to (G1, G3, G4, G11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.changes import Changes, Decision, Loaded, Scope
from agentmesh_conversation_store.domain.conversations import CancelConversation
from agentmesh_conversation_store.domain.model import Run
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.usage import Usage
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sql.plan import Plan, Session, fetch
from agentmesh_conversation_store.storage.sql.unit import Item

from services.conversation_store.tests.ledger import allow
from services.conversation_store.tests.support import ManualClock, start_command
from services.conversation_store.tests.work import LEASE, begin, commit, leased, record, release

ANOTHER = b"another".ljust(32)


async def _log(storage: Storage, run: Run) -> Any:
    return await storage.events("acme", run.conversation_id, 0, 1000, 10**9)


async def _next_attempt(storage: Storage, run: Run, clock: ManualClock) -> Run:
    """The lease is given back, and the run granted again."""
    await storage.execute(release(run))
    clock.advance(60)
    (again,) = await storage.grant({"v": 1}, LEASE)
    assert again.run_id == run.run_id
    assert again.fence > run.fence
    return again


async def test_a_step_is_recorded_for_the_request_that_was_claimed(storage: Storage) -> None:
    run = await leased(storage)
    await storage.execute(begin(run))
    before = await _log(storage, run)
    with pytest.raises(Rejection) as refused:
        await storage.execute(record(run, request_digest=ANOTHER))
    assert refused.value.reason is Reason.STEP_CONFLICT
    assert refused.value.metadata["difference"] == "request_digest"
    assert await _log(storage, run) == before
    await storage.execute(record(run))


async def test_a_recorded_step_is_recorded_once_under_any_fence(
    storage: Storage, clock: ManualClock
) -> None:
    run = await leased(storage)
    await storage.execute(begin(run))
    first = await storage.execute(record(run, record={"result": "said"}))
    again = await _next_attempt(storage, run, clock)
    before = await _log(storage, run)
    assert await storage.execute(record(again, record={"result": "said"})) == first
    for changes in ({"record": {"result": "else"}}, {"request_digest": ANOTHER}):
        with pytest.raises(Rejection) as refused:
            await storage.execute(replace(record(again, record={"result": "said"}), **changes))
        assert refused.value.reason is Reason.STEP_CONFLICT
    assert await _log(storage, run) == before
    (granted,) = await storage.granted_turns([again], 0)
    assert [step.result for step in granted.steps] == [b"said"]


async def test_only_who_committed_a_turn_may_ask_again_how_it_went(storage: Storage) -> None:
    run = await leased(storage)
    committed = commit(run)
    first = await storage.execute(committed)
    assert await storage.execute(committed) == first
    (successor,) = await storage.grant({"v": 1}, LEASE)
    before = await _log(storage, run)
    with pytest.raises(Rejection) as refused:
        await storage.execute(replace(committed, fence=successor.fence))
    assert refused.value.reason is Reason.TURN_GAP
    for fence in (0, successor.fence + 1):
        with pytest.raises(Rejection) as stale:
            await storage.execute(replace(committed, fence=fence))
        assert stale.value.reason is Reason.STALE_FENCE
    assert await _log(storage, run) == before


class _Overwriting:
    """A defect: an event without words, at the place of another one."""

    def __init__(self, run: Run) -> None:
        self._cancel = CancelConversation("acme", run.conversation_id, "")

    @property
    def scope(self) -> Scope:
        return self._cancel.scope

    def decide(self, loaded: Loaded, now: int) -> Decision[object]:
        changes = self._cancel.decide(loaded, now).changes
        event = replace(changes.events[0], sequence=1)
        return Decision(Changes(conversation=changes.conversation, events=[event]), None)


async def test_an_event_is_never_overwritten(storage: Storage) -> None:
    run = await leased(storage)
    before = await _log(storage, run)
    with pytest.raises(Exception, match=r"(?i)unique"):
        await storage.execute(_Overwriting(run))
    assert await _log(storage, run) == before


# --- two replicas ----------------------------------------------------------------------------


@pytest_asyncio.fixture
async def pair(postgres_url: str, clock: ManualClock) -> AsyncIterator[list[PostgresStorage]]:
    """Two replicas on one Postgres."""
    opened = [PostgresStorage(postgres_url, ProtobufEvents(), clock=clock) for _ in range(2)]
    for storage in opened:
        await storage.open()
    yield opened
    for storage in opened:
        await storage.close()


@asynccontextmanager
async def _day_of(postgres_url: str, tenant: str) -> AsyncIterator[Any]:
    """A transaction that holds the row of a tenant's day, as a third replica would."""
    settings = {"agentmesh.tenants": '{"*"}'}
    connection = await asyncpg.connect(postgres_url, server_settings=settings)
    try:
        async with connection.transaction():
            held = await connection.fetch(
                "SELECT 1 FROM tenant_days WHERE tenant = $1 FOR UPDATE", tenant
            )
            assert held, "there is a row to hold"
            yield connection
    finally:
        await connection.close()


async def test_a_reservation_waits_for_what_another_replica_spends(
    pair: list[PostgresStorage], postgres_url: str
) -> None:
    storage = pair[0]
    await allow(storage, max_tokens=250)
    run = await leased(storage)
    async with _day_of(postgres_url, "acme") as third:
        claim = asyncio.create_task(
            storage.execute(begin(run, reservation=Usage(input_tokens=120)))
        )
        await asyncio.wait([claim], timeout=0.3)
        assert not claim.done(), "the day may have no room when the third replica has committed"
        await third.execute(
            "UPDATE tenant_days SET reserved_tokens = reserved_tokens + 200 WHERE tenant = 'acme'"
        )
    with pytest.raises(Rejection) as refused:
        await claim
    assert refused.value.reason is Reason.BUDGET_EXHAUSTED


async def test_the_feed_has_nothing_before_what_another_replica_still_commits(
    pair: list[PostgresStorage], postgres_url: str
) -> None:
    """Whoever takes positions of the feed first commits first: a reader passes nothing."""
    one, two = pair
    await allow(one, "gate", max_tokens=1)
    early, late = start_command(), start_command()

    def slow(session: Session) -> Plan[None]:
        yield from one._unit.carry_out(session, [Item(early)])
        yield from fetch("SELECT 1 FROM tenant_days WHERE tenant = 'gate' FOR UPDATE")

    async with _day_of(postgres_url, "gate"):
        first = asyncio.create_task(one._write(("*",), slow))
        await asyncio.wait([first], timeout=0.3)
        second = asyncio.create_task(two.execute(late))
        await asyncio.wait([first, second], timeout=0.3)
        assert not (await two.feed("acme", 0, 100, 10**9)).events
        assert not second.done()
    await asyncio.gather(first, second)
    events = (await two.feed("acme", 0, 100, 10**9)).events
    told = list(dict.fromkeys(event.conversation_id for event in events))
    assert told == [early.conversation_id, late.conversation_id]
    assert [event.position for event in events] == list(range(1, len(events) + 1))
