"""Puts the pieces of messages that are being made together."""

from dataclasses import dataclass, field

from agentmesh_client import Delta

# A model's text, or what a tool writes: what a reader sees grow.
_VISIBLE = frozenset({"text", "stdout", "stderr"})


@dataclass
class LiveMessage:
    """What came of one message so far.

    `gap` is set once a piece is missing; from then on `text` stays what it is, a true beginning of
    the message, and the rest comes with its event.
    """

    next_index: int = 0
    gap: bool = False
    text: list[str] = field(default_factory=list)

    def joined(self) -> str:
        """All visible text so far."""
        return "".join(self.text)


@dataclass(frozen=True)
class LivePiece:
    """What a delta adds: `text` to append; `restarted` if all that came before is void."""

    message: LiveMessage
    text: str = ""
    restarted: bool = False


class LiveMessages:
    """Every message that has deltas and no event yet."""

    def __init__(self) -> None:
        self._messages: dict[str, LiveMessage] = {}

    def add(self, delta: Delta) -> LivePiece:
        """Takes in the next delta of the client's subscription."""
        message = self._messages.setdefault(delta.message_id, LiveMessage())
        visible = delta.text if delta.kind in _VISIBLE else ""
        if delta.replaces:
            return self._replace(message, delta, visible)
        if message.gap or delta.raw.first_index > message.next_index:
            message.gap = True
            return LivePiece(message)
        message.next_index = delta.raw.last_index + 1
        if visible:
            message.text.append(visible)
        return LivePiece(message, visible)

    def finish(self, message_id: str) -> LiveMessage | None:
        """The message as far as it came, now that its event is here; None if it had no deltas."""
        return self._messages.pop(message_id, None)

    def finish_turn(self) -> None:
        """Forgets messages whose event will not come."""
        self._messages.clear()

    @staticmethod
    def _replace(message: LiveMessage, delta: Delta, visible: str) -> LivePiece:
        known = message.joined()
        message.next_index, message.gap = delta.raw.last_index + 1, False
        if visible.startswith(known):
            # The text so far, after a connection was lost: nothing of it is void.
            more = visible[len(known) :]
            message.text.append(more)
            return LivePiece(message, more)
        message.text = [visible] if visible else []
        if not delta.text:
            message.next_index = 0
        return LivePiece(message, visible, restarted=bool(known))
