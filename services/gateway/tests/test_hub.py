"""What the subscribers of one conversation share, without a network."""

from __future__ import annotations

import pytest
from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.conversation.v1.message_pb2 import Message
from agentmesh.conversation.v1.stream_pb2 import Delta, DeltaDiscard, EventBatch, StreamItem
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import (
    EventFilter,
    SubscribeConversationResponse,
)
from agentmesh_gateway.subscriptions.hub import RING_EVENTS, Hub
from agentmesh_gateway.subscriptions.live import LiveMessages
from agentmesh_gateway.subscriptions.responses import (
    Filter,
    Place,
    heartbeat_response,
    marks_place,
    place_after,
)
from hypothesis import given
from hypothesis import strategies as st

ALL = Filter(EventFilter())


def event(sequence: int, agent: str = "writer", content: str = "") -> Event:
    message = Message(message_id=f"msg_{sequence}", content=content or f"said {sequence}")
    return Event(sequence=sequence, agent=agent, run_id="run_1", message=message)


def response(*events: Event) -> bytes:
    token = f"token-{events[-1].sequence}"
    item = StreamItem(events=EventBatch(events=events), resume_token=token)
    return SubscribeConversationResponse(item=item).SerializeToString()


def delta(index: int, text: str, *, last: int = -1, fence: int = 1, after: int = 0) -> bytes:
    piece = Delta(
        message_id="msg_9",
        text=text,
        fence=fence,
        first_index=index,
        last_index=max(index, last),
        after_sequence=after,
    )
    return SubscribeConversationResponse(item=StreamItem(delta=piece)).SerializeToString()


def read(data: bytes) -> StreamItem:
    return SubscribeConversationResponse.FromString(data).item


def hub_at(position: int) -> Hub:
    return Hub("default", "conv_1", Place(position, f"token-{position}"))


def test_a_response_is_passed_on_as_it_came() -> None:
    hub = hub_at(0)
    data = response(event(1), event(2))
    hub.take(data)
    portion = hub.after(0, ALL)
    assert portion is not None
    assert portion.response is data
    assert (portion.last, portion.token) == (2, "token-2")
    assert hub.after(0, ALL) is portion


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    contents=st.lists(st.text(max_size=300), min_size=60, max_size=60),
    data=st.data(),
)
def test_any_position_gets_the_bytes_of_what_follows(
    sizes: list[int], contents: list[str], data: st.DataObject
) -> None:
    hub, sequence, log = hub_at(0), 0, []
    for size in sizes:
        batch = [event(sequence + n + 1, content=contents[sequence + n]) for n in range(size)]
        hub.take(response(*batch))
        log += batch
        sequence += size
    position = data.draw(st.integers(0, sequence - 1))
    seen: list[Event] = []
    while position < sequence:
        portion = hub.after(position, ALL)
        assert portion is not None
        seen += read(portion.response).events.events
        position = portion.last
    assert seen == log[sequence - len(seen) :]
    assert [e.SerializeToString() for e in seen] == [
        e.SerializeToString() for e in log[sequence - len(seen) :]
    ]


def test_what_came_already_is_not_taken_twice() -> None:
    hub = hub_at(2)
    hub.take(response(event(1), event(2), event(3)))
    hub.take(response(event(3)))
    portion = hub.after(2, ALL)
    assert portion is not None
    assert [e.sequence for e in read(portion.response).events.events] == [3]
    assert hub.head == 3


def test_the_ring_is_bounded_and_says_what_it_lost() -> None:
    hub = hub_at(0)
    for sequence in range(1, RING_EVENTS + 11):
        hub.take(response(event(sequence)))
    assert not hub.covers(0)
    assert hub.after(0, ALL) is None
    assert hub.covers(10)
    assert hub.after(10, ALL) is not None
    assert hub.place_of("token-1") is None
    assert hub.place_of(f"token-{hub.head}") == hub.head


