"""Logs read in pages: forwards, backwards, and as context, where summaries stand for events."""

from __future__ import annotations

from typing import Any

import grpc
import hypothesis.strategies as st
import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.context import Summary, standing, stretches
from hypothesis import given
from meshkit.errors import from_rpc_error

from services.conversation_store.tests.driver import RunningStore, Turn
from services.conversation_store.tests.support import ACME, acting, message_event, store_pb


def _summary(first: int, last: int, text: str = "in short") -> event_pb2.Event:
    return event_pb2.Event(
        agent="writer",
        context_summary=event_pb2.ContextSummary(
            first_sequence=first, last_sequence=last, text=text
        ),
    )


async def _talk(store: RunningStore, messages: int) -> tuple[str, Turn]:
    """A conversation of three events and so many messages, in a turn under way."""
    conversation = await store.start_conversation()
    worker = await store.worker(max_turns=1)
    turn = await worker.granted()
    for number in range(messages):
        await turn.begin(f"writer/{number}")
        said = message_event(f"{turn.message_id}_{number}", f"said {number}")
        await turn.record(f"writer/{number}", events=[said])
    return conversation.conversation_id, turn


async def _summarise(turn: Turn, key: str, *summaries: event_pb2.Event) -> None:
    await turn.begin(key)
    await turn.record(key, events=summaries)


async def _read(store: RunningStore, conversation_id: str, **fields: Any) -> list[int]:
    """The sequences of all pages."""
    request = store_pb.ListEventsRequest(conversation_id=conversation_id, **fields)
    found: list[int] = []
    while True:
        page = await store.conversations.ListEvents(request, metadata=acting(ACME))
        assert len(page.events) <= (request.page_size or 200)
        found += [event.sequence for event in page.events]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 200])
async def test_pages_go_forwards_and_backwards(store: RunningStore, page_size: int) -> None:
    cid, _ = await _talk(store, 5)
    assert await _read(store, cid, page_size=page_size) == [1, 2, 3, 4, 5, 6, 7, 8]
    back = {"newest_first": True, "page_size": page_size}
    assert await _read(store, cid, **back) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert await _read(store, cid, before_sequence=6, **back) == [5, 4, 3, 2, 1]
    assert await _read(store, cid, before_sequence=6, after_sequence=2, **back) == [5, 4, 3]
    forth = {"before_sequence": 6, "after_sequence": 2, "page_size": page_size}
    assert await _read(store, cid, **forth) == [3, 4, 5]
    only = {"filter": {"kinds": ["message"]}}
    assert await _read(store, cid, **only, **back) == [8, 7, 6, 5, 4, 3]
    assert await _read(store, cid, before_sequence=1, **back) == []
    assert await _read(store, cid, before_sequence=99, **back) == [8, 7, 6, 5, 4, 3, 2, 1]


async def test_a_page_back_of_large_events_holds_the_newest(store: RunningStore) -> None:
    cid, turn = await _talk(store, 0)
    for number in range(8):
        key = f"writer/{number}"
        custom = event_pb2.CustomEvent(type="org.example", payload_json="x" * 700_000)
        await turn.begin(key)
        await turn.record(key, events=[event_pb2.Event(custom=custom)])
    request = store_pb.ListEventsRequest(conversation_id=cid, newest_first=True)
    page = await store.conversations.ListEvents(request, metadata=acting(ACME))
    assert 1 <= len(page.events) < 8
    assert page.events[0].sequence == 11
    assert await _read(store, cid, newest_first=True) == list(range(11, 0, -1))


