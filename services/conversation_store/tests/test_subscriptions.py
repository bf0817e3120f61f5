"""Subscriptions over gRPC: everything once and in order, then live."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1 import stream_pb2
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import (
    Database,
    LeasedWorker,
    Reader,
    RunningStore,
    Turn,
)
from services.conversation_store.tests.support import OTHER, store_pb

HEAD = stream_pb2.SUBSCRIBE_UNTIL_HEAD
RUN_END = stream_pb2.SUBSCRIBE_UNTIL_RUN_END


async def _begun(store: RunningStore) -> tuple[str, LeasedWorker, Turn]:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    return conversation.conversation_id, worker, turn


async def _read_all(store: RunningStore, conversation_id: str, **fields: Any) -> Reader:
    reader = Reader(store.subscribe(conversation_id, **fields))
    await reader.ended()
    return reader


async def test_every_reader_sees_the_log_while_writers_write(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    early = [Reader(store.subscribe(cid)) for _ in range(5)]
    messages, writers = 40, 5

    async def write(writer: int) -> None:
        for number in range(messages):
            await store.send(cid, f"{writer}/{number}")

    async def join_late() -> Reader:
        await asyncio.sleep(0.01)
        return Reader(store.subscribe(cid))

    late, _ = await asyncio.gather(
        asyncio.gather(*(join_late() for _ in range(5))),
        asyncio.gather(*(write(writer) for writer in range(writers))),
    )
    log = await store.log(cid)
    assert len(log) == 3 + messages * writers
    for reader in [*early, *late]:
        await reader.until(lambda r: len(r.events) >= len(log))
        assert reader.events == log
        reader.stop()


async def test_resuming_at_every_token_gives_the_rest(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    reader = Reader(store.subscribe(cid))
    for number in range(10):
        await store.send(cid, str(number))
    await reader.until(lambda r: len(r.events) == 13)
    reader.stop()
    for item in reader.items:
        seen = item.events.events[-1].sequence
        rest = await _read_all(store, cid, resume_token=item.resume_token, until=HEAD)
        assert rest.sequences == list(range(seen + 1, 14))


async def test_a_reader_goes_on_after_a_restart_of_the_store(
    tmp_path: Path, database: Database
) -> None:
    store = await RunningStore.start(tmp_path, **database)
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    reader = Reader(store.subscribe(cid))
    await reader.until(lambda r: len(r.events) == 3)
    stopping = asyncio.create_task(store.host.stop())
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING") as drained:
        await reader.ended()
    assert drained.error.retry_after is not None
    await stopping
    await store.stop()
    store = await RunningStore.start(tmp_path, **database)
    await store.send(cid)
    rest = await _read_all(store, cid, resume_token=reader.items[-1].resume_token, until=HEAD)
    assert rest.sequences == [4]
    await store.stop()


async def test_positions_out_of_range_are_told_apart(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    with raises_rich(grpc.StatusCode.OUT_OF_RANGE, "BEYOND_HEAD") as refused:
        await _read_all(store, cid, after_sequence=4, until=HEAD)
    assert refused.error.metadata["head_sequence"] == "3"
    other = await store.start_conversation()
    token = (await _read_all(store, other.conversation_id, until=HEAD)).items[-1].resume_token
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="resume_token"):
        await _read_all(store, cid, resume_token=token)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="resume_token"):
        await _read_all(store, cid, resume_token="nonsense")
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await _read_all(store, "conv_nobody_knows")


async def test_another_tenant_finds_nothing(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    token = (await _read_all(store, cid, until=HEAD)).items[-1].resume_token
    for fields in ({}, {"resume_token": token}, {"after_sequence": 3}):
        with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
            reader = Reader(store.subscribe(cid, OTHER, **fields))
            await reader.ended()


async def test_until_head_and_until_run_end(store: RunningStore) -> None:
    cid, _, turn = await _begun(store)
    assert (await _read_all(store, cid, until=HEAD)).sequences == [1, 2, 3]
    nothing = await _read_all(store, cid, until=HEAD, after_sequence=3)
    assert [item.WhichOneof("item") for item in nothing.items] == ["heartbeat"]
    assert nothing.items[0].heartbeat.delivered_through == 3
    reader = Reader(store.subscribe(cid, until=RUN_END))
    await turn.record()
    await turn.commit("COMPLETED")
    await reader.ended()
    assert reader.sequences == [1, 2, 3, 4, 5, 6]
    assert reader.events[-1].HasField("run_ended")
    assert (await _read_all(store, cid, until=RUN_END)).sequences == [1, 2, 3, 4, 5, 6]


async def test_filters_skip_events_and_heartbeats_tell_of_it(
    tmp_path: Path, database: Database
) -> None:
    store = await RunningStore.start(tmp_path, **database, heartbeat_seconds=0.05)
    cid, _, turn = await _begun(store)
    await turn.record()
    only = store_pb.EventFilter(kinds=["message"], agents=["writer"])
    reader = Reader(store.subscribe(cid, filter=only))
    await reader.until(lambda r: any(i.heartbeat.delivered_through == 4 for i in r.items))
    await store.send(cid)
    await reader.until(lambda r: any(i.heartbeat.delivered_through == 5 for i in r.items))
    assert reader.sequences == [4]
    beat = next(i for i in reader.items if i.heartbeat.delivered_through == 5)
    assert beat.heartbeat.head_sequence == 5
    assert (await _read_all(store, cid, resume_token=beat.resume_token, until=HEAD)).sequences == []
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="filter.kinds"):
        await _read_all(store, cid, filter=store_pb.EventFilter(kinds=["mesage"]))
    reader.stop()
    await store.stop()


@pytest.mark.parametrize("until", [HEAD, RUN_END])
@pytest.mark.parametrize("kind", ["message", "run_ended", "handoff"])
async def test_behind_a_filter_the_last_word_says_how_far_the_reader_is(
    store: RunningStore, until: stream_pb2.SubscribeUntil.ValueType, kind: str
) -> None:
    cid, _, turn = await _begun(store)
    await turn.record()
    await turn.commit("COMPLETED")
    head = len(await store.log(cid))
    reader = await _read_all(store, cid, until=until, filter=store_pb.EventFilter(kinds=[kind]))
    assert {event.WhichOneof("kind") for event in reader.events} <= {kind}
    assert [item.WhichOneof("item") for item in reader.items[-2:]].count("heartbeat") == 1
    beat = reader.items[-1].heartbeat
    assert beat.delivered_through == beat.head_sequence == head


async def test_deltas_come_between_their_events(store: RunningStore) -> None:
    cid, _, turn = await _begun(store)
    reader = Reader(store.subscribe(cid))
    await reader.until(lambda r: len(r.events) == 3)
    await turn.publish(turn.delta(0, "one "))
    await reader.until(lambda r: len(r.deltas) == 1)
    await turn.publish(turn.delta(1, "two "), turn.delta(2, "three"))
    await reader.until(lambda r: sum(len(d.text) for d in r.deltas) == 13)
    await turn.record(content="one two three")
    await reader.until(lambda r: len(r.events) == 4)
    assert "".join(delta.text for delta in reader.deltas) == "one two three"
    assert reader.deltas[0].message_id == reader.events[-1].message.message_id
    assert reader.deltas[0].fence == turn.grant.fence
    assert reader.deltas[-1].last_index == 2
    await turn.publish(turn.delta(3, "too late"))
    await turn.commit("COMPLETED")
    await reader.until(lambda r: len(r.events) == 6)
    assert not any("late" in delta.text for delta in reader.deltas)
    reader.stop()


async def test_who_comes_late_gets_the_text_so_far(store: RunningStore) -> None:
    cid, _, turn = await _begun(store)
    for index in range(20):
        await turn.publish(turn.delta(index, f"{index} "))
    reader = Reader(store.subscribe(cid, after_sequence=3))
    text = "".join(f"{index} " for index in range(20))
    await reader.until(lambda r: "".join(d.text for d in r.deltas) == text)
    assert (reader.deltas[0].first_index, reader.deltas[-1].last_index) == (0, 19)
    reader.stop()


async def test_a_delta_waits_for_the_event_before_it(store: RunningStore) -> None:
    cid, _, turn = await _begun(store)
    reader = Reader(store.subscribe(cid))
    await turn.publish(turn.delta(0, "early", after_sequence=4))
    await turn.record(content="the event before")
    other = turn.delta(0, "next", message_id="msg_next", after_sequence=4)
    await turn.publish(other)
    await reader.until(lambda r: any(d.message_id == "msg_next" for d in r.deltas))
    kinds = [item.WhichOneof("item") for item in reader.items]
    assert kinds[-1] == "delta"
    assert reader.sequences == [1, 2, 3, 4]
    assert not any(delta.text == "early" for delta in reader.deltas)
    reader.stop()


async def test_a_higher_fence_starts_a_message_again(store: RunningStore) -> None:
    cid, worker, turn = await _begun(store)
    reader = Reader(store.subscribe(cid))
    await turn.publish(turn.delta(0, "first try"))
    await reader.until(lambda r: len(r.deltas) == 1)
    await turn.release()
    again = await worker.granted()
    assert again.message_id == turn.message_id
    await again.publish(again.delta(0, "second "))
    await turn.publish(turn.delta(1, "a zombie"))
    await again.publish(again.delta(1, "try"))
    await reader.until(lambda r: "".join(d.text for d in r.deltas).endswith("try"))
    kinds = [item.WhichOneof("item") for item in reader.items]
    assert "discard" in kinds
    discard = reader.items[kinds.index("discard")].discard
    assert (discard.message_id, discard.fence) == (turn.message_id, again.grant.fence)
    after = [d for i in reader.items[kinds.index("discard") :] if (d := i.delta).text]
    assert "".join(delta.text for delta in after) == "second try"
    reader.stop()


async def test_an_interrupted_message_is_discarded(store: RunningStore) -> None:
    cid, _, turn = await _begun(store)
    reader = Reader(store.subscribe(cid))
    await turn.publish(turn.delta(0, "never to be finished"))
    await reader.until(lambda r: len(r.deltas) == 1)
    await store.cancel(cid)
    await reader.until(lambda r: any(i.HasField("discard") for i in r.items))
    assert reader.events[-1].HasField("run_ended")
    reader.stop()


@pytest.mark.parametrize("end", ["commit", "discard", "cancel"])
async def test_deltas_after_the_end_of_their_turn_show_no_phantom(
    store: RunningStore, end: str
) -> None:
    cid, _, turn = await _begun(store)
    if end == "cancel":
        await store.cancel(cid)
    else:
        await turn.record()
        await turn.commit("COMPLETED" if end == "commit" else "RUNNABLE", discard=end == "discard")
    await turn.publish(turn.delta(0, "a phantom", message_id="msg_phantom", after_sequence=0))
    reader = Reader(store.subscribe(cid))
    await reader.until(lambda r: bool(r.events))
    await turn.publish(turn.delta(1, "another", message_id="msg_phantom", after_sequence=0))
    sent = (await store.send(cid)).sequence
    await reader.until(lambda r: bool(r.sequences) and r.sequences[-1] >= sent)
    assert not reader.deltas
    reader.stop()


async def test_a_filter_may_refuse_deltas(store: RunningStore) -> None:
    cid, _, turn = await _begun(store)
    reader = Reader(store.subscribe(cid, filter=store_pb.EventFilter(without_deltas=True)))
    witness = Reader(store.subscribe(cid))
    await turn.publish(turn.delta(0, "unwanted"))
    await witness.until(lambda r: len(r.deltas) == 1)
    await turn.record()
    await reader.until(lambda r: len(r.events) == 4)
    assert not reader.deltas
    reader.stop()
    witness.stop()


@pytest.mark.parametrize(
    "fields",
    [{"kinds": ["run_ended"]}, {"run_ids": ["run_another"]}, {"agents": ["another"]}],
    ids=["kind", "run", "agent"],
)
async def test_deltas_pass_a_filter_only_with_their_messages(
    store: RunningStore, fields: dict[str, Any]
) -> None:
    cid, _, turn = await _begun(store)
    wanted = store_pb.EventFilter(**fields)
    reader = Reader(store.subscribe(cid, filter=wanted, until=RUN_END))
    witness = Reader(store.subscribe(cid))
    await turn.publish(turn.delta(0, "unwanted", agent="writer", run_id=turn.run_id))
    await witness.until(lambda r: len(r.deltas) == 1)
    await turn.record()
    await turn.commit("COMPLETED")
    await reader.ended()
    assert not reader.deltas
    witness.stop()


async def test_large_events_come_from_the_log(store: RunningStore) -> None:
    cid, _, turn = await _begun(store)
    reader = Reader(store.subscribe(cid))
    await turn.publish(turn.delta(0, "preview"))
    await reader.until(lambda r: len(r.deltas) == 1)
    await turn.record(content="x" * 200_000)
    await store.send(cid, "after")
    await reader.until(lambda r: len(r.events) == 5)
    assert reader.events == await store.log(cid)
    assert not any(item.HasField("discard") for item in reader.items)
    reader.stop()


@pytest.mark.parametrize("size", [1, 2000])
async def test_a_slow_reader_gets_everything_and_holds_nobody_up(
    store: RunningStore, size: int
) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    slow_call = store.subscribe(cid)
    first = await slow_call.read()
    seen = [event.sequence for event in first.item.events.events]
    quick = Reader(store.subscribe(cid))
    count = 1500
    for start in range(0, count, 100):
        await asyncio.gather(*(store.send(cid, "y" * size) for _ in range(start, start + 100)))
    await quick.until(lambda r: len(r.events) == count + 3)
    while len(seen) < count + 3:
        response = await slow_call.read()
        seen += [event.sequence for event in response.item.events.events]
    assert seen == list(range(1, count + 4))
    slow_call.cancel()
    quick.stop()


async def test_two_stores_on_one_database_serve_each_others_events(
    tmp_path: Path, database: Database
) -> None:
    """No notice passes between them: the look at the heads must find what the other wrote."""
    one = await RunningStore.start(tmp_path, **database)
    two = await RunningStore.start(tmp_path, **database)
    conversation = await one.start_conversation()
    cid = conversation.conversation_id
    reader = Reader(two.subscribe(cid))
    for number in range(5):
        await one.send(cid, str(number))
    await reader.until(lambda r: len(r.events) == 8)
    assert reader.events == await one.log(cid)
    reader.stop()
    await one.stop()
    await two.stop()
