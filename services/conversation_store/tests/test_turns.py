"""Steps and commits over gRPC: fenced, atomic, idempotent by content."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import dense, message_event, turn_pb

ABORTED = grpc.StatusCode.ABORTED
EXISTS = grpc.StatusCode.ALREADY_EXISTS
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def test_a_conversation_runs_to_its_end(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation(task="write")
    turn = await worker.granted()
    assert turn.grant.turn == 1
    assert [event.message.content for event in turn.grant.inputs] == ["write"]
    assert turn.grant.definition.participants[0].agent.id == "writer"
    assert not turn.grant.HasField("checkpoint")
    await turn.take("RUNNABLE")
    turn = await worker.granted()
    assert turn.grant.turn == 2
    assert turn.grant.checkpoint.data == b"state"
    assert not turn.grant.inputs
    await turn.take("COMPLETED")
    shown = await store.get(conversation.conversation_id)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_COMPLETED
    assert shown.summary == "turn 2"
    assert shown.run.rounds == 2
    assert shown.run.end_reason == conversation_pb2.RUN_END_REASON_TERMINATED
    log = await store.log(conversation.conversation_id)
    assert dense(log)
    assert [event.WhichOneof("kind") for event in log] == [
        "conversation_started",
        "run_started",
        "message",
        "message",
        "turn_committed",
        "message",
        "turn_committed",
        "run_ended",
    ]
    assert all(event.HasField("time") for event in log)
    assert log[3].message.timestamp == log[3].time
    assert log[3].origin == event_pb2.EVENT_ORIGIN_RUNTIME


async def test_commit_brings_the_next_grant_if_wanted(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    first = await turn.commit(want_next=True)
    assert first.next.turn == 2
    assert first.next.fence > turn.grant.fence
    assert first.next.checkpoint.checkpoint_id == first.checkpoint_id
    assert first.next.checkpoint.data == b""
    again = await turn.commit(want_next=True)
    assert again.next.fence == first.next.fence
    assert again.last_sequence == first.last_sequence


async def test_no_next_grant_while_others_wait(store: RunningStore) -> None:
    worker = await store.worker(max_turns=1)
    await store.start_conversation()
    turn = await worker.granted()
    waiting = await store.start_conversation()
    await asyncio.sleep(0.2)
    response = await turn.commit(want_next=True)
    assert not response.HasField("next")
    other = await worker.granted()
    assert other.grant.run.conversation_id == waiting.conversation_id


async def test_an_old_fence_is_refused_everywhere(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await store.send(conversation.conversation_id, strategy="DELIVERY_STRATEGY_INTERRUPT")
    with raises_rich(ABORTED, "STALE_FENCE") as refused:
        await turn.record()
    assert refused.error.metadata["fence"] == str(turn.grant.fence)
    assert int(refused.error.metadata["current_fence"]) > turn.grant.fence
    with raises_rich(ABORTED, "STALE_FENCE"):
        await turn.begin("writer/2")
    with raises_rich(ABORTED, "STALE_FENCE"):
        await turn.commit()
    with raises_rich(ABORTED, "STALE_FENCE"):
        await turn.release()


async def test_a_capability_is_for_one_run(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    await store.start_conversation()
    one, two = await worker.granted(), await worker.granted()
    one.metadata = two.metadata
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_REQUIRED"):
        await one.begin()


async def test_the_same_record_again_is_harmless_and_another_is_named(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    first = await turn.record(content="once")
    assert await turn.record(content="once") == first
    with raises_rich(EXISTS, "STEP_CONFLICT") as refused:
        await turn.record(content="twice")
    assert refused.error.metadata["difference"] == "events,result"
    with raises_rich(EXISTS, "STEP_CONFLICT") as refused:
        await turn.record(content="once", usage=usage_pb2.Usage(input_tokens=1))
    assert refused.error.metadata["difference"] == "usage"
    log = await store.log(conversation.conversation_id)
    assert [event.message.content for event in log if event.HasField("message")] == [
        "do it",
        "once",
    ]


async def test_the_same_commit_again_is_harmless_and_another_is_named(
    store: RunningStore,
) -> None:
    worker = await store.worker(max_turns=1)
    conversation = await store.start_conversation()
    turn = await worker.granted()
    first = await turn.commit("COMPLETED", summary="done")
    assert await turn.commit("COMPLETED", summary="done") == first
    with raises_rich(EXISTS, "TURN_CONFLICT") as refused:
        await turn.commit("COMPLETED", summary="other")
    assert refused.error.metadata["difference"] == "summary"
    log = await store.log(conversation.conversation_id)
    assert [event.WhichOneof("kind") for event in log].count("run_ended") == 1


async def test_a_gap_is_refused(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    with raises_rich(PRECONDITION, "TURN_GAP") as refused:
        await turn.commit(turn=2)
    assert refused.error.metadata["expected_turn"] == "1"
    with raises_rich(PRECONDITION, "TURN_GAP"):
        await turn.begin(turn=3)
    with raises_rich(PRECONDITION, "STEP_NOT_CLAIMED"):
        await turn.record("never/1")


async def test_a_claim_is_known_to_the_next_attempt(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    assert (await turn.begin()).step.state == turn_pb.STEP_STATE_CLAIMED
    assert (await turn.begin()).step.state == turn_pb.STEP_STATE_CLAIMED
    await turn.begin("writer/2")
    await turn.record("writer/2", "kept")
    await turn.release()
    turn = await worker.granted()
    states = {step.step_key: step.state for step in turn.grant.steps}
    assert states == {
        "writer/1": turn_pb.STEP_STATE_ORPHANED,
        "writer/2": turn_pb.STEP_STATE_RECORDED,
    }
    orphan = await turn.begin(attempt_id="attempt-2")
    assert orphan.step.state == turn_pb.STEP_STATE_ORPHANED
    taken = await turn.begin(attempt_id="attempt-2", take_over=True)
    assert taken.step.state == turn_pb.STEP_STATE_CLAIMED
    recorded = await turn.begin("writer/2", attempt_id="attempt-2")
    assert recorded.step.state == turn_pb.STEP_STATE_RECORDED
    assert recorded.step.result == b"kept"
    with raises_rich(PRECONDITION, "REPLAY_DIVERGED"):
        await turn.begin("writer/2", request_digest=b"x" * 32)


async def test_an_attached_tool_may_record_what_another_attempt_claimed(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    await turn.begin("call_1", kind=turn_pb.STEP_KIND_TOOL)
    await turn.release()
    turn = await worker.granted()
    assert (await turn.begin("call_1", kind=turn_pb.STEP_KIND_TOOL)).step.state == (
        turn_pb.STEP_STATE_ORPHANED
    )
    await turn.record("call_1")
    assert (await turn.begin("call_1")).step.state == turn_pb.STEP_STATE_RECORDED


async def test_an_input_that_came_meanwhile_makes_a_finished_run_go_on(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    sent = await store.send(conversation.conversation_id, "one more thing")
    assert sent.run_id == turn.run_id
    response = await turn.commit("COMPLETED")
    assert response.status == conversation_pb2.RUN_STATUS_RUNNABLE
    turn = await worker.granted()
    assert [event.message.content for event in turn.grant.inputs] == ["one more thing"]
    response = await turn.commit("COMPLETED")
    assert response.status == conversation_pb2.RUN_STATUS_COMPLETED


async def test_rounds_are_bounded_and_an_unread_input_starts_a_new_run(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation(max_rounds=1)
    turn = await worker.granted()
    await store.send(conversation.conversation_id, "unread")
    response = await turn.commit("RUNNABLE")
    assert response.status == conversation_pb2.RUN_STATUS_COMPLETED
    successor = await worker.granted()
    assert successor.run_id != turn.run_id
    assert [event.message.content for event in successor.grant.inputs] == ["unread"]
    assert successor.grant.checkpoint.data == b"state"
    await successor.commit("RUNNABLE")
    shown = await store.get(conversation.conversation_id)
    assert shown.run.end_reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS


async def test_a_discarded_turn_uses_its_number_up_and_counts_no_round(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await turn.record()
    await turn.commit(discard=True, detail="no good", last_input_sequence=0)
    turn = await worker.granted()
    assert turn.grant.turn == 2
    assert turn.grant.run.rounds == 0
    assert not turn.grant.HasField("checkpoint")
    assert len(turn.grant.inputs) == 1
    log = await store.log(conversation.conversation_id)
    discarded = [event for event in log if event.HasField("turn_discarded")]
    assert list(discarded[0].turn_discarded.message_ids) == [f"msg_{turn.run_id}_1"]


async def test_waiting_for_an_answer_holds_no_worker(store: RunningStore) -> None:
    worker = await store.worker(max_turns=1)
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.commit("WAITING", waiting_for=conversation_pb2.WAIT_KIND_INPUT, detail="well?")
    shown = await store.get(conversation.conversation_id)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_WAITING
    assert shown.run.detail == "well?"
    busy = await store.start_conversation()
    assert (await worker.granted()).grant.run.conversation_id == busy.conversation_id
    await store.send(conversation.conversation_id, "yes")
    worker.resize(2)
    turn = await worker.granted()
    assert turn.grant.inputs[0].message.content == "yes"


async def test_a_timer_wakes_a_waiting_run(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    request = turn_pb.CommitTurnRequest(
        run_id=turn.run_id, turn=1, status=conversation_pb2.RUN_STATUS_WAITING
    )
    request.waiting_for = conversation_pb2.WAIT_KIND_TIMER
    request.wake_at.GetCurrentTime()
    request.wake_at.nanos = 0
    await store.turns.CommitTurn(request, metadata=turn.metadata)
    assert (await worker.granted()).grant.turn == 2


async def test_usage_adds_up_and_a_budget_holds(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation(budget=usage_pb2.Budget(max_tokens=100))
    turn = await worker.granted()
    begun = await turn.begin(reservation=usage_pb2.Usage(input_tokens=60))
    assert begun.remaining_tokens == 40
    with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED") as refused:
        await turn.begin("writer/2", reservation=usage_pb2.Usage(input_tokens=60))
    assert refused.error.metadata["budget"] == "run.max_tokens"
    await turn.record(usage=usage_pb2.Usage(input_tokens=20, output_tokens=10, model_calls=1))
    begun = await turn.begin("writer/2", reservation=usage_pb2.Usage(input_tokens=60))
    assert begun.remaining_tokens == 10
    await turn.commit("COMPLETED")
    shown = await store.get(conversation.conversation_id)
    assert shown.usage.input_tokens == 80
    assert shown.usage.output_tokens == 10
    assert shown.usage.estimated
    committed = (await store.log(conversation.conversation_id))[-2].turn_committed
    assert (committed.usage.input_tokens, committed.steps) == (80, 1)


async def test_giving_back_is_no_failed_attempt(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    for _ in range(store.settings.max_turn_failures + 2):
        turn = await worker.granted()
        assert turn.grant.run.attempt == 1
        await turn.release()


@pytest.mark.parametrize("round_", range(5))
async def test_cancel_and_commit_race_to_one_end(store: RunningStore, round_: int) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await turn.record()
    outcomes = await asyncio.gather(
        turn.commit("COMPLETED"),
        store.cancel(conversation.conversation_id),
        return_exceptions=True,
    )
    log = await store.log(conversation.conversation_id)
    assert dense(log)
    ends = [event.run_ended for event in log if event.HasField("run_ended")]
    assert len(ends) == 1
    assert log[-1].HasField("run_ended")
    committed = not isinstance(outcomes[0], BaseException)
    expected = (
        conversation_pb2.RUN_STATUS_COMPLETED
        if committed
        else conversation_pb2.RUN_STATUS_CANCELLED
    )
    assert ends[0].status == expected
    if not committed:
        with raises_rich(ABORTED, "STALE_FENCE"):
            raise outcomes[0]


async def test_a_message_and_the_last_commit_race_and_the_message_is_read(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    for _ in range(5):
        conversation = await store.start_conversation()
        turn = await worker.granted()
        await asyncio.gather(
            turn.commit("COMPLETED"), store.send(conversation.conversation_id, "late")
        )
        turn = await worker.granted()
        assert turn.grant.run.conversation_id == conversation.conversation_id
        assert [event.message.content for event in turn.grant.inputs] == ["late"]
        await turn.commit("COMPLETED")
        assert dense(await store.log(conversation.conversation_id))


async def test_events_of_a_commit_precede_its_own(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.commit("COMPLETED", events=[message_event("msg_extra", "extra")])
    kinds = [event.WhichOneof("kind") for event in await store.log(conversation.conversation_id)]
    assert kinds[-3:] == ["message", "turn_committed", "run_ended"]
