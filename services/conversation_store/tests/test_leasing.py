"""Leases: pushed, renewed, taken away, handed over."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from agentmesh.conversation.v1 import conversation_pb2
from google.protobuf.duration_pb2 import Duration
from meshkit.identity import Principal
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import Database, LeasedWorker, RunningStore
from services.conversation_store.tests.support import ACME, PATIENCE, acting, store_pb, turn_pb


async def test_a_broken_stream_hands_its_turns_over(tmp_path: Path, database: Database) -> None:
    """Long leases: only the break of the stream can explain the second grant."""
    store = await RunningStore.start(
        tmp_path, **database, lease_seconds=3600.0, lease_renew_seconds=1.0
    )
    first = await store.worker()
    conversation = await store.start_conversation()
    turn = await first.granted()
    await turn.begin()
    await turn.record(content="kept")
    await asyncio.sleep(0)
    second = await store.worker()
    await first.leave()
    # The grace after a start is one lease period: sweep as if it were over.
    await _end_grace(store)
    again = await second.granted()
    assert again.run_id == turn.run_id
    assert again.grant.fence > turn.grant.fence
    assert [step.result for step in again.grant.steps] == [b"kept"]
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await turn.commit()
    kinds = [e.WhichOneof("kind") for e in await store.log(conversation.conversation_id)]
    assert kinds[-1] == "attempt_failed"
    await store.stop()


async def _end_grace(store: RunningStore) -> None:
    """Another store on the same database whose grace is over at once."""
    other = await RunningStore.start(
        store.settings.data_dir,
        postgres_url=store.settings.postgres_url,
        api_key_secret=store.settings.api_key_secret,
        lease_seconds=0.01,
        lease_renew_seconds=0.005,
    )
    store.workers.append(_Stopping(other))  # type: ignore[arg-type]  # it only needs `leave`


class _Stopping:
    def __init__(self, store: RunningStore) -> None:
        self._store = store

    async def leave(self) -> None:
        await self._store.stop()


async def test_a_worker_that_comes_back_keeps_its_leases(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    await worker.leave()
    back = await store.worker(worker_id=worker.worker_id, held=list(worker.held.items()))
    await asyncio.sleep(store.settings.lease_hand_over_seconds + 3 * store.settings.lease_seconds)
    assert back.grants.empty()
    assert back.revoked.empty()
    await turn.take("COMPLETED")


async def test_a_silent_worker_loses_its_lease(store: RunningStore) -> None:
    silent = await store.worker(renews=False)
    await store.start_conversation()
    turn = await silent.granted()
    silent.resize(0)
    other = await store.worker()
    lost = await silent.lost()
    assert (lost.run_id, lost.reason) == (turn.run_id, "expired")
    again = await other.granted()
    assert again.grant.fence >= lost.current_fence > turn.grant.fence
    assert again.grant.run.attempt == 2


async def test_work_done_after_the_lease_ran_out_is_kept_until_somebody_else_has_it(
    store: RunningStore,
) -> None:
    silent = await store.worker(renews=False)
    await store.start_conversation()
    turn = await silent.granted()
    await turn.begin()
    silent.resize(0)
    await silent.lost()
    await turn.record(content="late but welcome")
    other = await store.worker()
    again = await other.granted()
    assert [step.result for step in again.grant.steps] == [b"late but welcome"]


async def test_a_cancel_is_told_at_once(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    watch = store.turns.WatchFences(turn_pb.WatchFencesRequest(worker_id="tool_runner"))
    assert not (await watch.read()).raised
    await store.cancel(conversation.conversation_id)
    lost = await worker.lost()
    assert (lost.run_id, lost.reason) == (turn.run_id, "cancelled")
    (raised,) = (await watch.read()).raised
    assert raised.run_id == turn.run_id
    assert raised.current_fence == lost.current_fence == turn.grant.fence + 1
    assert raised.tenant == "acme"
    late = store.turns.WatchFences(turn_pb.WatchFencesRequest())
    assert [r.run_id for r in (await late.read()).raised] == [turn.run_id]
    watch.cancel()
    late.cancel()
    next_one = await store.start_conversation()
    turn = await worker.granted()
    assert turn.grant.run.conversation_id == next_one.conversation_id


async def test_a_worker_gets_no_more_than_it_can_take(store: RunningStore) -> None:
    worker = await store.worker(max_turns=2)
    for _ in range(4):
        await store.start_conversation()
    turns = [await worker.granted(), await worker.granted()]
    await asyncio.sleep(5 * store.settings.lease_poll_seconds)
    assert worker.grants.empty()
    await turns[0].take("COMPLETED")
    await worker.granted()
    await asyncio.sleep(5 * store.settings.lease_poll_seconds)
    assert worker.grants.empty()
    worker.resize(3)
    await worker.granted()


async def test_one_tenants_flood_does_not_starve_another(store: RunningStore) -> None:
    flood = Principal("f", "flood", 3)
    for _ in range(50):
        await store.start_conversation(flood)
    await store.start_conversation(Principal("q", "quiet", 3))
    worker = await store.worker(max_turns=4)
    tenants = [(await worker.granted()).grant.tenant for _ in range(4)]
    assert sorted(tenants) == ["flood", "flood", "flood", "quiet"]


async def test_priority_counts_within_a_tenant(store: RunningStore) -> None:
    low = await store.start_conversation(priority=-1)
    normal = await store.start_conversation()
    high = await store.start_conversation(priority=5)
    worker = await store.worker(max_turns=1)
    order = []
    for _ in range(3):
        turn = await worker.granted()
        order.append(turn.grant.run.conversation_id)
        await turn.commit("COMPLETED")
    assert order == [c.conversation_id for c in (high, normal, low)]


async def test_a_deadline_ends_a_run_and_its_lease(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation(timeout=Duration(nanos=200_000_000))
    turn = await worker.granted()
    assert (await worker.lost()).reason == "deadline"
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await turn.commit()
    shown = await store.get(conversation.conversation_id)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_FAILED
    assert shown.run.end_reason == conversation_pb2.RUN_END_REASON_DEADLINE


async def test_after_a_restart_leases_have_a_grace_and_their_workers_go_on(
    tmp_path: Path,
    database: Database,
) -> None:
    store = await RunningStore.start(tmp_path, **database)
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    held = list(worker.held.items())
    await store.stop()
    await asyncio.sleep(store.settings.lease_seconds)
    store = await RunningStore.start(tmp_path, **database)
    rival = await store.worker()
    await asyncio.sleep(10 * store.settings.sweep_seconds)
    back = LeasedWorker(store, worker.worker_id, 1, held=held)
    store.workers.append(back)
    await back.connect()
    await asyncio.sleep(2 * store.settings.lease_seconds)
    assert rival.grants.empty()
    turn.store = store
    await turn.commit("COMPLETED")
    await store.stop()


async def test_the_first_message_must_be_hello(store: RunningStore) -> None:
    async def requests() -> AsyncIterator[turn_pb.LeaseTurnsRequest]:
        yield turn_pb.LeaseTurnsRequest(capacity=turn_pb.LeaseCapacity(max_turns=1))
        await asyncio.sleep(PATIENCE)

    call = store.turns.LeaseTurns(requests())
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="hello"):
        await call.read()


@pytest.mark.parametrize("workers", [3])
async def test_many_runs_are_each_granted_once_per_turn(store: RunningStore, workers: int) -> None:
    crowd = [await store.worker(max_turns=5) for _ in range(workers)]
    conversations = [await store.start_conversation(max_rounds=3) for _ in range(30)]
    seen: set[tuple[str, int]] = set()

    async def work(worker: LeasedWorker) -> None:
        while True:
            turn = await worker.granted()
            key = (turn.run_id, turn.grant.turn)
            assert key not in seen
            seen.add(key)
            await turn.take("RUNNABLE")

    tasks = [asyncio.create_task(work(worker)) for worker in crowd]
    async with asyncio.timeout(PATIENCE):
        while len(seen) < 90:
            await asyncio.sleep(0.05)
        for conversation in conversations:
            while (await store.get(conversation.conversation_id)).status != (
                conversation_pb2.CONVERSATION_STATUS_COMPLETED
            ):
                await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()


async def test_a_hello_comes_once(store: RunningStore) -> None:
    hello = turn_pb.LeaseTurnsRequest(hello=turn_pb.LeaseHello(worker_id="w", max_turns=1))
    call = store.turns.LeaseTurns()
    await call.write(hello)
    assert (await call.read()).HasField("accepted")
    await call.write(hello)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="hello"):
        async with asyncio.timeout(PATIENCE):
            while await call.read() is not grpc.aio.EOF:
                pass


async def test_failed_attempts_back_off_and_end_as_a_dead_letter_that_can_be_requeued(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    await (await worker.granted()).take(checkpoint=turn_pb.Checkpoint(data=b"good"))
    for attempt in range(1, store.settings.max_turn_failures + 1):
        turn = await worker.granted()
        assert turn.grant.run.attempt == attempt
        released = await turn.release(
            failed=True,
            detail="the model is down",
            reason=conversation_pb2.RUN_END_REASON_MODEL_ERROR,
        )
    assert released.status == conversation_pb2.RUN_STATUS_DEAD_LETTER
    log = await store.log(conversation.conversation_id)
    failures = [event.attempt_failed for event in log if event.HasField("attempt_failed")]
    assert [failure.attempt for failure in failures] == [1, 2, 3, 4]
    delays = [failure.retry_after.ToMicroseconds() for failure in failures]
    assert all(later == 2 * sooner for sooner, later in itertools.pairwise(delays))
    shown = await store.get(conversation.conversation_id)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_FAILED
    assert shown.run.end_reason == conversation_pb2.RUN_END_REASON_ATTEMPTS_EXHAUSTED
    failed = store_pb.ListConversationsRequest(
        statuses=[conversation_pb2.CONVERSATION_STATUS_FAILED]
    )
    found = await store.conversations.ListConversations(failed, metadata=acting(ACME))
    assert [one.run.status for one in found.conversations] == [released.status]
    resume = store_pb.ResumeConversationRequest(conversation_id=conversation.conversation_id)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    again = await worker.granted()
    assert again.run_id != turn.run_id
    assert (again.grant.run.attempt, again.grant.checkpoint.data) == (1, b"good")
    await again.take("COMPLETED")
    shown = await store.get(conversation.conversation_id)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_COMPLETED


async def test_a_lost_worker_cannot_undo_a_pause(store: RunningStore) -> None:
    silent = await store.worker(renews=False)
    cid = (await store.start_conversation()).conversation_id
    turn = await silent.granted()
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    await silent.lost()
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await turn.take("RUNNABLE")
    assert (await store.get(cid)).run.status == conversation_pb2.RUN_STATUS_PAUSED
