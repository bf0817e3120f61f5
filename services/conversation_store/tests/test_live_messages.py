"""Previews of messages: what a subscriber may see of them."""

from __future__ import annotations

from agentmesh_conversation_store.fanout.interface import LiveDelta
from agentmesh_conversation_store.subscriptions import live
from agentmesh_conversation_store.subscriptions.live import LiveMessages


def _delta(first: int, text: str, **changes: object) -> LiveDelta:
    values: dict[str, object] = {
        "run_id": "r",
        "turn": 1,
        "message_id": "m",
        "agent": "a",
        "kind": 1,
        "text": text,
        "fence": 1,
        "first_index": first,
        "last_index": first,
        "after_sequence": 0,
        "tool": "",
    }
    return LiveDelta(**(values | changes))  # type: ignore[arg-type]  # its fields


def _texts(messages: LiveMessages, start: int = 0, position: int = 100) -> list[str]:
    message = messages.get("m")
    assert message is not None
    return [delta.text for _, delta in message.joined(start, position)]


def test_pieces_are_joined_while_they_are_of_one_kind() -> None:
    messages = LiveMessages()
    for index, kind in enumerate([1, 1, 2, 2, 1]):
        messages.add(_delta(index, str(index), kind=kind))
    assert _texts(messages) == ["01", "23", "4"]
    assert _texts(messages, start=1) == ["1", "23", "4"]


def test_a_hole_is_not_joined_over() -> None:
    messages = LiveMessages()
    messages.add(_delta(0, "a"))
    messages.add(_delta(2, "c"))
    assert _texts(messages) == ["a", "c"]


def test_a_known_piece_is_taken_once() -> None:
    messages = LiveMessages()
    assert messages.add(_delta(0, "ab", last_index=1))
    assert not messages.add(_delta(1, "b"))
    assert not messages.add(_delta(0, "ab", last_index=1))
    assert _texts(messages) == ["ab"]


def test_what_is_missing_may_still_come() -> None:
    messages = LiveMessages(patient=True)
    assert messages.add(_delta(2, "c"))
    assert messages.add(_delta(3, "d"))
    assert _texts(messages) == []
    assert messages.add(_delta(0, "a"))
    assert _texts(messages) == ["a"]
    assert messages.add(_delta(1, "b"))
    assert not messages.add(_delta(1, "b"))
    assert _texts(messages) == ["abcd"]
    assert _texts(messages, start=2) == ["cd"]


def test_pieces_never_overlap() -> None:
    messages = LiveMessages(patient=True)
    messages.add(_delta(2, "cd", last_index=3))
    messages.add(_delta(6, "g"))
    for first, last in ((0, 2), (3, 3), (3, 5), (4, 6), (5, 4)):
        assert not messages.add(_delta(first, "x", last_index=last))
    assert messages.add(_delta(4, "ef", last_index=5))
    assert messages.add(_delta(0, "ab", last_index=1))
    assert _texts(messages) == ["abcdefg"]


def test_what_was_missing_twice_is_given_up() -> None:
    messages = LiveMessages(patient=True)
    messages.add(_delta(0, "a"))
    messages.add(_delta(2, "c"))
    assert not messages.give_up_holes()
    assert _texts(messages) == ["a"]
    assert messages.give_up_holes()
    assert _texts(messages) == ["a", "c"]
    messages.add(_delta(3, "d"))
    messages.add(_delta(5, "f"))
    assert _texts(messages) == ["a", "cd"]
    assert not messages.give_up_holes()
    messages.add(_delta(4, "e"))
    assert not messages.give_up_holes()
    assert _texts(messages) == ["a", "cdef"]


def test_the_text_so_far_goes_out_in_portions() -> None:
    messages = LiveMessages()
    piece = "x" * (live.PORTION_TEXT // 2)
    deltas = [_delta(index, piece) for index in range(5)]
    for delta in deltas:
        messages.add(delta)
    portions = list(messages.portions())
    assert [len(portion) for portion in portions] == [2, 2, 1]
    assert [delta for portion in portions for delta in portion] == deltas


def test_a_fence_only_rises() -> None:
    messages = LiveMessages()
    messages.add(_delta(0, "old"))
    assert messages.add(_delta(0, "new", fence=2))
    assert not messages.add(_delta(1, "zombie", fence=1))
    assert _texts(messages) == ["new"]


def test_pieces_wait_for_their_event() -> None:
    messages = LiveMessages()
    messages.add(_delta(0, "a", after_sequence=3))
    messages.add(_delta(1, "b", after_sequence=4))
    assert _texts(messages, position=2) == []
    assert _texts(messages, position=3) == ["a"]
    assert _texts(messages, position=4) == ["ab"]


def test_memory_is_bounded() -> None:
    messages = LiveMessages()
    piece = "x" * 100_000
    taken = sum(messages.add(_delta(index, piece)) for index in range(50))
    assert taken == live.MAX_TEXT // len(piece)
    for number in range(2 * live.MAX_MESSAGES):
        messages.add(_delta(0, "x", message_id=f"m{number}"))
    assert len(messages) == live.MAX_MESSAGES


def test_a_turn_that_is_over_voids_what_it_did_not_finish() -> None:
    messages = LiveMessages()
    messages.add(_delta(0, "one", message_id="m1", turn=1))
    messages.add(_delta(0, "two", message_id="m2", turn=2))
    messages.void("r", 1)
    assert [message.message_id for message in messages] == ["m2"]
    messages.finish(["m2"])
    assert not len(messages)
