"""LedgerService as its callers see it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from agentmesh.conversation_store.v1 import ledger_service_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from meshkit.errors import from_rpc_error
from meshkit.identity import SYSTEM, Principal
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, OTHER, acting

SPENT = usage_pb2.Usage(input_tokens=60, output_tokens=40, model_calls=1)
DAY_SECONDS = 24 * 3600

PRIVATE = conversation_pb2.CONVERSATION_VISIBILITY_PRIVATE


def _ledger(store: RunningStore) -> Any:
    return ledger_service_pb2_grpc.LedgerServiceStub(store.channel)


async def _put(store: RunningStore, principal: Principal = ACME, **fields: Any) -> Any:
    request = pb.PutTenantPolicyRequest(policy=pb.TenantPolicy(**fields))
    response = await _ledger(store).PutTenantPolicy(request, metadata=acting(principal))
    return response.policy


async def _usage(store: RunningStore, dimension: str, principal: Principal = ACME) -> Any:
    request = pb.SummarizeUsageRequest(
        dimension=pb.UsageDimension.Value(f"USAGE_DIMENSION_{dimension}")
    )
    response = await _ledger(store).SummarizeUsage(request, metadata=acting(principal))
    return {row.key: row.usage for row in response.rows}


async def test_usage_by_each_dimension_for_the_tenant_alone(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await turn.record(usage=SPENT, model="gpt")
    await turn.commit("COMPLETED")
    today = datetime.now(UTC).date().isoformat()
    keys = {
        "TOTAL": "",
        "DAY": today,
        "AGENT": "writer",
        "CONVERSATION": conversation.conversation_id,
        "MODEL": "gpt",
    }
    for dimension, key in keys.items():
        found = await _usage(store, dimension)
        if dimension != "DAY":  # the test may run over midnight
            assert found == {key: SPENT}
        assert list(found.values()) == [SPENT]
    assert (await store.get(conversation.conversation_id)).usage == SPENT
    assert list((await _usage(store, "AGENT", OTHER)).values()) == []
    assert (await _usage(store, "UNSPECIFIED"))[""] == SPENT


async def test_another_model_is_another_record(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await turn.record(usage=SPENT, model="gpt")
    await turn.record(usage=SPENT, model="gpt")
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "STEP_CONFLICT"):
        await turn.record(usage=SPENT, model="another")


async def test_pages_of_usage(store: RunningStore) -> None:
    worker = await store.worker()
    for number in range(3):
        await store.start_conversation()
        turn = await worker.granted()
        await turn.begin()
        await turn.record(usage=SPENT, model=f"m{number}")
        await turn.commit("COMPLETED")
    request = pb.SummarizeUsageRequest(dimension=pb.USAGE_DIMENSION_MODEL, page_size=2)
    first = await _ledger(store).SummarizeUsage(request, metadata=acting(ACME))
    assert [row.key for row in first.rows] == ["m0", "m1"]
    request.page_token = first.next_page_token
    second = await _ledger(store).SummarizeUsage(request, metadata=acting(ACME))
    assert [row.key for row in second.rows] == ["m2"]
    assert not second.next_page_token
    request.dimension = pb.USAGE_DIMENSION_AGENT
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="page_token"):
        await _ledger(store).SummarizeUsage(request, metadata=acting(ACME))


async def test_a_policy_over_the_wire(store: RunningStore) -> None:
    unset = (
        await _ledger(store).GetTenantPolicy(pb.GetTenantPolicyRequest(), metadata=acting(ACME))
    ).policy
    assert unset == pb.TenantPolicy(etag="v0", default_visibility=PRIVATE)
    limits: dict[str, Any] = {
        "max_active_runs": 3,
        "daily_budget": usage_pb2.Budget(max_tokens=5, max_turns=7, max_cost_micros=9),
        "retention_age": Duration(seconds=60),
        "retention_events": 11,
        "max_queued_runs": 13,
        "requests_per_second": 17,
        "requests_per_second_per_principal": 19,
        "max_open_streams": 23,
        "max_open_streams_per_principal": 29,
        "default_visibility": conversation_pb2.CONVERSATION_VISIBILITY_TENANT,
    }
    put = await _put(store, **limits, etag=unset.etag)
    assert put == pb.TenantPolicy(**limits, etag="v1")
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await _put(store, etag=unset.etag)
    other = await _ledger(store).GetTenantPolicy(
        pb.GetTenantPolicyRequest(), metadata=acting(OTHER)
    )
    assert other.policy == pb.TenantPolicy(etag="v0", default_visibility=PRIVATE)
    budget = usage_pb2.Budget(max_wall_time=Duration(seconds=1))
    with raises_rich(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        field="policy.daily_budget.max_wall_time",
    ):
        await _put(store, daily_budget=budget)
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await _put(store, Principal("op", "acme", 2))


async def test_the_days_end_says_when_the_next_one_begins(store: RunningStore) -> None:
    await _put(store, daily_budget=usage_pb2.Budget(max_tokens=100))
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await turn.begin(reservation=usage_pb2.Usage(input_tokens=101))
    error = from_rpc_error(refused.value)
    assert (error.code, error.reason_name) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "BUDGET_EXHAUSTED",
    )
    assert error.metadata["budget"] == "tenant_day"
    assert error.retry_after is not None
    assert 0 < error.retry_after <= DAY_SECONDS


async def test_a_full_queue_refuses_starts_and_messages_that_start(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.commit("COMPLETED")
    await _put(store, max_queued_runs=1)
    await worker.leave()
    await store.start_conversation()
    for refused in (store.start_conversation(), store.send(conversation.conversation_id, "more")):
        with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as caught:
            await refused
        assert caught.error.retry_after
        (quota,) = caught.error.quotas
        assert (quota.subject, quota.description) == ("tenant:acme", "1 runs waiting at once")


async def test_the_limit_of_active_runs_holds_between_turns(store: RunningStore) -> None:
    """A worker that may go on with the next turn holds its place; nobody else gets one."""
    await _put(store, max_active_runs=2)
    worker = await store.worker(max_turns=9)
    for _ in range(4):
        await store.start_conversation()
    turns = [await worker.granted(), await worker.granted()]
    await turns[0].take("RUNNABLE", want_next=True)
    await asyncio.sleep(5 * store.settings.lease_poll_seconds)
    held = sum(run_id in worker.held for run_id in (turn.run_id for turn in turns))
    assert held == 2
    assert worker.grants.qsize() <= 1  # the freed place, if the run went back to the queue
    await turns[1].take("COMPLETED")
    await worker.granted()


async def test_audit_is_read_by_its_tenant_newest_first(store: RunningStore) -> None:
    def record(tenant: str, seconds: int) -> pb.AuditRecord:
        return pb.AuditRecord(
            tenant=tenant,
            time=Timestamp(seconds=seconds),
            record_id=f"b:{seconds}",
            principal="alice",
            method="M",
            resource=f"r{seconds}",
            code="OK",
            peer="ipv4:1.2.3.4",
        )

    records = [record("acme", 1), record("other", 2), record("acme", 3), record("acme", 4)]
    batch = pb.AppendAuditRequest(batch_id="b", records=records)
    for _ in range(2):
        await _ledger(store).AppendAudit(batch, metadata=acting(SYSTEM))
    request = pb.ListAuditRequest(page_size=2)
    first = await _ledger(store).ListAudit(request, metadata=acting(ACME))
    assert _unplaced(first) == [records[3], records[2]]
    request.page_token = first.next_page_token
    second = await _ledger(store).ListAudit(request, metadata=acting(ACME))
    assert _unplaced(second) == [records[0]]
    assert not second.next_page_token
    span = pb.ListAuditRequest(from_time=Timestamp(seconds=2), to_time=Timestamp(seconds=4))
    found = await _ledger(store).ListAudit(span, metadata=acting(ACME))
    assert _unplaced(found) == [records[2]]
    found = await _ledger(store).ListAudit(pb.ListAuditRequest(), metadata=acting(OTHER))
    assert _unplaced(found) == [records[1]]
    backwards = pb.ListAuditRequest(from_time=Timestamp(seconds=4), to_time=Timestamp(seconds=2))
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="to_time"):
        await _ledger(store).ListAudit(backwards, metadata=acting(ACME))


def _unplaced(page: pb.ListAuditResponse) -> list[pb.AuditRecord]:
    """Without the places in the chain, which records get by and by."""
    for record in page.records:
        record.sequence = 0
    return list(page.records)