@pytest.mark.parametrize("page_size", [1, 2, 200])
async def test_summaries_stand_for_what_they_summarise(store: RunningStore, page_size: int) -> None:
    cid, turn = await _talk(store, 6)  # 4 to 9
    await _summarise(turn, "summary/1", _summary(4, 6))  # 10
    context = {"view": store_pb.EVENT_VIEW_CONTEXT, "page_size": page_size}
    assert await _read(store, cid, **context) == [1, 2, 3, 10, 7, 8, 9]
    assert await _read(store, cid, after_sequence=4, **context) == [10, 7, 8, 9]
    assert await _read(store, cid, after_sequence=6, **context) == [7, 8, 9]
    await _summarise(turn, "summary/2", _summary(6, 8))  # 11 overlaps the one before
    assert await _read(store, cid, **context) == [1, 2, 3, 4, 5, 11, 9]
    await _summarise(turn, "summary/3", _summary(1, 3))  # 12
    assert await _read(store, cid, **context) == [12, 4, 5, 11, 9]
    await _summarise(turn, "summary/4", _summary(1, 12))  # 13 stands for all of it
    assert await _read(store, cid, **context) == [13]
    assert await _read(store, cid, page_size=page_size) == list(range(1, 14))
    only = {"filter": {"kinds": ["message"]}}
    assert await _read(store, cid, **context, **only) == []


async def test_the_summary_of_a_discarded_turn_does_not_count(store: RunningStore) -> None:
    cid, turn = await _talk(store, 2)
    await _summarise(turn, "summary/1", _summary(1, 3))
    await turn.commit(discard=True)
    found = await _read(store, cid, view=store_pb.EVENT_VIEW_CONTEXT)
    assert found == [1, 2, 3, 4, 5, 7]


async def test_context_stays_as_it_was_at_the_first_page(store: RunningStore) -> None:
    cid, turn = await _talk(store, 4)
    request = store_pb.ListEventsRequest(
        conversation_id=cid, view=store_pb.EVENT_VIEW_CONTEXT, page_size=3
    )
    page = await store.conversations.ListEvents(request, metadata=acting(ACME))
    assert [event.sequence for event in page.events] == [1, 2, 3]
    await _summarise(turn, "summary/1", _summary(1, 7))
    request.page_token = page.next_page_token
    rest = await store.conversations.ListEvents(request, metadata=acting(ACME))
    assert [event.sequence for event in rest.events] == [4, 5, 6]


@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        (0, 2, "first_sequence"),
        (3, 2, "first_sequence"),
        (-1, -1, "first_sequence"),
        (1, 5, "last_sequence"),
        (1, 10**12, "last_sequence"),
    ],
)
async def test_a_summary_of_what_is_not_before_it_is_refused(
    store: RunningStore, first: int, last: int, field: str
) -> None:
    cid, turn = await _talk(store, 1)
    await turn.begin("summary")
    said = message_event("msg_x", "beside it")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await turn.record("summary", events=[_summary(first, last)])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = from_rpc_error(refused.value).violations
    assert violation.field == f"events[0].context_summary.{field}"
    with pytest.raises(grpc.aio.AioRpcError, match=r"not before|no range"):
        await turn.commit(events=[said, _summary(first, last + (last > 3))])
    assert (await store.get(cid)).head_sequence == 4
    await turn.record("summary", events=[_summary(1, 4)])


async def test_context_is_read_forwards(store: RunningStore) -> None:
    cid, _ = await _talk(store, 1)
    for fields in ({"newest_first": True}, {"before_sequence": 3}):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _read(store, cid, view=store_pb.EVENT_VIEW_CONTEXT, **fields)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 10), st.booleans()), max_size=12),
    st.integers(0, 40),
)
def test_context_leaves_nothing_out_and_tells_nothing_twice(
    ranges: list[tuple[int, int, bool]], after: int
) -> None:
    """Each event is shown or stood for, once; the newest summary always counts."""
    head = 60
    summaries = [
        Summary(41 + number, first, first + more, ("run", number * given_up))
        for number, (first, more, given_up) in enumerate(ranges)
    ]
    discarded = {("run", number) for number in range(1, 12)}
    chosen = standing(summaries, discarded)
    counting = [s for s in summaries if s.turn not in discarded]
    assert not counting or counting[-1] in chosen
    assert all(s.turn not in discarded for s in chosen)
    covered: list[int] = []
    for stretch in stretches(chosen, after, head):
        covered += range(stretch.after + 1, stretch.through + 1)
    assert covered == list(range(after + 1, head + 1))
    for summary in counting:
        if summary not in chosen:
            assert any(
                s.sequence > summary.sequence
                and s.first <= summary.last
                and summary.first <= s.last
                for s in chosen
            )
