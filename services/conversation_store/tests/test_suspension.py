"""Turns that are given back in their middle, over gRPC."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb
from google.protobuf.duration_pb2 import Duration
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import LeasedWorker, RunningStore, Turn
from services.conversation_store.tests.support import ACME, acting, dense, store_pb, team
from services.conversation_store.tests.test_approvals import (
    LATER,
    asks,
    get,
    question,
    resolutions,
    resolve,
)

APPROVAL = conversation_pb2.WAIT_KIND_APPROVAL
CHILDREN = conversation_pb2.WAIT_KIND_CHILDREN
RUNNABLE = conversation_pb2.RUN_STATUS_RUNNABLE
WAITING = conversation_pb2.RUN_STATUS_WAITING


def call_of(call_id: str = "call_1") -> message_pb2.ToolCallPart:
    return message_pb2.ToolCallPart(tool_call_id=call_id, tool="rm", arguments_json="{}")


def id_of(turn: Turn, call_id: str) -> str:
    """As the contract says."""
    name = f"{turn.run_id}/{turn.grant.turn}/{call_id}"
    return f"appr_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def asks_for(turn: Turn, call_id: str = "call_1", **fields: Any) -> event_pb2.Event:
    """A request about a tool call of the turn."""
    return asks(id_of(turn, call_id), **({"tool_call": call_of(call_id)} | fields))


async def suspend(turn: Turn, /, *events: event_pb2.Event, **fields: Any) -> Any:
    """Gives the turn back in its middle."""
    values: dict[str, Any] = {
        "run_id": turn.run_id,
        "turn": turn.grant.turn,
        "waiting_for": APPROVAL,
        "events": events,
    }
    request = turn_pb.SuspendTurnRequest(**(values | fields))
    return await turn.store.turns.SuspendTurn(request, metadata=turn.metadata)


async def suspended(
    store: RunningStore, worker: LeasedWorker, *calls: str, **fields: Any
) -> tuple[Turn, list[str]]:
    """A turn with one recorded step that waits for people."""
    await store.start_conversation(**fields)
    turn = await worker.granted()
    await turn.begin()
    await turn.record(content="let me see")
    wanted = calls or ("call_1",)
    response = await suspend(turn, *(asks_for(turn, call) for call in wanted))
    assert response.status == WAITING
    worker.held.pop(turn.run_id)
    return turn, [id_of(turn, call) for call in wanted]


async def test_the_same_turn_is_granted_again_with_its_steps_and_the_decision(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker)
    cid = turn.grant.run.conversation_id
    shown = await store.get(cid)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_WAITING
    assert (shown.run.status, shown.run.waiting_for) == (WAITING, APPROVAL)
    assert (shown.run.turn, shown.run.attempt) == (0, 0)
    await resolve(store, approval_id, "EDITED", comment="safer", edited_arguments_json='{"a":1}')
    again = await worker.granted()
    assert (again.run_id, again.grant.turn) == (turn.run_id, turn.grant.turn)
    assert again.grant.fence > turn.grant.fence
    assert [step.result for step in again.grant.steps] == [b"let me see"]
    assert again.grant.inputs == turn.grant.inputs, "a decision is no input of a suspended turn"
    (decision,) = again.grant.approvals
    assert decision == turn_pb.TurnApproval(
        approval_id=approval_id,
        status=event_pb2.APPROVAL_STATUS_EDITED,
        comment="safer",
        edited_arguments_json='{"a":1}',
        principal="alice",
        role=options_pb2.ROLE_USER,
    )
    committed = await again.commit("COMPLETED")
    assert committed.status == conversation_pb2.RUN_STATUS_COMPLETED, "one round too many"
    log = await store.log(cid)
    assert dense(log)
    assert [event.WhichOneof("kind") for event in log][-6:] == [
        "approval_requested",
        "run_status_changed",
        "approval_resolved",
        "run_status_changed",
        "turn_committed",
        "run_ended",
    ]
    assert all(event.turn == turn.grant.turn for event in log[-6:-3])


async def test_it_goes_on_when_the_last_request_is_decided_and_finds_all(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn, (one, two) = await suspended(store, worker, "call_1", "call_2")
    await resolve(store, two, "REJECTED", comment="no")
    assert (await store.get(turn.grant.run.conversation_id)).run.status == WAITING
    await resolve(store, one)
    again = await worker.granted()
    assert [a.approval_id for a in again.grant.approvals] == [one, two]
    third = question()
    await suspend(again, third)
    worker.held.pop(turn.run_id)
    await resolve(store, third.approval_requested.approval_id, "ANSWERED", comment="blue")
    last = await worker.granted()
    assert last.grant.turn == turn.grant.turn
    assert [a.comment for a in last.grant.approvals] == ["", "no", "blue"]
    await last.commit("RUNNABLE")
    assert not (await worker.granted()).grant.approvals, "of a turn that is over"


async def test_what_is_said_meanwhile_is_read_by_a_later_turn(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker)
    cid = turn.grant.run.conversation_id
    sent = await store.send(cid, "and hurry")
    assert sent.status == conversation_pb2.CONVERSATION_STATUS_WAITING
    await resolve(store, approval_id)
    again = await worker.granted()
    read = again.grant.inputs[0].sequence
    assert [event.sequence for event in again.grant.inputs] == [read, sent.sequence]
    committed = await again.commit("COMPLETED", last_input_sequence=read)
    assert committed.status == RUNNABLE
    assert [e.message.content for e in (await worker.granted()).grant.inputs] == ["and hurry"]


async def test_a_decision_that_comes_first_lets_the_turn_go_on_at_once(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker)
    await resolve(store, approval_id)
    again = await worker.granted()
    # As a runtime does that does not know yet what its grant says.
    assert (await suspend(again)).status == RUNNABLE
    worker.held.pop(turn.run_id)
    assert (await worker.granted()).grant.turn == turn.grant.turn


async def test_repeated_suspensions(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    event = asks_for(turn)
    first = await suspend(turn, event)
    assert await suspend(turn, event) == first
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "TURN_CONFLICT"):
        await suspend(turn, event, detail="another")
    await resolve(store, id_of(turn, "call_1"))
    again = await worker.granted()
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await suspend(turn, event)
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await suspend(again, event)
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "TURN_GAP"):
        await suspend(again, turn=again.grant.turn + 1)
    # Nothing of what was refused left a trace.
    assert (await again.commit("COMPLETED")).status == conversation_pb2.RUN_STATUS_COMPLETED
    assert len(await resolutions(store, turn.grant.run.conversation_id)) == 1


async def test_bad_suspensions_name_their_field(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    child = turn_pb.ChildRun(agent_path="a", definition=team(), task="t", max_rounds=1)
    event = asks_for(turn)
    later: Any = {"escalate_at": LATER}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"events": []}, "waiting_for"),
        ({"waiting_for": CHILDREN}, "waiting_for"),
        ({"waiting_for": conversation_pb2.WAIT_KIND_INPUT, "events": [event]}, "waiting_for"),
        ({"events": [asks("appr_mine")]}, "events[0].approval_requested.approval_id"),
        ({"children": [child, child]}, "children[1].agent_path"),
        ({"events": [asks_for(turn, escalate_to="admin")]}, "escalate_at"),
        ({"events": [asks_for(turn, **later)]}, "escalate_to"),
        ({"events": [asks_for(turn, **later, escalate_to="owner")]}, "escalate_to"),
        ({"events": [asks_for(turn, **later, escalate_to="user")]}, "escalate_to"),
        ({"events": [asks_for(turn, **later, role="admin", escalate_to="admin")]}, "escalate_to"),
    ]
    for fields, field in bad:
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refused:
            await suspend(turn, **fields)
        (violation,) = refused.error.violations
        assert violation.field.endswith(field), violation.field
    await turn.commit("COMPLETED")
    assert not await resolutions(store, turn.grant.run.conversation_id)


async def test_a_cancelled_run_asks_for_nothing_more(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker)
    cid = turn.grant.run.conversation_id
    cancelled = await store.cancel(cid)
    assert cancelled.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    assert await resolutions(store, cid) == [(approval_id, "CANCELLED")]
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_DECIDED"):
        await resolve(store, approval_id)
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await suspend(turn, asks_for(turn))


@pytest.mark.parametrize("strategy", ["INTERRUPT", "REPLACE_TURN"])
async def test_an_interrupted_turn_is_given_up(store: RunningStore, strategy: str) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker)
    cid = turn.grant.run.conversation_id
    await store.send(cid, "stop that", strategy=f"DELIVERY_STRATEGY_{strategy}")
    again = await worker.granted()
    assert again.grant.turn == turn.grant.turn + 1
    assert not again.grant.steps
    assert not again.grant.approvals
    assert [event.message.content for event in again.grant.inputs] == ["do it", "stop that"]
    assert await resolutions(store, cid) == [(approval_id, "CANCELLED")]
    discarded = [e.turn_discarded for e in await store.log(cid) if e.HasField("turn_discarded")]
    assert [list(one.message_ids) for one in discarded] == [[turn.message_id]]


async def test_a_pause_outlasts_the_decision(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker)
    cid = turn.grant.run.conversation_id
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    assert (await store.get(cid)).run.status == WAITING
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    await resolve(store, approval_id)
    assert (await store.get(cid)).run.status == conversation_pb2.RUN_STATUS_PAUSED
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    again = await worker.granted()
    assert again.grant.turn == turn.grant.turn
    assert [step.result for step in again.grant.steps] == [b"let me see"]
    assert len(again.grant.approvals) == 1


async def test_a_pause_that_came_during_the_turn_holds_when_it_is_suspended(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    turn = await worker.granted()
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    response = await suspend(turn, asks_for(turn))
    assert response.status == conversation_pb2.RUN_STATUS_PAUSED
    await resolve(store, id_of(turn, "call_1"))
    assert (await store.get(cid)).run.status == conversation_pb2.RUN_STATUS_PAUSED
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    assert (await worker.granted()).grant.turn == turn.grant.turn


async def test_a_deadline_ends_a_suspended_run(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker, timeout=Duration(seconds=3))
    cid = turn.grant.run.conversation_id
    while (shown := await store.get(cid)).run.status == WAITING:
        await asyncio.sleep(0.02)
    assert shown.run.end_reason == conversation_pb2.RUN_END_REASON_DEADLINE
    assert (await get(store, approval_id)).status == event_pb2.APPROVAL_STATUS_CANCELLED


async def test_texts_too_large_for_a_grant_are_left_out(store: RunningStore) -> None:
    worker = await store.worker()
    turn, ids = await suspended(store, worker, *(f"call_{n}" for n in range(4)))
    edited = '{"text": "' + "x" * 900_000 + '"}'
    for approval_id in ids:
        await resolve(store, approval_id, "EDITED", edited_arguments_json=edited)
    again = await worker.granted()
    assert again.grant.ByteSize() < 3 << 20
    assert [a.status for a in again.grant.approvals] == [event_pb2.APPROVAL_STATUS_EDITED] * 4
    for approval in again.grant.approvals:
        assert approval.text_omitted == (not approval.edited_arguments_json)
    assert any(approval.text_omitted for approval in again.grant.approvals)
    assert [step.result for step in again.grant.steps] == [b"let me see"]
    assert turn.grant.inputs == again.grant.inputs


async def test_a_turn_that_is_committed_anyway_takes_its_requests_back(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    child = turn_pb.ChildRun(agent_path="part", definition=team(), task="do", max_rounds=3)
    # Both: the end of the child lets the turn go on while the person has not decided yet.
    response = await suspend(turn, asks_for(turn), waiting_for=CHILDREN, children=[child])
    worker.held.pop(turn.run_id)
    part = await worker.granted()
    assert part.run_id == response.child_run_ids[0]
    await part.commit("COMPLETED")
    again = await worker.granted()
    assert [a.status for a in again.grant.approvals] == [event_pb2.APPROVAL_STATUS_PENDING]
    assert (await again.commit("RUNNABLE")).status == RUNNABLE
    asked = await get(store, id_of(turn, "call_1"))
    assert asked.status == event_pb2.APPROVAL_STATUS_CANCELLED
    following = await worker.granted()
    assert not following.grant.inputs
    assert not following.grant.children


async def test_a_turn_that_was_suspended_leaves_nothing_to_the_next_one(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await suspended(store, worker)
    cid = turn.grant.run.conversation_id
    await resolve(store, approval_id)
    await (await worker.granted()).commit("WAITING")
    # The next turn has not begun: there is nothing to interrupt.
    await store.send(cid, "go on", strategy="DELIVERY_STRATEGY_INTERRUPT")
    following = await worker.granted()
    assert following.grant.turn == turn.grant.turn + 1
    assert not [e for e in await store.log(cid) if e.HasField("turn_discarded")]
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await suspend(following)
