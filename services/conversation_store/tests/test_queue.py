"""The queue in every storage, at size: two replicas choose at once, tenants have limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from agentmesh_conversation_store.domain.attempts import Tick
from agentmesh_conversation_store.domain.conversations import CancelConversation
from agentmesh_conversation_store.domain.ledger import TenantPolicy
from agentmesh_conversation_store.domain.model import SECOND, Run, RunStatus
from agentmesh_conversation_store.domain.turns import NextTurn
from agentmesh_conversation_store.domain.usage import Budget
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sql.plan import FetchEach

from services.conversation_store.tests.support import ManualClock, start_command
from services.conversation_store.tests.work import LEASE, RETRIES, commit, release


async def _start(storage: Storage, count: int, tenant: str = "acme", **changes: Any) -> None:
    await asyncio.gather(*(storage.execute(start_command(tenant, **changes)) for _ in range(count)))


async def _limit(storage: Storage, runs: int | None, tenant: str = "acme") -> None:
    await storage.put_tenant_policy(TenantPolicy(tenant, max_active_runs=runs), "")


async def _grants(replicas: Sequence[Storage], rounds: int, places: int) -> list[Run]:
    """What many grants at once gave out, from both replicas."""
    found = await asyncio.gather(
        *(replicas[n % 2].grant({f"w{n % 4}": places}, LEASE) for n in range(rounds))
    )
    return [run for runs in found for run in runs]


async def test_replicas_that_grant_at_once_grant_each_run_once(replicas: list[Storage]) -> None:
    await _start(replicas[0], 40)
    await _start(replicas[0], 40, "other")
    granted = await _grants(replicas, 24, 5)
    assert len(granted) == 80
    assert len({run.run_id for run in granted}) == 80
    assert {run.fence for run in granted} == {1}


@pytest.mark.parametrize("replicas", ["postgres"], indirect=True)
async def test_a_run_that_ends_while_it_is_chosen_is_not_granted(
    replicas: list[Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's writer is alone: nothing can happen there between choosing and taking."""
    granting, cancelling = replicas
    assert isinstance(granting, PostgresStorage)
    views = [await granting.execute(start_command()) for _ in range(2)]
    names = {view.run.run_id: view.conversation.conversation_id for view in views}
    carry_out = granting._driver._carry_out
    cancelled: list[Run] = []

    async def with_a_pause(connection: Any, operation: Any) -> Any:
        if isinstance(operation, FetchEach) and "SKIP LOCKED" in operation.sql:
            tenant, run_id = operation.arguments[0][:2]
            await cancelling.execute(CancelConversation(tenant, names[run_id], "enough"))
            cancelled.append((await cancelling.conversation(tenant, names[run_id])).run)
        return await carry_out(connection, operation)

    monkeypatch.setattr(granting._driver, "_carry_out", with_a_pause)
    granted = await granting.grant({"w": 2}, LEASE)
    (ended,) = cancelled
    assert [run.run_id for run in granted] == [name for name in names if name != ended.run_id]
    assert (await cancelling.conversation(ended.tenant, ended.conversation_id)).run == ended


async def test_replicas_together_keep_the_limit_of_active_runs(replicas: list[Storage]) -> None:
    await _limit(replicas[0], 7)
    await _start(replicas[0], 30)
    await _start(replicas[0], 5, "free")
    active: dict[str, Run] = {}
    for _ in range(6):
        granted = await _grants(replicas, 8, 3)
        assert not active.keys() & {run.run_id for run in granted}
        active |= {run.run_id: run for run in granted if run.tenant == "acme"}
        assert len(active) == 7
        done = [active.pop(run_id) for run_id in list(active)[:3]]
        commits = [
            replicas[n % 2].execute(commit(run, status=RunStatus.COMPLETED))
            for n, run in enumerate(done)
        ]
        # While turns end, others are given out: never more than there is room for.
        granted, _ = await asyncio.gather(_grants(replicas, 4, 3), asyncio.gather(*commits))
        active |= {run.run_id: run for run in granted if run.tenant == "acme"}
        assert len(active) <= 7


async def test_a_flood_of_one_tenant_does_not_starve_another(replicas: list[Storage]) -> None:
    await _start(replicas[0], 1000, "flood")
    busy = await replicas[1].grant({"w": 32}, LEASE)
    assert len(busy) == 32
    await _start(replicas[0], 1, "quiet")
    (first,) = await replicas[1].grant({"w": 1}, LEASE)
    assert first.tenant == "quiet"


async def test_places_go_round_among_tenants(storage: Storage) -> None:
    for number in range(10):
        await _start(storage, 20, f"t{number}")
    granted = await storage.grant({"w": 30}, LEASE)
    assert set(Counter(run.tenant for run in granted).values()) == {3}


async def test_a_tenant_alone_gets_all_places_by_priority(storage: Storage) -> None:
    for priority in (0, 5, -1):
        await _start(storage, 30, priority=priority)
    for number in range(20):
        await _start(storage, 1, f"t{number}")
    granted = await storage.grant({"a": 40, "b": 30}, LEASE)
    assert Counter(run.lease_worker for run in granted) == {"a": 40, "b": 30}
    priorities = [run.priority for run in granted if run.tenant == "acme"]
    assert priorities == [5] * 30 + [0] * 20


