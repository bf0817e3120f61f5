"""Messages that are being made: their text so far, for those who come late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from agentmesh_conversation_store.fanout.interface import LiveDelta

MAX_TEXT = 1024 * 1024
MAX_PIECES = 20_000
MAX_MESSAGES = 64
MAX_JOINED_TEXT = 64 * 1024


@dataclass(slots=True)
class LiveMessage:
    """One message under one fence. When it has grown too large, later pieces are left out."""

    message_id: str
    run_id: str
    turn: int
    agent: str
    fence: int
    pieces: list[LiveDelta] = field(default_factory=list)
    text_length: int = 0
    serialized: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def add(self, delta: LiveDelta) -> bool:
        """Appends a piece; False if it is known already or there is no more room."""
        if self.pieces and delta.first_index <= self.pieces[-1].last_index:
            return False
        if self.text_length + len(delta.text) > MAX_TEXT or len(self.pieces) >= MAX_PIECES:
            return False
        self.pieces.append(delta)
        self.text_length += len(delta.text)
        return True

    def joined(self, start: int, position: int) -> Iterator[tuple[int, LiveDelta]]:
        """Pieces from index `start` on that may follow the event at `position`, joined where
        they are of one kind; each with the index of the piece after it."""
        index = start
        while index < len(self.pieces) and self.pieces[index].after_sequence <= position:
            first = self.pieces[index]
            end, length = index + 1, len(first.text)
            while end < len(self.pieces) and self._goes_on(first, end, position):
                length += len(self.pieces[end].text)
                if length > MAX_JOINED_TEXT:
                    break
                end += 1
            text = "".join(piece.text for piece in self.pieces[index:end])
            yield end, replace(first, text=text, last_index=self.pieces[end - 1].last_index)
            index = end

    def _goes_on(self, first: LiveDelta, index: int, position: int) -> bool:
        piece, before = self.pieces[index], self.pieces[index - 1]
        return (
            piece.kind == first.kind
            and piece.tool == first.tool
            and piece.first_index == before.last_index + 1
            and piece.after_sequence <= position
        )


class LiveMessages:
    """The messages of one conversation that are being made, oldest first."""

    def __init__(self) -> None:
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
                delta.message_id, delta.run_id, delta.turn, delta.agent, delta.fence
            )
            self._messages[delta.message_id] = message
            while len(self._messages) > MAX_MESSAGES:
                self._messages.popitem(last=False)
        return delta.fence == message.fence and message.add(delta)

    def finish(self, message_ids: Iterable[str]) -> None:
        """Their events are in the log."""
        for message_id in message_ids:
            self._messages.pop(message_id, None)

    def void(self, run_id: str, turn: int) -> None:
        """A turn is over: what it did not finish will never be finished."""
        for message in self:
            if message.run_id == run_id and message.turn <= turn:
                del self._messages[message.message_id]
