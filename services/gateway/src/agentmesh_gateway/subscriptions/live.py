"""Messages that are being made: their text so far, for those who come late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agentmesh.conversation.v1.stream_pb2 import Delta, DeltaDiscard, StreamItem

from .responses import item_response

MAX_TEXT = 1024 * 1024
MAX_PIECES = 20_000
MAX_MESSAGES = 64
MAX_JOINED_TEXT = 64 * 1024
_KEPT_JOINED = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a message, and the response in which it came."""

    delta: Delta
    response: bytes


@dataclass(slots=True)
class LiveMessage:
    """One message under one fence. When it has grown too large, later pieces are left out."""

    message_id: str
    run_id: str
    agent: str
    fence: int
    pieces: list[Piece] = field(default_factory=list)
    text_length: int = 0
    _joined: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def add(self, delta: Delta, response: bytes) -> bool:
        """Appends a piece; False if it is known already or there is no more room."""
        if self.pieces and delta.first_index <= self.pieces[-1].delta.last_index:
            rest = self._unknown_part(delta)
            if rest is None:
                return False
            delta = rest
            response = _delta_response(rest)
        if self.text_length + len(delta.text) > MAX_TEXT or len(self.pieces) >= MAX_PIECES:
            return False
        self.pieces.append(Piece(delta, response))
        self.text_length += len(delta.text)
        return True

    def _unknown_part(self, delta: Delta) -> Delta | None:
        """What a store says again in one piece when it is asked again, without what is known."""
        last = self.pieces[-1].delta.last_index
        if delta.last_index <= last:
            return None
        known = "".join(
            piece.delta.text
            for piece in self.pieces
            if piece.delta.first_index >= delta.first_index
        )
        if not delta.text.startswith(known):
            return None
        rest = Delta()
        rest.CopyFrom(delta)
        rest.first_index = last + 1
        rest.text = delta.text[len(known) :]
        return rest

    def next_after(self, start: int, position: int) -> tuple[int, bytes] | None:
        """A response with the pieces from index `start` on that may follow the event at
        `position` and are of one kind, and the index of the piece after them; None if there are
        none yet. Made once for all who ask."""
        if start >= len(self.pieces):
            return None
        first = self.pieces[start].delta
        if first.after_sequence > position:
            return None
        end, length = start + 1, len(first.text)
        while end < len(self.pieces) and self._goes_on(first, end, position):
            length += len(self.pieces[end].delta.text)
            if length > MAX_JOINED_TEXT:
                break
            end += 1
        if end == start + 1:
            return end, self.pieces[start].response
        return end, self._join(start, end)

    def _goes_on(self, first: Delta, index: int, position: int) -> bool:
        piece, before = self.pieces[index].delta, self.pieces[index - 1].delta
        return (
            piece.kind == first.kind
            and piece.tool == first.tool
            and piece.first_index == before.last_index + 1
            and piece.after_sequence <= position
        )

    def _join(self, start: int, end: int) -> bytes:
        response = self._joined.get((start, end))
        if response is None:
            pieces = self.pieces[start:end]
            delta = Delta()
            delta.CopyFrom(pieces[0].delta)
            delta.text = "".join(piece.delta.text for piece in pieces)
            delta.last_index = pieces[-1].delta.last_index
            response = _delta_response(delta)
            while len(self._joined) >= _KEPT_JOINED:
                del self._joined[next(iter(self._joined))]
            self._joined[start, end] = response
        return response


class LiveMessages:
    """The messages of one conversation that are being made, oldest first."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, LiveMessage] = OrderedDict()

    def __iter__(self) -> Iterator[LiveMessage]:
        return iter(self._messages.values())

    def __len__(self) -> int:
        return len(self._messages)

    def get(self, message_id: str) -> LiveMessage | None:
        """The message, while it is being made."""
        return self._messages.get(message_id)

    def add(self, delta: Delta, response: bytes) -> bool:
        """Takes a piece; a higher fence starts its message again, a lower one is ignored."""
        message = self._messages.get(delta.message_id)
        if message is None or delta.fence > message.fence:
            message = LiveMessage(delta.message_id, delta.run_id, delta.agent, delta.fence)
            self._messages[delta.message_id] = message
            while len(self._messages) > MAX_MESSAGES:
                self._messages.popitem(last=False)
        return delta.fence == message.fence and message.add(delta, response)

    def finish(self, message_ids: Iterable[str]) -> None:
        """Their events are in the log."""
        for message_id in message_ids:
            self._messages.pop(message_id, None)

    def discard(self, message_id: str, fence: int) -> bool:
        """Forgets a message if it was made under a lower fence."""
        message = self._messages.get(message_id)
        if message is None or message.fence >= fence:
            return False
        del self._messages[message_id]
        return True


def discard_response(message_id: str, fence: int) -> bytes:
    """Pieces of the message under lower fences are void."""
    discard = DeltaDiscard(message_id=message_id, fence=fence)
    return item_response(StreamItem(discard=discard).SerializeToString())


def _delta_response(delta: Delta) -> bytes:
    return item_response(StreamItem(delta=delta).SerializeToString())
