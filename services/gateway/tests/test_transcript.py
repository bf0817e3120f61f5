"""Reading a conversation's newest messages: what is found, and how much is read for it."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh.conversation.v1.conversation_pb2 import Conversation
from agentmesh.conversation.v1.event_pb2 import Event, TurnCommitted, TurnDiscarded
from agentmesh.conversation.v1.message_pb2 import Message
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh_gateway.transcript import Transcript, newest_messages
from hypothesis import given
from hypothesis import strategies as st


class Log:
    """A log in memory that is paged as the store does it, and counts what it gives out."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.read = 0
        self.calls = 0

    async def ListEvents(  # noqa: N802  named as in the contract
        self, request: store_pb2.ListEventsRequest
    ) -> store_pb2.ListEventsResponse:
        assert 0 < request.page_size <= 1000
        self.calls += 1
        if request.newest_first:
            return self._backwards(request)
        position = int(request.page_token or request.after_sequence)
        found: list[Event] = []
        while position < len(self.events) and len(found) < request.page_size:
            event = self.events[position]
            position = event.sequence
            if event.WhichOneof("kind") in request.filter.kinds:
                found.append(event)
        self.read += len(found)
        token = str(position) if position < len(self.events) else ""
        return store_pb2.ListEventsResponse(events=found, next_page_token=token)

    def _backwards(self, request: store_pb2.ListEventsRequest) -> store_pb2.ListEventsResponse:
        end = int(request.page_token or request.before_sequence) or len(self.events) + 1
        end = min(end, len(self.events) + 1)
        found: list[Event] = []
        while end > 1 and len(found) < request.page_size:
            end -= 1
            event = self.events[end - 1]
            if event.WhichOneof("kind") in request.filter.kinds:
                found.append(event)
        self.read += len(found)
        return store_pb2.ListEventsResponse(
            events=found, next_page_token=str(end) if end > 1 else ""
        )


def log_of(kinds: list[str | list[int]]) -> Log:
    """A log of messages ("m"), ends of turns ("t") and discards of earlier sequences."""
    events: list[Event] = []
    for sequence, kind in enumerate(kinds, 1):
        if isinstance(kind, list):
            gone = TurnDiscarded(message_ids=[f"msg_{number}" for number in kind])
            events.append(Event(sequence=sequence, turn_discarded=gone))
        elif kind == "m":
            message = Message(message_id=f"msg_{sequence}", content=str(sequence))
            events.append(Event(sequence=sequence, message=message))
        else:
            events.append(Event(sequence=sequence, turn_committed=TurnCommitted()))
    return Log(events)


async def page(log: Log, limit: int, before: int = 0) -> Transcript:
    conversation = Conversation(
        conversation_id="conv_1", oldest_sequence=1, head_sequence=len(log.events)
    )
    store: Any = log
    return await newest_messages(store, conversation, limit, before, 1_000_000)


async def test_a_page_far_before_the_end_reads_little_of_the_rest() -> None:
    log = log_of(["m"] * 20_000)
    found = await page(log, 20, before=100)
    assert [int(message.content) for message in found.messages] == list(range(80, 100))
    assert found.older_before == 80
    assert log.read < 150


async def test_the_newest_page_is_one_call() -> None:
    log = log_of(["m", "t"] * 1_000)
    assert len((await page(log, 20)).messages) == 20
    assert log.calls == 1


@pytest.mark.parametrize("discarded_at", [100, 101, 5_000])
async def test_a_message_that_is_discarded_long_after_the_page_is_not_on_it(
    discarded_at: int,
) -> None:
    kinds: list[str | list[int]] = ["m"] * 5_000
    kinds[discarded_at - 1] = [99, 97]
    found = await page(log_of(kinds), 3, before=100)
    assert [int(message.content) for message in found.messages] == [95, 96, 98]


@given(data=st.data(), limit=st.integers(1, 6))
async def test_pages_are_those_of_the_whole_log(data: st.DataObject, limit: int) -> None:
    length = data.draw(st.integers(1, 60))
    kinds: list[str | list[int]] = [
        data.draw(
            st.one_of(
                st.sampled_from(["m", "t"]),
                st.lists(st.integers(1, max(position, 1)), max_size=3),
            )
        )
        for position in range(length)
    ]
    before = data.draw(st.integers(0, length + 2))
    log = log_of(kinds)
    gone = {number for kind in kinds if isinstance(kind, list) for number in kind}
    good = [
        number
        for number, kind in enumerate(kinds, 1)
        if kind == "m" and number not in gone and (not before or number < before)
    ]
    found = await page(log, limit, before)
    assert [int(message.content) for message in found.messages] == good[-limit:]
    assert found.older_before == (good[-limit] if len(good) > limit else 0)
