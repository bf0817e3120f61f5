"""One subscriber at its own pace: what its signs of life promise, and what it never passes over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb
from agentmesh_conversation_store.codec.tokens import resumed_sequence
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.interface import EventFilter, Head
from agentmesh_conversation_store.subscriptions.hub import ConversationHub
from agentmesh_conversation_store.subscriptions.subscriber import Subscriber, Until, Wanted

HEAD = 20


def _event(sequence: int, kind: str = "message") -> StoredEvent:
    return StoredEvent(sequence, kind, "r", "a", f"m{sequence}", 1, b"")


class _Log:
    """A log that is read one event at a time; some of it may be gone."""

    def __init__(self, sequences: Sequence[int]) -> None:
        self.sequences = sequences

    async def events(self, *arguments: Any) -> list[StoredEvent]:
        after = arguments[2]
        return [_event(n, "message" if n % 2 else "note") for n in self.sequences if n > after][:1]

    async def heads(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Head]:
        return {key: Head(HEAD, self.sequences[0], active=True) for key in keys}

    async def now(self) -> int:
        return 0


async def _serve(
    written: list[bytes],
    hub: ConversationHub,
    log: _Log,
    accepted: EventFilter,
    position: int = 0,
) -> None:
    wanted = Wanted(position, Until.HEAD, accepted, deltas=False)
    reads: Any = log
    # A sign of life is due after every event.

    async def write(response: bytes) -> None:
        written.append(response)

    await Subscriber(hub, reads, wanted, 0.0, asyncio.Event(), write).serve()


def _item(response: bytes) -> stream_pb2.StreamItem:
    return store_pb.SubscribeConversationResponse.FromString(response).item


@pytest.mark.parametrize("accepted", [EventFilter(), EventFilter(frozenset({"message"}))])
async def test_a_sign_of_life_says_where_the_reader_is_and_where_the_log_ends(
    accepted: EventFilter,
) -> None:
    hub = ConversationHub("acme", "conv_1")
    hub.accept(Head(HEAD, 1, active=True), [])
    written: list[bytes] = []
    await _serve(written, hub, _Log(range(1, HEAD + 1)), accepted)
    told = []
    for response in written:
        item = _item(response)
        if not item.HasField("heartbeat"):
            continue
        beat = item.heartbeat
        told.append(beat.delivered_through)
        assert beat.head_sequence == HEAD
        assert resumed_sequence(item.resume_token, hub.binding) == beat.delivered_through
    assert told == sorted(told)
    assert {1, 5, 9, HEAD} <= set(told)


@pytest.mark.parametrize("known", [1, 6], ids=["nobody has said so yet", "and it is known"])
async def test_what_was_removed_is_never_passed_over(known: int) -> None:
    hub = ConversationHub("acme", "conv_1")
    hub.accept(Head(HEAD, known, active=True), [])
    written: list[bytes] = []
    with pytest.raises(Rejection) as refused:
        await _serve(written, hub, _Log(range(6, HEAD + 1)), EventFilter(), 3)
    assert written == []
    assert refused.value.reason is Reason.HISTORY_REMOVED
    assert refused.value.metadata["oldest_sequence"] == "6"


async def test_who_has_kept_up_is_written_to_before_the_news_is_passed_on() -> None:
    hub = ConversationHub("acme", "conv_1")
    hub.accept(Head(1, 1, active=True), [_event(1)])
    written: list[bytes] = []

    async def write(response: bytes) -> None:
        written.append(response)

    wanted = Wanted(1, Until.FOREVER, EventFilter(), deltas=False)
    reads: Any = _Log([1, 2])
    reader = Subscriber(hub, reads, wanted, 60.0, asyncio.Event(), write)
    hub.subscribers.add(reader)
    serving = asyncio.create_task(reader.serve())
    await asyncio.sleep(0)
    hub.accept(Head(2, 1, active=True), [_event(2)])
    assert len(written) == 1
    hub.accept(Head(3, 1, active=True), [_event(3)])
    for _ in range(3):
        await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    assert [
        resumed_sequence(_item(response).resume_token, hub.binding) for response in written
    ] == [2, 3]
