"""Forking, deleting and holding as callers, workers and subscribers see it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from meshkit.errors import from_rpc_error
from meshkit.identity import Principal

from services.conversation_store.tests.driver import Reader, RunningStore
from services.conversation_store.tests.support import ACME, OTHER, acting, store_pb

OPERATOR = Principal("bob", "acme", 2)


async def fork(store: RunningStore, conversation_id: str, **fields: Any) -> Any:
    """Forks."""
    principal = fields.pop("principal", ACME)
    request = store_pb.ForkConversationRequest(conversation_id=conversation_id, **fields)
    response = await store.conversations.ForkConversation(request, metadata=acting(principal))
    return response.conversation


async def delete(store: RunningStore, conversation_id: str, **fields: Any) -> Any:
    """Deletes."""
    principal = fields.pop("principal", ACME)
    request = store_pb.DeleteConversationRequest(conversation_id=conversation_id, **fields)
    return await store.conversations.DeleteConversation(request, metadata=acting(principal))


async def update(store: RunningStore, conversation_id: str, **fields: Any) -> Any:
    """Updates."""
    principal = fields.pop("principal", ACME)
    request = store_pb.UpdateConversationRequest(conversation_id=conversation_id, **fields)
    response = await store.conversations.UpdateConversation(request, metadata=acting(principal))
    return response.conversation


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    return error.code, error.reason_name, dict(error.metadata)


async def talked(store: RunningStore, turns: int = 2) -> str:
    """A conversation that took some turns and waits for a person."""
    conversation = await store.start_conversation()
    worker = await store.worker()
    for number in range(turns):
        turn = await worker.granted()
        await turn.take("WAITING" if number == turns - 1 else "RUNNABLE")
    return str(conversation.conversation_id)


async def test_a_fork_is_replayed_and_goes_on_live(store: RunningStore) -> None:
    name = await talked(store)
    head = (await store.get(name)).head_sequence
    made = await fork(store, name, at_sequence=head - 1)
    assert made.forked_from_conversation_id == name
    assert made.forked_at_sequence == head - 1
    reader = Reader(store.subscribe(made.conversation_id))
    await reader.until(lambda r: len(r.events) >= made.head_sequence)
    await store.send(made.conversation_id, "go on here")
    turn = await store.workers[0].granted()
    await turn.take("COMPLETED")
    await reader.until(lambda r: r.events[-1].HasField("run_ended"))
    reader.stop()
    log = await store.log(made.conversation_id)
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert {event.conversation_id for event in log} == {made.conversation_id}
    assert log == reader.events
    assert log[head - 1].conversation_forked.conversation_id == name
    source = await store.log(name)
    for own, shared in zip(source[: head - 1], log, strict=False):
        own.conversation_id = made.conversation_id
        assert own == shared
    assert len(source) == head


async def test_a_fork_of_the_middle_of_a_turn_does_not_stop_that_turn(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    worker = await store.worker()
    turn = await worker.granted()
    await turn.begin()
    await turn.record(content="half a turn")
    reader = Reader(store.subscribe(conversation.conversation_id))
    made = await fork(store, conversation.conversation_id)
    await turn.publish(turn.delta(0, "still writing", message_id="msg_next"))
    await reader.until(lambda r: bool(r.deltas))
    reader.stop()
    await turn.commit("COMPLETED")
    log = await store.log(made.conversation_id)
    (taken_back,) = [event for event in log if event.HasField("turn_discarded")]
    assert list(taken_back.turn_discarded.message_ids) == [turn.message_id]


async def test_a_repeated_fork_is_the_same_fork(store: RunningStore) -> None:
    name = await talked(store)
    first = await fork(store, name, request_id="once")
    assert first == await fork(store, name, request_id="once")
    assert (await fork(store, name)).conversation_id != first.conversation_id
    code, reason, _ = await refused(fork(store, name, request_id="once", at_sequence=1))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_a_fork_beyond_the_head_is_refused(store: RunningStore) -> None:
    name = await talked(store)
    code, reason, metadata = await refused(fork(store, name, at_sequence=10_000))
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "BEYOND_HEAD")
    assert metadata["head_sequence"] == str((await store.get(name)).head_sequence)


async def test_another_tenant_neither_forks_nor_deletes(store: RunningStore) -> None:
    name = await talked(store)
    for call in (fork(store, name, principal=OTHER), delete(store, name, principal=OTHER)):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (await store.get(name)).conversation_id == name


async def test_a_deletion_reaches_subscribers_workers_and_readers(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    name = conversation.conversation_id
    worker = await store.worker()
    turn = await worker.granted()
    reader = Reader(store.subscribe(name))
    await reader.until(lambda r: len(r.events) == 3)
    await delete(store, name, request_id="gone")
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await reader.ended()
    assert ended.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await worker.lost()).run_id == turn.run_id
    code, _, _ = await refused(turn.record())
    assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED)
    for call in (store.get(name), store.send(name), store.log(name), delete(store, name)):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    await delete(store, name, request_id="gone")


async def test_two_who_delete_at_once_delete_once(store: RunningStore) -> None:
    name = await talked(store)
    outcomes = await asyncio.gather(
        *(delete(store, name) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1


async def test_legal_hold_is_an_admins_and_stops_deletion(store: RunningStore) -> None:
    name = await talked(store)
    code, reason, _ = await refused(update(store, name, legal_hold=True, principal=OPERATOR))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW")
    held = await update(store, name, legal_hold=True)
    assert held.legal_hold
    assert (await store.get(name)).legal_hold
    code, reason, _ = await refused(delete(store, name))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LEGAL_HOLD")
    assert not (await update(store, name, legal_hold=False)).legal_hold
    await delete(store, name)


async def test_subscribers_of_removed_history_hear_what_is_left(store: RunningStore) -> None:
    name = await talked(store, turns=6)
    kept = await update(store, name, retention_events=3, retention_age=Duration(seconds=86_400))
    assert (kept.retention_events, kept.retention_age.seconds) == (3, 86_400)
    async with asyncio.timeout(20):
        while (oldest := (await store.get(name)).oldest_sequence) == 1:
            await asyncio.sleep(0.05)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await Reader(store.subscribe(name, after_sequence=1)).ended()
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason_name) == (grpc.StatusCode.OUT_OF_RANGE, "HISTORY_REMOVED")
    assert error.metadata["oldest_sequence"] == str(oldest)
    reader = Reader(store.subscribe(name, after_sequence=oldest - 1))
    await reader.until(lambda r: bool(r.events))
    reader.stop()
    assert reader.sequences[0] == oldest
    assert (await store.log(name))[0].sequence == oldest
    code, reason, _ = await refused(fork(store, name, at_sequence=1))
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "HISTORY_REMOVED")
