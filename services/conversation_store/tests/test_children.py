"""Runs that work for another one, over gRPC."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import grpc
from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from google.protobuf.duration_pb2 import Duration
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import LeasedWorker, RunningStore, Turn
from services.conversation_store.tests.support import ACME, acting, dense, store_pb, team, turn_pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def child(agent_path: str, **fields: Any) -> turn_pb.ChildRun:
    """A run to start."""
    values: dict[str, Any] = {
        "agent_path": agent_path,
        "definition": team(),
        "task": f"work on {agent_path}",
        "max_rounds": 5,
    }
    return turn_pb.ChildRun(**(values | fields))


async def fork(turn: Turn, children: Sequence[turn_pb.ChildRun], **fields: Any) -> Any:
    """Commits a turn that waits for children."""
    return await turn.commit(
        "WAITING", waiting_for=conversation_pb2.WAIT_KIND_CHILDREN, children=children, **fields
    )


async def parent_of(
    store: RunningStore, worker: LeasedWorker, *children: turn_pb.ChildRun, **fields: Any
) -> Turn:
    """A conversation whose run waits for these."""
    await store.start_conversation(**fields)
    turn = await worker.granted()
    await fork(turn, children)
    return turn


async def granted(worker: LeasedWorker, count: int) -> dict[str, Turn]:
    """So many turns of children, by their agent paths."""
    turns = [await worker.granted() for _ in range(count)]
    return {turn.grant.run.agent_path: turn for turn in turns}


def ended(events: Sequence[event_pb2.Event]) -> dict[str, str]:
    """How children ended, by their agent paths."""
    return {
        event.agent: conversation_pb2.RunStatus.Name(event.run_ended.status)[11:]
        for event in events
        if event.HasField("run_ended")
    }


async def test_children_work_and_the_last_one_wakes_their_parent(store: RunningStore) -> None:
    worker = await store.worker()
    started = await store.start_conversation(priority=3, human_input=True)
    turn = await worker.granted()
    committed = await fork(turn, [child("a"), child("b", max_rounds=2)])
    assert committed.status == conversation_pb2.RUN_STATUS_WAITING
    shown = await store.get(started.conversation_id)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    assert shown.run.run_id == turn.run_id
    turns = await granted(worker, 2)
    assert list(committed.child_run_ids) == [turns["a"].run_id, turns["b"].run_id]
    for path, one in turns.items():
        run, (task,) = one.grant.run, one.grant.inputs
        assert (run.parent_run_id, run.root_run_id) == (turn.run_id, turn.run_id)
        assert (run.priority, one.grant.human_input) == (3, True)
        assert run.traceparent == turn.grant.run.traceparent
        assert task.message.content == f"work on {path}"
        assert one.grant.definition == team()
        assert not one.grant.HasField("checkpoint")
    await turns["b"].take("COMPLETED", summary="b is done")
    assert (await store.get(started.conversation_id)).run.run_id == turn.run_id
    await turns["a"].take("FAILED", detail="no")
    again = await worker.granted()
    assert again.run_id == turn.run_id
    assert ended(again.grant.inputs) == {"a": "FAILED", "b": "COMPLETED"}
    assert [event.run_ended.summary for event in again.grant.inputs] == ["b is done", "turn 1"]
    await again.take("COMPLETED", summary="all done")
    shown = await store.get(started.conversation_id)
    assert shown.summary == "all done"
    log = await store.log(started.conversation_id)
    assert dense(log)
    begun = [event for event in log if event.HasField("run_started")]
    assert [event.agent for event in begun] == ["", "a", "b"]
    assert {event.run_started.parent_run_id for event in begun[1:]} == {turn.run_id}


async def test_the_same_commit_again_starts_nothing_twice(store: RunningStore) -> None:
    worker = await store.worker()
    started = await store.start_conversation()
    turn = await worker.granted()
    first = await fork(turn, [child("a")])
    assert await fork(turn, [child("a")]) == first
    name = f"{turn.run_id}/1/a"
    assert list(first.child_run_ids) == [f"run_{hashlib.sha256(name.encode()).hexdigest()[:32]}"]
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "TURN_CONFLICT") as refused:
        await fork(turn, [child("b")])
    assert refused.error.metadata["difference"] == "children"
    log = await store.log(started.conversation_id)
    assert sum(event.HasField("run_started") for event in log) == 2


BAD_COMMITS: list[tuple[dict[str, Any], str]] = [
    ({"children": [child("a")], "status": "RUNNABLE"}, "children"),
    ({"children": [child("a")], "waiting_for": "WAIT_KIND_TIMER"}, "children"),
    ({"children": [child("a")], "discard": True}, "children"),
    ({"children": [child("a"), child("a")]}, "children[1].agent_path"),
    ({"children": [child(str(n)) for n in range(101)]}, "children"),
    ({"children": [child("a", max_rounds=0)]}, "children[0].max_rounds"),
    ({"children": [child("a", task="")]}, "children[0].task"),
    ({"children": [child("")]}, "children[0].agent_path"),
    ({"children": [child("a", definition=None)]}, "children[0].definition"),
    ({"children": [child("a", timeout=Duration(seconds=-1))]}, "children[0].timeout"),
    ({"children": []}, "waiting_for"),
]


async def test_a_bad_commit_names_its_field(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    values = {
        "status": "WAITING",
        "waiting_for": "WAIT_KIND_CHILDREN",
        "wake_at": {"seconds": 4_000_000_000},
    }
    for fields, field in BAD_COMMITS:
        with raises_rich(INVALID, "INVALID_FIELD") as refused:
            await turn.commit(**(values | fields))
        assert [violation.field for violation in refused.error.violations] == [field]
    await fork(turn, [child("a")])


async def test_children_have_children_down_to_a_depth(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turns = [await worker.granted()]
    for depth in range(1, 9):
        await fork(turns[-1], [child(f"level{depth}")])
        turns.append(await worker.granted())
    with raises_rich(INVALID, "INVALID_FIELD") as refused:
        await fork(turns[-1], [child("level9")])
    assert [violation.field for violation in refused.error.violations] == ["children"]
    await turns[-1].take("COMPLETED")
    for upper in reversed(turns[:-1]):
        again = await worker.granted()
        assert again.run_id == upper.run_id
        assert list(ended(again.grant.inputs).values()) == ["COMPLETED"]
        await again.take("COMPLETED")


async def test_a_child_must_have_ended_when_its_parent_must(store: RunningStore) -> None:
    worker = await store.worker()
    turn = await parent_of(
        store,
        worker,
        child("long", timeout=Duration(seconds=9000)),
        child("short", timeout=Duration(seconds=10)),
        child("unbounded"),
        timeout=Duration(seconds=500),
    )
    turns = await granted(worker, 3)
    bound = turn.grant.run.deadline
    assert turns["long"].grant.run.deadline == bound
    assert turns["unbounded"].grant.run.deadline == bound
    short = turns["short"].grant.run
    assert short.deadline.seconds - short.started_at.seconds == 10


async def test_a_cancel_ends_children_first_and_raises_their_fences(store: RunningStore) -> None:
    worker = await store.worker()
    turn = await parent_of(store, worker, child("a"), child("b"))
    turns = await granted(worker, 2)
    await fork(turns["a"], [child("a/x")])
    inner = await worker.granted()
    cid = turn.grant.run.conversation_id
    cancelled = await store.cancel(cid)
    assert cancelled.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    log = await store.log(cid)
    assert dense(log)
    order = [event.run_id for event in log if event.HasField("run_ended")]
    assert sorted(order[:-1]) == sorted(one.run_id for one in (*turns.values(), inner))
    assert order.index(inner.run_id) < order.index(turns["a"].run_id)
    assert order[-1] == turn.run_id
    lost = {(await worker.lost()).run_id for _ in range(2)}
    assert lost == {inner.run_id, turns["b"].run_id}
    for one in (inner, turns["b"]):
        with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
            await one.begin()


async def test_a_deadline_ends_the_whole_tree(store: RunningStore) -> None:
    worker = await store.worker()
    turn = await parent_of(
        store, worker, child("a"), child("b"), timeout=Duration(nanos=700_000_000)
    )
    turns = await granted(worker, 2)
    assert {(await worker.lost()).run_id for _ in range(2)} == {t.run_id for t in turns.values()}
    log = await store.log(turn.grant.run.conversation_id)
    assert log[-1].run_id == turn.run_id
    assert log[-1].run_ended.reason == conversation_pb2.RUN_END_REASON_DEADLINE
    assert sum(event.HasField("run_ended") for event in log) == 3


async def test_a_parent_that_ends_takes_its_children_along(store: RunningStore) -> None:
    worker = await store.worker()
    started = await store.start_conversation()
    turn = await worker.granted()
    await fork(turn, [child("a")], wake_at={"seconds": 1})
    turns = [await worker.granted(), await worker.granted()]
    (again,) = [one for one in turns if one.run_id == turn.run_id]
    assert not again.grant.inputs
    await again.take("COMPLETED", summary="enough")
    shown = await store.get(started.conversation_id)
    assert (shown.status, shown.summary) == (
        conversation_pb2.CONVERSATION_STATUS_COMPLETED,
        "enough",
    )
    assert ended(await store.log(started.conversation_id)) == {"a": "CANCELLED", "": "COMPLETED"}


async def test_a_child_that_ends_while_its_parent_works_is_heard_of(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    await fork(turn, [child("a")], wake_at={"seconds": 1})
    one, two = await worker.granted(), await worker.granted()
    again, a = (one, two) if one.run_id == turn.run_id else (two, one)
    await a.take("COMPLETED")
    committed = await fork(again, [])
    assert committed.status == conversation_pb2.RUN_STATUS_RUNNABLE
    assert ended((await worker.granted()).grant.inputs) == {"a": "COMPLETED"}


async def test_what_children_use_counts_for_every_run_above(store: RunningStore) -> None:
    worker = await store.worker()
    turn = await parent_of(
        store,
        worker,
        child("a", budget=usage_pb2.Budget(max_tokens=90)),
        child("b"),
        budget=usage_pb2.Budget(max_tokens=100),
    )
    turns = await granted(worker, 2)
    a, b = turns["a"], turns["b"]
    begun = await a.begin(reservation=usage_pb2.Usage(input_tokens=60))
    assert begun.remaining_tokens == 30
    assert (await b.begin("other/0")).remaining_tokens == 40
    with raises_rich(EXHAUSTED, "BUDGET_EXHAUSTED") as refused:
        await b.begin(reservation=usage_pb2.Usage(input_tokens=41))
    assert refused.error.metadata["run_id"] == turn.run_id
    await a.record(usage=usage_pb2.Usage(input_tokens=50, model_calls=1))
    begun = await b.begin(reservation=usage_pb2.Usage(input_tokens=50))
    assert begun.remaining_tokens == 0
    await b.record(usage=usage_pb2.Usage(input_tokens=45, model_calls=1))
    await a.commit("COMPLETED")
    await b.commit("COMPLETED")
    again = await worker.granted()
    used = [event.run_ended.usage.input_tokens for event in again.grant.inputs]
    assert used == [50, 45]
    assert again.grant.run.usage.input_tokens == 95
    await again.begin(reservation=usage_pb2.Usage(input_tokens=5))
    await again.record(usage=usage_pb2.Usage(input_tokens=5, model_calls=1))
    await again.commit("COMPLETED")
    shown = await store.get(turn.grant.run.conversation_id)
    assert (shown.usage.input_tokens, shown.usage.model_calls) == (100, 3)
    assert shown.run.usage == shown.usage
    log = await store.log(turn.grant.run.conversation_id)
    assert [
        event.turn_committed.usage.input_tokens for event in log if event.HasField("turn_committed")
    ] == [0, 50, 45, 5]


async def test_what_an_orphaned_claim_of_a_child_reserved_counts_above(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn = await parent_of(store, worker, child("a"))
    a = await worker.granted()
    await a.begin(reservation=usage_pb2.Usage(input_tokens=7))
    await a.begin(attempt_id="another", take_over=True)
    shown = await store.get(turn.grant.run.conversation_id)
    assert shown.run.usage == usage_pb2.Usage(input_tokens=7, estimated=True)
    assert shown.usage == shown.run.usage


async def test_a_pause_holds_the_whole_tree(store: RunningStore) -> None:
    worker = await store.worker(max_turns=1)
    turn = await parent_of(store, worker, child("a"), child("b"))
    cid = turn.grant.run.conversation_id
    a = await worker.granted()
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    committed = await a.take("RUNNABLE")
    assert committed.status == conversation_pb2.RUN_STATUS_PAUSED
    other = await store.start_conversation()
    strange = await worker.granted()
    assert strange.grant.run.conversation_id == other.conversation_id
    await strange.take("COMPLETED")
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    for _ in range(2):
        await (await worker.granted()).take("COMPLETED")
    again = await worker.granted()
    assert (again.run_id, len(again.grant.inputs)) == (turn.run_id, 2)


async def test_children_that_end_during_a_pause_let_the_parent_go_on_after_it(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn = await parent_of(store, worker, child("a"))
    a = await worker.granted()
    cid = turn.grant.run.conversation_id
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    await a.take("COMPLETED")
    assert (await store.get(cid)).run.status == conversation_pb2.RUN_STATUS_PAUSED
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    assert (await worker.granted()).run_id == turn.run_id


async def test_a_replaced_turn_takes_its_children_along(store: RunningStore) -> None:
    worker = await store.worker()
    turn = await parent_of(store, worker, child("a"))
    a = await worker.granted()
    cid = turn.grant.run.conversation_id
    await store.send(cid, strategy="DELIVERY_STRATEGY_REPLACE_TURN")
    assert (await worker.lost()).run_id == a.run_id
    again = await worker.granted()
    assert again.run_id == turn.run_id
    assert [event.WhichOneof("kind") for event in again.grant.inputs] == ["message", "message"]
    assert ended(await store.log(cid)) == {"a": "CANCELLED"}


async def test_a_child_that_failed_too_often_is_an_input_of_its_parent(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn = await parent_of(store, worker, child("a"))
    for _ in range(store.settings.max_turn_failures):
        await (await worker.granted()).release(failed=True, detail="boom")
    again = await worker.granted()
    assert again.run_id == turn.run_id
    assert ended(again.grant.inputs) == {"a": "DEAD_LETTER"}


async def test_a_deadline_that_moves_takes_those_of_children_along(store: RunningStore) -> None:
    def within(seconds: int) -> usage_pb2.Budget:
        return usage_pb2.Budget(max_wall_time=Duration(seconds=seconds))

    worker = await store.worker()
    mine = child("mine", timeout=Duration(seconds=100))
    turn = await parent_of(store, worker, child("a"), mine, budget=within(50))
    turns = await granted(worker, 2)
    both = [turns["a"].grant.run, turns["mine"].grant.run]
    assert {run.deadline.seconds for run in both} == {turn.grant.run.deadline.seconds}
    update = store_pb.UpdateConversationRequest(
        conversation_id=turn.grant.run.conversation_id, budget=within(1000)
    )
    await store.conversations.UpdateConversation(update, metadata=acting(ACME))
    for one in turns.values():
        await one.take("RUNNABLE")
    after = await granted(worker, 2)
    spans = {
        path: again.grant.run.deadline.seconds - again.grant.run.started_at.seconds
        for path, again in after.items()
    }
    assert abs(spans["a"] - 1000) < 30
    assert abs(spans["mine"] - 100) < 5
