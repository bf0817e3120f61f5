"""What a tenant may consume in a day, in every storage."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from agentmesh_conversation_store.domain.ledger import (
    DAY,
    Dimension,
    TenantPolicy,
)
from agentmesh_conversation_store.domain.model import SECOND, EndReason, Run, RunStatus
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.usage import NO_USAGE, Budget, Usage
from agentmesh_conversation_store.storage.interface import (
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request

from services.conversation_store.tests.ledger import agrees, allow, sums
from services.conversation_store.tests.support import ManualClock, start_command
from services.conversation_store.tests.work import (
    LEASE,
    begin,
    commit,
    leased,
    record,
    release,
)

# --- policies --------------------------------------------------------------------------------


async def test_a_policy_is_replaced_under_its_etag(storage: Storage) -> None:
    assert await storage.tenant_policy("acme") == TenantPolicy("acme")
    wanted = TenantPolicy("acme", 3, Budget(max_tokens=9), 5 * DAY, 100)
    put = await storage.put_tenant_policy(wanted, "v0")
    assert put == replace(wanted, version=1) == await storage.tenant_policy("acme")
    with pytest.raises(Rejection) as refused:
        await storage.put_tenant_policy(wanted, "v0")
    assert refused.value.reason is Reason.ETAG_MISMATCH
    assert refused.value.metadata["current_etag"] == "v1"
    await storage.put_tenant_policy(TenantPolicy("acme"), "v1")
    assert await storage.tenant_policy("acme") == TenantPolicy("acme", version=2)
    assert await storage.tenant_policy("other") == TenantPolicy("other")


async def test_one_of_many_first_policies_wins(replicas: list[Storage]) -> None:
    async def put(number: int) -> bool:
        wanted = TenantPolicy("acme", max_active_runs=number)
        try:
            await replicas[number % 2].put_tenant_policy(wanted, "v0")
        except Rejection as rejection:
            return rejection.reason is not Reason.ETAG_MISMATCH
        return True

    assert sum(await asyncio.gather(*(put(number) for number in range(1, 9)))) == 1


async def test_tenants_with_retention_are_known(storage: Storage) -> None:
    await storage.put_tenant_policy(TenantPolicy("aged", retention_age=DAY), "")
    await storage.put_tenant_policy(TenantPolicy("counted", retention_events=5), "")
    await storage.put_tenant_policy(TenantPolicy("limited", max_active_runs=5), "")
    assert await storage.tenants_with_retention() == ["aged", "counted"]


async def test_a_repeated_policy_request_answers_as_the_first_time(storage: Storage) -> None:
    request: Request[TenantPolicy] = Request("acme", "r", b"d", lambda p: p.etag.encode())
    wanted = TenantPolicy("acme", max_active_runs=1)
    assert await storage.put_tenant_policy(wanted, "", request) == b"v1"
    assert await storage.put_tenant_policy(wanted, "", request) == b"v1"
    assert (await storage.tenant_policy("acme")).version == 1


# --- days ------------------------------------------------------------------------------------


async def test_a_step_that_does_not_fit_into_the_day_is_refused(
    storage: Storage, clock: ManualClock
) -> None:
    await allow(storage, max_tokens=250)
    run = await leased(storage)
    await storage.execute(begin(run, "1", reservation=Usage(input_tokens=120)))
    await storage.execute(begin(run, "2", reservation=Usage(input_tokens=120)))
    with pytest.raises(Rejection) as refused:
        await storage.execute(begin(run, "3", reservation=Usage(input_tokens=120)))
    assert refused.value.reason is Reason.BUDGET_EXHAUSTED
    assert refused.value.metadata["budget"] == "tenant_day"
    assert refused.value.retry_after == (DAY - clock.now % DAY) / SECOND
    await storage.execute(record(run, "1"))  # 100 used, 120 reserved
    await storage.execute(begin(run, "3", reservation=Usage(input_tokens=30)))
    with pytest.raises(Rejection):
        await storage.execute(begin(run, "4", reservation=NO_USAGE))


async def test_cost_bounds_a_day_too(storage: Storage) -> None:
    await allow(storage, max_cost_micros=10)
    run = await leased(storage)
    await storage.execute(begin(run, "1", reservation=Usage(cost_micros=8)))
    with pytest.raises(Rejection, match="cost"):
        await storage.execute(begin(run, "2", reservation=Usage(cost_micros=8)))


async def test_a_day_that_is_used_up_grants_nothing_until_midnight(
    storage: Storage, clock: ManualClock
) -> None:
    await allow(storage, max_tokens=100)
    run = await leased(storage)
    await storage.execute(start_command())
    await storage.execute(begin(run))
    await storage.execute(record(run))
    await storage.execute(start_command("other"))
    granted = await storage.grant({"w": 9}, LEASE)
    assert [one.tenant for one in granted] == ["other"]
    clock.now += DAY - clock.now % DAY - 1
    assert not await storage.grant({"w": 9}, LEASE)
    clock.now += 1
    (tomorrow,) = await storage.grant({"w": 9}, LEASE)
    await storage.execute(begin(tomorrow, reservation=Usage(input_tokens=100)))


async def test_a_day_that_is_used_up_begins_nothing_new(
    storage: Storage, clock: ManualClock
) -> None:
    await allow(storage, max_tokens=100)
    run = await leased(storage)
    await storage.execute(begin(run, reservation=Usage(input_tokens=100)))
    await storage.execute(start_command())  # what is reserved may come back
    await storage.execute(record(run))
    with pytest.raises(Rejection) as refused:
        await storage.execute(start_command())
    assert refused.value.reason is Reason.BUDGET_EXHAUSTED
    assert refused.value.metadata["budget"] == "tenant_day"
    assert refused.value.retry_after == (DAY - clock.now % DAY) / SECOND
    assert refused.value.quota == ("tenant:acme", "the daily budget: 100 of 100 tokens")
    clock.now += DAY
    await storage.execute(start_command())


async def test_turns_and_cost_use_up_a_day_too(storage: Storage) -> None:
    await allow(storage, max_turns=1)
    await storage.execute(commit(await leased(storage)))
    with pytest.raises(Rejection, match="turns"):
        await storage.execute(start_command())
    await allow(storage, max_cost_micros=1)
    run = await leased(storage)
    await storage.execute(begin(run))
    await storage.execute(record(run, usage=Usage(cost_micros=1)))
    with pytest.raises(Rejection, match="cost"):
        await storage.execute(start_command())


# --- the queue -------------------------------------------------------------------------------


async def test_a_full_queue_takes_no_more_runs(storage: Storage) -> None:
    await storage.put_tenant_policy(TenantPolicy("acme", max_queued_runs=2), "")
    for _ in range(2):
        await storage.execute(start_command())
    with pytest.raises(Rejection) as refused:
        await storage.execute(start_command())
    assert refused.value.reason is Reason.QUOTA_EXCEEDED
    assert refused.value.quota == ("tenant:acme", "2 runs waiting at once")
    assert refused.value.retry_after
    await storage.execute(start_command("other"))
    granted = await storage.grant({"w": 1}, LEASE)
    await storage.execute(start_command(granted[0].tenant))
    with pytest.raises(Rejection):
        await storage.execute(start_command("acme"))


async def test_what_waits_of_itself_is_not_refused(storage: Storage) -> None:
    """A run that goes back to the queue was let in long ago."""
    await storage.put_tenant_policy(TenantPolicy("acme", max_queued_runs=1), "")
    run = await leased(storage)
    await storage.execute(start_command())
    await storage.execute(commit(run, status=RunStatus.RUNNABLE))
    assert len(await storage.grant({"w": 9}, LEASE)) == 2


async def test_replicas_do_not_overfill_a_queue(replicas: list[Storage]) -> None:
    await replicas[0].put_tenant_policy(TenantPolicy("acme", max_queued_runs=7), "")

    async def start(number: int) -> bool:
        try:
            await replicas[number % 2].execute(start_command())
        except Rejection as rejection:
            if rejection.reason is not Reason.QUOTA_EXCEEDED:
                raise
            return False
        return True

    assert sum(await asyncio.gather(*(start(number) for number in range(30)))) == 7


async def test_reservations_hold_over_midnight(storage: Storage, clock: ManualClock) -> None:
    await allow(storage, max_tokens=100)
    run = await leased(storage)
    await storage.execute(begin(run, reservation=Usage(input_tokens=60)))
    clock.now += DAY
    with pytest.raises(Rejection):
        await storage.execute(begin(run, "more", reservation=Usage(input_tokens=60)))


async def test_a_run_that_met_the_days_end_waits_and_shows_it(
    storage: Storage, clock: ManualClock
) -> None:
    await allow(storage, max_tokens=10)
    run = await leased(storage)
    given_back = release(
        run, detail="the day is used up", reason=EndReason.BUDGET, retry_after=3600 * SECOND
    )
    await storage.execute(given_back)
    waiting = (await storage.conversation("acme", run.conversation_id)).run
    assert (waiting.status, waiting.detail) == (RunStatus.RUNNABLE, "the day is used up")
    assert not await storage.grant({"w": 1}, LEASE)
    await allow(storage, max_tokens=1000)  # a raised budget lets it go on at once
    (again,) = await storage.grant({"w": 1}, LEASE)
    assert (again.run_id, again.attempt, again.detail) == (run.run_id, 1, "")


async def test_turns_of_a_day_are_counted_where_they_are_granted(storage: Storage) -> None:
    await allow(storage, max_turns=3)
    for _ in range(5):
        await storage.execute(start_command())
    granted = await storage.grant({"w": 9}, LEASE)
    assert len(granted) == 3
    for run in granted:
        await storage.execute(commit(run))
    assert not await storage.grant({"w": 9}, LEASE)


async def test_overspend_is_at_most_what_open_steps_reserved(replicas: list[Storage]) -> None:
    """Each step may use twice what it reserved. Whatever the order in which two replicas carry
    out what comes at once, no reservation is made that does not fit."""
    budget, wanted = 1000, 90
    await allow(replicas[0], max_tokens=budget)
    for _ in range(24):
        await replicas[0].execute(start_command())
    runs = await replicas[0].grant({"w": 24}, LEASE)
    spent = Usage(input_tokens=2 * wanted)
    refusals = 0

    async def work(number: int, run: Run) -> None:
        nonlocal refusals
        storage = replicas[number % 2]
        for step in range(3):
            key = f"{step}"
            try:
                await storage.execute(begin(run, key, reservation=Usage(input_tokens=wanted)))
            except Rejection as rejection:
                refusals += rejection.metadata["budget"] == "tenant_day"
                continue
            await asyncio.sleep(0)
            await storage.execute(record(run, key, usage=spent))

    await asyncio.gather(*(work(number, run) for number, run in enumerate(runs)))
    used = (await sums(replicas[0], Dimension.TOTAL))[""].tokens
    assert refusals
    assert used > budget - wanted  # the day was really used
    # When the last reservation was made, what was used and held with it was within the budget.
    most_open = budget // wanted
    assert used <= budget + most_open * wanted
    await agrees(replicas[0], *(run.conversation_id for run in runs))


async def test_reservations_made_at_once_fit_together(replicas: list[Storage]) -> None:
    await allow(replicas[0], max_tokens=1000)
    for _ in range(40):
        await replicas[0].execute(start_command())
    runs = await replicas[0].grant({"w": 40}, LEASE)
    claims = [
        replicas[number % 2].execute(begin(run, reservation=Usage(output_tokens=90)))
        for number, run in enumerate(runs)
    ]
    answers = await asyncio.gather(*claims, return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1000 // 90
    assert all(isinstance(a, Rejection) for a in answers if isinstance(a, BaseException))
