"""Messages that are being made: their text so far, for those who come late."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from agentmesh_conversation_store.fanout.interface import LiveDelta

MAX_TEXT = 1024 * 1024
MAX_PIECES = 20_000
MAX_MESSAGES = 64
MAX_JOINED_TEXT = 64 * 1024
PORTION_TEXT = 256 * 1024


@dataclass(slots=True)
class LiveMessage:
    """One message under one fence. When it has grown too large, later pieces are left out.

    Pieces come in any order and are kept in that of their numbers. What follows a hole is shown
    only if the hole lies before the piece number `shown_through`: else it may still be filled.
    """

    message_id: str
    run_id: str
    turn: int
    agent: str
    fence: int
    shown_through: int
    pieces: list[LiveDelta] = field(default_factory=list)
    text_length: int = 0
    serialized: dict[tuple[int, int], bytes] = field(default_factory=dict)
    _present: int = 0
    _given_up: int = 0
    _missed_before: int = 0

    def add(self, delta: LiveDelta) -> bool:
        """Takes a piece; False if it is known already or there is no more room."""
        if self.text_length + len(delta.text) > MAX_TEXT or len(self.pieces) >= MAX_PIECES:
            return False
        if delta.last_index < delta.first_index:
            return False
        place = len(self.pieces)
        if self.pieces and delta.first_index <= self.pieces[-1].last_index:
            place = self._place_of(delta.first_index)
            follows = self.pieces[place - 1].last_index < delta.first_index if place else True
            if not follows or self.pieces[place].first_index <= delta.last_index:
                return False
            # What was joined over a hole that was given up is joined otherwise now.
            self.serialized.clear()
        self.pieces.insert(place, delta)
        self.text_length += len(delta.text)
        self._present += delta.last_index - delta.first_index + 1
        return True

    def joined(self, start: int, position: int) -> Iterator[tuple[int, LiveDelta]]:
        """What begins with piece number `start` or after it and may follow the event at
        `position`, joined where it is of one kind; each with the number of the piece after it."""
        index, expected = self._place_of(start), start
        while index < len(self.pieces) and self.pieces[index].after_sequence <= position:
            first = self.pieces[index]
            if first.first_index > max(expected, self.shown_through):
                return
            end, length = index + 1, len(first.text)
            while end < len(self.pieces) and self._goes_on(first, end, position):
                length += len(self.pieces[end].text)
                if length > MAX_JOINED_TEXT:
                    break
                end += 1
            text = "".join(piece.text for piece in self.pieces[index:end])
            expected = self.pieces[end - 1].last_index + 1
            yield expected, replace(first, text=text, last_index=expected - 1)
            index = end

    def give_up_holes(self) -> bool:
        """Called now and then: what was missing the last time already will not come. True if
        there is more to show."""
        if not self.pieces:
            return False
        missing = self.pieces[-1].last_index + 1 - self._present
        self._given_up = min(self._given_up, missing)
        if missing <= self._given_up:
            self._missed_before = 0
            return False
        if not self._missed_before:
            self._missed_before = missing
            return False
        self._missed_before = 0
        self._given_up = missing
        self.shown_through = max(self.shown_through, self.pieces[-1].first_index)
        return True

    def _place_of(self, number: int) -> int:
        return bisect_left(self.pieces, number, key=lambda piece: piece.first_index)

    def _goes_on(self, first: LiveDelta, index: int, position: int) -> bool:
        piece, before = self.pieces[index], self.pieces[index - 1]
        return (
            piece.kind == first.kind
            and piece.tool == first.tool
            and piece.first_index == before.last_index + 1
            and piece.after_sequence <= position
        )


class LiveMessages:
    """The messages of one conversation that are being made, oldest first.

    `patient`: what is missing may still come from somebody else.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._shown_through = -1 if patient else sys.maxsize
        self._messages: OrderedDict[str, LiveMessage] = OrderedDict()

    def __iter__(self) -> Iterator[LiveMessage]:
        return iter(tuple(self._messages.values()))

    def __len__(self) -> int:
        return len(self._messages)

    def get(self, message_id: str) -> LiveMessage | None:
        """The message, while it is being made."""
        return self._messages.get(message_id)

    def add(self, delta: LiveDelta) -> bool:
        """Takes a piece; a higher fence starts its message again, a lower one is ignored."""
        message = self._messages.get(delta.message_id)
        if message is None or delta.fence > message.fence:
            message = LiveMessage(
                delta.message_id,
                delta.run_id,
                delta.turn,
                delta.agent,
                delta.fence,
                self._shown_through,
            )
            self._messages[delta.message_id] = message
            while len(self._messages) > MAX_MESSAGES:
                self._messages.popitem(last=False)
        return delta.fence == message.fence and message.add(delta)

    def give_up_holes(self) -> bool:
        """See `LiveMessage`."""
        more = [message for message in self if message.give_up_holes()]
        return bool(more)

    def portions(self) -> Iterator[list[LiveDelta]]:
        """All pieces, for somebody who has none; about `PORTION_TEXT` in each portion."""
        portion: list[LiveDelta] = []
        length = 0
        for message in self:
            for piece in tuple(message.pieces):
                portion.append(piece)
                length += len(piece.text)
                if length >= PORTION_TEXT:
                    yield portion
                    portion, length = [], 0
        if portion:
            yield portion

    def finish(self, message_ids: Iterable[str]) -> None:
        """Their events are in the log."""
        for message_id in message_ids:
            self._messages.pop(message_id, None)

    def clear(self) -> None:
        """Nothing is being made any more."""
        self._messages.clear()

    def void(self, run_id: str, turn: int) -> None:
        """A turn is over: what it did not finish will never be finished."""
        for message in self:
            if message.run_id == run_id and message.turn <= turn:
                del self._messages[message.message_id]
