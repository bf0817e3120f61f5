"""What the subscribers of one conversation share: a cache that must never show a hole."""

from __future__ import annotations

from collections.abc import Iterable

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.storage.interface import Head
from agentmesh_conversation_store.subscriptions import hub as hub_module
from agentmesh_conversation_store.subscriptions.hub import ConversationHub


class _Woken:
    def __init__(self) -> None:
        self.times = 0

    def wake(self) -> None:
        self.times += 1


def _events(sequences: Iterable[int], size: int = 10) -> list[StoredEvent]:
    return [StoredEvent(n, "message", "r", "a", f"m{n}", 1, b"x" * size) for n in sequences]


def _after(hub: ConversationHub, position: int) -> list[int]:
    return [event.sequence for event in hub.after(position)]


def _hub() -> ConversationHub:
    return ConversationHub("acme", "conv_1")


def test_a_lost_notice_leaves_no_hole() -> None:
    hub = _hub()
    hub.accept(Head(3, 1, active=True), _events([1, 2, 3]))
    hub.accept(Head(7, 1, active=True), _events([6, 7]))
    assert _after(hub, 3) == []
    assert hub.response_after(2) is None
    assert _after(hub, 5) == [6, 7]
    assert hub.head.sequence == 7


def test_a_notice_that_did_not_hold_all_leaves_no_hole() -> None:
    hub = _hub()
    hub.accept(Head(5, 1, active=True), _events([1, 2]))
    hub.accept(Head(7, 1, active=True), _events([6, 7]))
    assert _after(hub, 0) == []
    assert _after(hub, 2) == []
    assert _after(hub, 5) == [6, 7]


def test_old_news_changes_nothing() -> None:
    hub, woken = _hub(), _Woken()
    hub.accept(Head(3, 1, active=False), _events([1, 2, 3]))
    hub.subscribers.add(woken)
    hub.accept(Head(2, 1, active=True), _events([1, 2]))
    hub.accept(Head(3, 1, active=False), _events([2, 3]))
    assert hub.head == Head(3, 1, active=False)
    assert _after(hub, 0) == [1, 2, 3]
    assert woken.times == 0


def test_a_head_without_events_wakes_readers() -> None:
    hub, woken = _hub(), _Woken()
    hub.subscribers.add(woken)
    hub.accept(Head(4, 1, active=True), ())
    assert woken.times == 1
    assert _after(hub, 3) == []


def test_the_ring_is_bounded() -> None:
    hub = _hub()
    count = 3 * hub_module.RING_EVENTS
    for n in range(1, count + 1):
        hub.accept(Head(n, 1, active=True), _events([n]))
    assert _after(hub, 0) == []
    assert _after(hub, count - hub_module.RING_EVENTS)[0] == count - hub_module.RING_EVENTS + 1
    hub = _hub()
    for n in range(1, 20):
        hub.accept(Head(n, 1, active=True), _events([n], size=200_000))
    assert _after(hub, 12) == []
    assert _after(hub, 18) == [19]


def test_one_response_for_everybody_at_a_position() -> None:
    hub = _hub()
    hub.accept(Head(2, 1, active=True), _events([1, 2]))
    first = hub.response_after(0)
    assert first is not None
    assert hub.response_after(0) is first
    assert (first.last_sequence, first.message_ids) == (2, ("m1", "m2"))
    hub.accept(Head(3, 1, active=True), _events([3]))
    second = hub.response_after(0)
    assert second is not None
    assert second.last_sequence == 3


def test_a_response_is_bounded_and_goes_on_where_it_ended() -> None:
    hub = _hub()
    hub.accept(Head(10, 1, active=True), _events(range(1, 11), size=60_000))
    batch = _after(hub, 0)
    assert batch == [1, 2, 3, 4]
    assert _after(hub, batch[-1])[0] == 5
    hub.accept(Head(11, 1, active=True), _events([11], size=900_000))
    assert _after(hub, 10) == [11]