async def test_of_very_many_tenants_each_has_its_turn(storage: Storage) -> None:
    for number in range(300):
        await storage.execute(start_command(f"t{number}"))
    seen: set[str] = set()
    for _ in range(75):
        granted = await storage.grant({"w": 4}, LEASE)
        seen |= {run.tenant for run in granted}
    assert len(seen) == 300


async def test_a_lease_that_ran_out_is_not_revived_beyond_the_limit(
    storage: Storage, clock: ManualClock
) -> None:
    await _limit(storage, 1)
    await _start(storage, 2)
    (late,) = await storage.grant({"late": 1}, LEASE)
    clock.advance(6)
    await storage.execute(Tick("acme", late.conversation_id, late.run_id, RETRIES))
    granted = await storage.grant({"quick": 2}, LEASE)
    assert len(granted) == 1
    if granted[0].run_id == late.run_id:
        return  # it was given out again itself: nothing to revive
    renewal = await storage.renew("late", [(late.run_id, late.fence)], LEASE)
    assert not renewal.kept
    assert [lost.run_id for lost in renewal.lost] == [late.run_id]
    await _limit(storage, 2)
    renewal = await storage.renew("late", [(late.run_id, late.fence)], LEASE)
    assert renewal.kept == [(late.run_id, late.fence)]


@pytest.mark.parametrize(
    ("policy", "goes_on"),
    [
        (TenantPolicy("acme", max_active_runs=2), True),
        (TenantPolicy("acme", max_active_runs=1), False),
        (TenantPolicy("acme", daily_budget=Budget(max_turns=100)), False),
        (TenantPolicy("acme", daily_budget=Budget(max_tokens=100)), True),
        (TenantPolicy("other", max_active_runs=1), True),
    ],
)
async def test_limits_that_a_next_turn_would_pass_by_send_the_run_to_the_queue(
    storage: Storage, policy: TenantPolicy, *, goes_on: bool
) -> None:
    await _start(storage, 2)
    run, _ = await storage.grant({"w": 2}, LEASE)
    await storage.put_tenant_policy(policy, "")
    outcome = await storage.execute(commit(run, next_turn=NextTurn("w", LEASE)))
    assert (outcome.next is not None) is goes_on


@pytest.mark.parametrize("rival", ["acme", "other"])
async def test_who_waits_for_a_worker_comes_before_the_next_turn(
    storage: Storage, clock: ManualClock, rival: str
) -> None:
    """Of whichever tenant: what one of them sees of the others does not count here."""
    await _start(storage, 1)
    (run,) = await storage.grant({"w": 1}, LEASE)
    await _start(storage, 1, rival)
    outcome = await storage.execute(commit(run, next_turn=NextTurn("w", LEASE)))
    assert outcome.next is not None, "it has hardly begun to wait"
    clock.advance(1)
    again = outcome.next
    outcome = await storage.execute(commit(again, next_turn=NextTurn("w", LEASE)))
    assert outcome.next is None


async def test_a_commit_after_its_lease_ran_out_goes_to_the_queue(
    storage: Storage, clock: ManualClock
) -> None:
    await _start(storage, 1)
    (run,) = await storage.grant({"w": 1}, LEASE)
    clock.advance(6)
    await storage.execute(Tick("acme", run.conversation_id, run.run_id, RETRIES))
    outcome = await storage.execute(commit(run, next_turn=NextTurn("w", LEASE)))
    assert outcome.next is None


async def test_failed_turns_back_off_twice_as_long_each_time_and_end_as_dead_letters(
    storage: Storage, clock: ManualClock
) -> None:
    await _start(storage, 1)
    for delay in (1, 2):
        (run,) = await storage.grant({"w": 1}, LEASE)
        await storage.execute(release(run, failed=True))
        clock.advance(delay - 0.001)
        assert not await storage.grant({"w": 1}, LEASE)
        clock.advance(0.001)
    (run,) = await storage.grant({"w": 1}, LEASE)
    assert await storage.execute(release(run, failed=True)) is RunStatus.DEAD_LETTER
    clock.advance(3600)
    assert not await storage.grant({"w": 1}, LEASE)


async def test_only_the_end_of_its_newest_stream_shortens_the_leases_of_a_worker(
    storage: Storage, clock: ManualClock
) -> None:
    """The end of an older one may be noticed late, when the worker is back on another replica."""
    await _start(storage, 2)
    await storage.open_lease_stream("w", "older")
    await storage.open_lease_stream("v", "another")
    (left,) = await storage.grant({"w": 1}, LEASE)
    (other,) = await storage.grant({"v": 1}, LEASE)
    await storage.open_lease_stream("w", "newer")
    await storage.end_lease_stream("w", "older", SECOND // 2)
    clock.advance(1)
    assert not await storage.due(expired=True, limit=9)
    await storage.end_lease_stream("w", "newer", SECOND // 2)
    clock.advance(1)
    due = await storage.due(expired=True, limit=9)
    assert [one.run_id for one in due] == [left.run_id]
    clock.advance(6)
    await storage.end_lease_stream("w", "newer", 60 * SECOND)
    due = await storage.due(expired=True, limit=9)
    assert {one.run_id for one in due} == {left.run_id, other.run_id}
