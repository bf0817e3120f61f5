"""Suspended turns that wait for runs which they start."""

from __future__ import annotations

import grpc
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import dense, team
from services.conversation_store.tests.test_approvals import resolve
from services.conversation_store.tests.test_suspension import (
    CHILDREN,
    WAITING,
    asks_for,
    id_of,
    suspend,
)


async def test_a_conversation_waits_when_all_its_runs_do(store: RunningStore) -> None:
    worker = await store.worker()
    cid = (await store.start_conversation()).conversation_id
    turn = await worker.granted()
    children = [
        turn_pb.ChildRun(agent_path=f"part{n}", definition=team(), task=f"do {n}", max_rounds=3)
        for n in range(2)
    ]
    await suspend(turn, waiting_for=CHILDREN, children=children)
    first, second = [await worker.granted() for _ in children]
    await suspend(first, asks_for(first))
    assert (await store.get(cid)).status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    await suspend(second, asks_for(second))
    assert (await store.get(cid)).status == conversation_pb2.CONVERSATION_STATUS_WAITING
    for held in (turn, first, second):
        worker.held.pop(held.run_id)
    await resolve(store, id_of(second, "call_1"))
    assert (await store.get(cid)).status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    await (await worker.granted()).commit("COMPLETED")
    assert (await store.get(cid)).status == conversation_pb2.CONVERSATION_STATUS_WAITING


async def test_a_turn_waits_for_runs_that_it_starts(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    children = [
        turn_pb.ChildRun(agent_path=f"part{n}", definition=team(), task=f"do {n}", max_rounds=3)
        for n in range(2)
    ]
    response = await suspend(turn, waiting_for=CHILDREN, children=children[:1])
    worker.held.pop(turn.run_id)
    assert response.status == WAITING
    first = await worker.granted()
    assert first.run_id == response.child_run_ids[0]
    assert first.grant.run.agent_path == "part0"
    assert [e.message.content for e in first.grant.inputs] == ["do 0"]
    await first.commit("COMPLETED", summary="0 is done")
    again = await worker.granted()
    assert (again.run_id, again.grant.turn) == (turn.run_id, turn.grant.turn)
    assert again.grant.inputs == turn.grant.inputs, "the end of its child is no input"
    (done,) = again.grant.children
    assert (done.run_id, done.agent_path, done.summary) == (first.run_id, "part0", "0 is done")
    assert done.status == conversation_pb2.RUN_STATUS_COMPLETED
    # Again with the one that has ended: it is not started anew.
    response = await suspend(again, waiting_for=CHILDREN, children=children)
    worker.held.pop(turn.run_id)
    second = await worker.granted()
    assert second.run_id == response.child_run_ids[1]
    await second.commit("FAILED", detail="no luck")
    last = await worker.granted()
    assert {(c.agent_path, c.status, c.detail) for c in last.grant.children} == {
        ("part0", conversation_pb2.RUN_STATUS_COMPLETED, ""),
        ("part1", conversation_pb2.RUN_STATUS_FAILED, "no luck"),
    }
    assert (await last.commit("COMPLETED")).status == conversation_pb2.RUN_STATUS_COMPLETED
    assert dense(await store.log(turn.grant.run.conversation_id))


async def test_runs_end_with_the_turn_that_started_them(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    turn = await worker.granted()
    child = turn_pb.ChildRun(agent_path="part", definition=team(), task="do", max_rounds=3)
    response = await suspend(turn, waiting_for=CHILDREN, children=[child])
    worker.held.pop(turn.run_id)
    (child_id,) = response.child_run_ids
    part = await worker.granted()
    await store.send(cid, "stop that", strategy="DELIVERY_STRATEGY_INTERRUPT")
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await part.commit("COMPLETED")
    again = await worker.granted()
    assert (again.run_id, again.grant.turn) == (turn.run_id, turn.grant.turn + 1)
    ends = [e for e in await store.log(cid) if e.HasField("run_ended")]
    assert [(e.run_id, e.run_ended.status) for e in ends] == [
        (child_id, conversation_pb2.RUN_STATUS_CANCELLED)
    ]
    assert not again.grant.children
