"""Runs that wait for runs that wait for people."""

from __future__ import annotations

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import team
from services.conversation_store.tests.test_approvals import resolve
from services.conversation_store.tests.test_suspension import CHILDREN, asks_for, id_of, suspend


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