def test_after_a_hole_nothing_older_is_offered() -> None:
    hub = hub_at(0)
    hub.take(response(event(1)))
    hub.take(response(event(5)))
    assert hub.after(0, ALL) is None
    assert not hub.covers(1)
    assert hub.covers(4)


@pytest.mark.parametrize(
    ("wanted", "passing"),
    [
        (EventFilter(agents=["writer"]), [1, 3]),
        (EventFilter(kinds=["message"]), [1, 2, 3]),
        (EventFilter(kinds=["run_ended"]), []),
        (EventFilter(run_ids=["run_2"], agents=["writer"]), []),
    ],
)
def test_filters_cut_events_out(wanted: EventFilter, passing: list[int]) -> None:
    hub = hub_at(0)
    hub.take(response(event(1), event(2, agent="critic"), event(3)))
    portion = hub.after(0, Filter(wanted))
    assert portion is not None
    assert portion.last == 3
    assert [e.sequence for e in read(portion.response).events.events] == passing
    assert bool(portion.response) == bool(passing)


def test_a_late_joiner_gets_the_text_so_far_in_one_piece() -> None:
    hub = hub_at(0)
    for index, text in enumerate(["once ", "upon ", "a time"]):
        hub.take(delta(index, text))
    (message,) = hub.live
    following = message.next_after(0, 0)
    assert following is not None
    pieces, data = following
    joined = read(data).delta
    assert (pieces, joined.text) == (3, "once upon a time")
    assert (joined.first_index, joined.last_index) == (0, 2)
    assert message.next_after(3, 0) is None


def test_pieces_are_held_until_the_event_before_them_is_out() -> None:
    hub = hub_at(0)
    hub.take(delta(0, "later", after=4))
    (message,) = hub.live
    assert message.next_after(0, 3) is None
    assert message.next_after(0, 4) is not None


def test_the_final_event_and_a_discard_end_a_message() -> None:
    hub = hub_at(8)
    hub.take(delta(0, "text"))
    hub.take(response(event(9)))
    assert len(hub.live) == 0
    hub.take(delta(0, "text"))
    discard = StreamItem(discard=DeltaDiscard(message_id="msg_9", fence=2))
    hub.take(SubscribeConversationResponse(item=discard).SerializeToString())
    assert len(hub.live) == 0


def test_a_higher_fence_starts_again_and_a_lower_one_is_ignored() -> None:
    live = LiveMessages()
    assert live.add(read(delta(0, "old")).delta, b"")
    assert live.add(read(delta(0, "new", fence=2)).delta, b"")
    assert not live.add(read(delta(1, " tail")).delta, b"")
    (message,) = live
    assert [piece.delta.text for piece in message.pieces] == ["new"]


def test_what_a_store_repeats_is_taken_up_where_it_is_new() -> None:
    live = LiveMessages()
    live.add(read(delta(0, "once ")).delta, b"")
    live.add(read(delta(1, "upon ")).delta, b"")
    assert not live.add(read(delta(0, "once ")).delta, b"")
    assert live.add(read(delta(0, "once upon a time", last=2)).delta, b"")
    (message,) = live
    newest = message.pieces[-1]
    assert (newest.delta.text, newest.delta.first_index) == ("a time", 2)
    assert read(newest.response).delta == newest.delta
    assert not live.add(read(delta(0, "something else", last=5)).delta, b"")


def test_places_are_read_from_events_and_heartbeats_only() -> None:
    assert marks_place(response(event(7)))
    some = Filter(EventFilter(kinds=["message"]))
    assert place_after(response(event(6), event(7)), ALL) == Place(7, "token-7")
    assert place_after(response(event(6), event(7)), some) == Place(None, "token-7")
    beat = heartbeat_response(5, 9, "token-5")
    assert marks_place(beat)
    assert place_after(beat, ALL) == place_after(beat, some) == Place(5, "token-5")
    assert read(beat).heartbeat.head_sequence == 9
    assert not marks_place(delta(0, "text"))
