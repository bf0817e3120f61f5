"""What happens by itself: timers, and runs that failed too often."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from agentmesh.conversation.v1 import conversation_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from meshkit.testkit import raises_rich
from pydantic import SecretStr

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, acting, dense, store_pb

TIMER = conversation_pb2.WAIT_KIND_TIMER


def after(seconds: float) -> Timestamp:
    """A time from now."""
    nanos = time.time_ns() + round(seconds * 1e9)
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9)


@pytest.mark.parametrize("seconds", [-3600.0, 0.2])
async def test_a_timer_wakes_its_run(store: RunningStore, seconds: float) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    committed = await turn.commit("WAITING", waiting_for=TIMER, wake_at=after(seconds))
    assert committed.status == conversation_pb2.RUN_STATUS_WAITING
    again = await worker.granted()
    assert (again.run_id, again.grant.turn) == (turn.run_id, 2)
    assert not again.grant.inputs
    changes = [
        event.run_status_changed
        for event in await store.log(conversation.conversation_id)
        if event.HasField("run_status_changed")
    ]
    assert [change.status for change in changes] == [
        conversation_pb2.RUN_STATUS_WAITING,
        conversation_pb2.RUN_STATUS_RUNNABLE,
    ]
    assert changes[0].waiting_for == TIMER


async def test_a_timer_needs_a_time(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refused:
        await turn.commit("WAITING", waiting_for=TIMER)
    assert [violation.field for violation in refused.error.violations] == ["wake_at"]


async def test_a_pause_outlasts_a_timer_and_does_not_lose_it(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    cid = conversation.conversation_id
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    committed = await turn.commit("WAITING", waiting_for=TIMER, wake_at=after(-10))
    assert committed.status == conversation_pb2.RUN_STATUS_PAUSED
    other = await store.start_conversation()
    strange = await worker.granted()
    assert strange.grant.run.conversation_id == other.conversation_id
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    assert (await worker.granted()).run_id == turn.run_id


async def test_replicas_that_see_the_same_timers_wake_each_run_once(
    tmp_path: Path, postgres_url: str
) -> None:
    settings = {"postgres_url": SecretStr(postgres_url), "api_key_secret": SecretStr("pepper")}
    stores = [await RunningStore.start(tmp_path / name, **settings) for name in ("a", "b")]
    worker = await stores[0].worker(max_turns=20)
    started = [await stores[0].start_conversation() for _ in range(10)]
    turns = [await worker.granted() for _ in started]
    wake_at = after(0.3)
    await asyncio.gather(
        *(turn.commit("WAITING", waiting_for=TIMER, wake_at=wake_at) for turn in turns)
    )
    for _ in started:
        await (await worker.granted()).commit("COMPLETED")
    for conversation in started:
        log = await stores[1].log(conversation.conversation_id)
        assert dense(log)
        kinds = [event.WhichOneof("kind") for event in log]
        assert kinds.count("run_status_changed") == 2
        assert kinds.count("turn_committed") == 2
    for store in stores:
        await store.stop()


async def test_a_dead_letter_is_requeued_from_its_last_good_turn(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    await (await worker.granted()).take("RUNNABLE")
    for _ in range(store.settings.max_turn_failures):
        turn = await worker.granted()
        await turn.release(failed=True, detail="the model is away")
    shown = await store.get(cid)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_FAILED
    assert shown.run.status == conversation_pb2.RUN_STATUS_DEAD_LETTER
    assert shown.run.end_reason == conversation_pb2.RUN_END_REASON_ATTEMPTS_EXHAUSTED
    assert "the model is away" in shown.run.detail
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    resumed = await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    assert resumed.conversation.status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    again = await worker.granted()
    assert again.run_id == resumed.conversation.run.run_id != turn.run_id
    assert again.grant.checkpoint.data == b"state"
    assert again.grant.run.attempt == 1
    await again.take("COMPLETED")
    assert dense(await store.log(cid))
