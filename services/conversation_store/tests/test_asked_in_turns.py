"""What people are asked by a turn that is suspended for them: who may decide, until when, and what
they see; no call begins before."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh.conversation_store.v1 import approval_store_service_pb2 as approval_pb
from agentmesh.conversation_store.v1 import approval_store_service_pb2_grpc as approval_pb_grpc
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb
from meshkit.identity import CAPABILITY_HEADER, INTERNAL_HEADER, SYSTEM, InternalIdentity
from meshkit.roles import Role
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore, Turn
from services.conversation_store.tests.support import ACME, acting
from services.conversation_store.tests.test_approvals import (
    LATER,
    LONG_AGO,
    OPERATOR,
    get,
    resolve,
)
from services.conversation_store.tests.test_suspension import (
    WAITING,
    asks_for,
    id_of,
    suspend,
    suspended,
)
from services.conversation_store.tests.test_timers import after


@pytest.mark.parametrize(("lets_pass", "status"), [(False, "EXPIRED"), (True, "APPROVED")])
async def test_what_nobody_decides_ends_as_it_was_asked(
    store: RunningStore, lets_pass: bool, status: str
) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    await suspend(turn, asks_for(turn, expires_at=LONG_AGO, approve_on_expiry=lets_pass))
    worker.held.pop(turn.run_id)
    again = await worker.granted()
    (decision,) = again.grant.approvals
    assert event_pb2.ApprovalStatus.Name(decision.status) == f"APPROVAL_STATUS_{status}"
    assert decision.principal == ""
    assert bool(decision.comment) is lets_pass


async def test_what_nobody_decides_goes_to_a_higher_role(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    approval_id = id_of(turn, "call_1")
    await suspend(turn, asks_for(turn, escalate_at=after(0.3), escalate_to="admin"))
    asked = await get(store, approval_id)
    assert [asked.role, asked.escalate_to] == [int(Role.USER), int(Role.ADMIN)]
    assert asked.HasField("escalate_at")
    while (shown := await get(store, approval_id)).HasField("escalate_at"):
        await asyncio.sleep(0.02)
    assert shown.role == int(Role.ADMIN)
    assert shown.status == event_pb2.APPROVAL_STATUS_PENDING
    assert shown.HasField("escalated_at")
    told = [e for e in await store.log(shown.conversation_id) if e.HasField("approval_escalated")]
    (event,) = told
    assert event.approval_escalated == event_pb2.ApprovalEscalated(
        approval_id=approval_id, role="admin", previous_role="user"
    )
    assert (event.agent, event.origin) == ("writer", event_pb2.EVENT_ORIGIN_STORE)
    assert (await store.get(shown.conversation_id)).run.status == WAITING
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW") as refused:
        await resolve(store, approval_id, principal=OPERATOR)
    assert refused.error.metadata["required_role"] == "admin"
    await resolve(store, approval_id, principal=ACME)
    assert (await worker.granted()).grant.approvals[0].principal == "alice"


async def test_the_role_rises_at_its_time_though_nobody_looked_at_the_clock(tmp_path: Path) -> None:
    store = await RunningStore.start(tmp_path, sweep_seconds=60.0)
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    await suspend(turn, asks_for(turn, escalate_at=LONG_AGO, escalate_to="admin"))
    approval_id = id_of(turn, "call_1")
    assert (await get(store, approval_id)).HasField("escalate_at"), "the store looked at its clock"
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await resolve(store, approval_id, principal=OPERATOR)
    await resolve(store, approval_id, principal=ACME)
    await store.stop()


async def test_no_tool_call_begins_before_it_is_approved(store: RunningStore) -> None:
    worker = await store.worker()
    turn, ids = await suspended(store, worker, "yes", "no", "edited")
    await resolve(store, ids[0])
    await resolve(store, ids[1], "REJECTED")
    await resolve(store, ids[2], "EDITED", edited_arguments_json="{}")
    again = await worker.granted()
    await suspend(again, asks_for(again, "late", expires_at=LATER), asks_for(again, "later"))
    worker.held.pop(turn.run_id)
    await resolve(store, id_of(turn, "late"), "REJECTED")
    await resolve(store, id_of(turn, "later"))
    last = await worker.granted()
    runner = _as_tool_runner(store, last)
    for call, status in (("no", "rejected"), ("late", "rejected")):
        request = _tool_claim(last, call)
        with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "APPROVAL_REQUIRED") as refused:
            await store.turns.BeginStep(request, metadata=runner)
        assert refused.error.metadata["status"] == status
    for call in ("yes", "edited", "later", "never asked"):
        begun = await store.turns.BeginStep(_tool_claim(last, call), metadata=runner)
        assert begun.step.state == turn_pb.STEP_STATE_CLAIMED
    # That it was refused is for the runtime to record.
    begun = await last.begin("no", kind=turn_pb.STEP_KIND_TOOL)
    assert begun.step.state == turn_pb.STEP_STATE_CLAIMED


def _tool_claim(turn: Turn, call_id: str) -> turn_pb.BeginStepRequest:
    return turn_pb.BeginStepRequest(
        run_id=turn.run_id,
        turn=turn.grant.turn,
        step_key=call_id,
        kind=turn_pb.STEP_KIND_TOOL,
        request_digest=hashlib.sha256(call_id.encode()).digest(),
        attempt_id="runner",
    )


def _as_tool_runner(store: RunningStore, turn: Turn) -> Any:
    identity = InternalIdentity("tool_runner", store.settings)
    return ((INTERNAL_HEADER, identity.mint(SYSTEM)), (CAPABILITY_HEADER, turn.grant.capability))


async def test_who_decides_sees_what_led_to_the_request(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation(task="clean up")
    cid = conversation.conversation_id
    given_up = await worker.granted()
    await given_up.take()
    void = await worker.granted()
    await void.begin()
    await void.record(content="never mind")
    await store.send(cid, "only mine", strategy="DELIVERY_STRATEGY_INTERRUPT")
    turn = await worker.granted()
    await turn.begin()
    await turn.record(content="I would remove this")
    await suspend(turn, asks_for(turn))
    await store.send(cid, "said later")
    approval_id = id_of(turn, "call_1")
    for count, texts in (
        (0, []),
        (1, ["I would remove this"]),
        (100, ["clean up", "turn 1", "only mine", "I would remove this"]),
    ):
        assert await _context(store, approval_id, count) == texts
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await _context(store, approval_id, 101)


async def _context(store: RunningStore, approval_id: str, count: int) -> list[str]:
    stub: Any = approval_pb_grpc.ApprovalStoreServiceStub(store.channel)
    request = approval_pb.GetApprovalRequest(approval_id=approval_id, context_messages=count)
    response = await stub.GetApproval(request, metadata=acting(ACME))
    assert response.approval.approval_id == approval_id
    return [event.message.content for event in response.context]
