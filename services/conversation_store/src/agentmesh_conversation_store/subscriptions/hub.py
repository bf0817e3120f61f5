"""What the subscribers of one conversation share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agentmesh_conversation_store.codec.stream_items import events_response
from agentmesh_conversation_store.codec.tokens import binding, resume_token
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.fanout.announcer import ended_turns, finished_messages
from agentmesh_conversation_store.fanout.interface import LiveDelta
from agentmesh_conversation_store.storage.interface import Head

from .live import LiveMessages

RING_EVENTS = 512
RING_BYTES = 1024 * 1024
BATCH_EVENTS = 256
BATCH_BYTES = 256 * 1024


class Wakeable(Protocol):
    """Somebody who waits for news."""

    def wake(self) -> None:
        """There is news."""
        ...


@dataclass(frozen=True, slots=True)
class SharedResponse:
    """Events in their serialized form: the sequence they end with, and messages they finish."""

    last_sequence: int
    message_ids: tuple[str, ...]
    data: bytes


class ConversationHub:
    """The newest events of one conversation, its live messages, and who wants to know.

    `head` is the newest event this replica knows of; the ring is a cache of the newest events
    without holes and may end before the head. What the log says of messages that are being made
    is known up to `settled`. `shared` if other replicas may know more of the conversation.
    """

    def __init__(self, tenant: str, conversation_id: str, *, shared: bool = False) -> None:
        self.tenant = tenant
        self.conversation_id = conversation_id
        self.binding = binding(tenant, conversation_id)
        self.head = Head(0, 1, active=False)
        self.shared = shared
        self.settled = 0
        self.live = LiveMessages(patient=shared)
        self.subscribers: set[Wakeable] = set()
        self.removed = False
        self._ring: list[StoredEvent] = []
        self._ring_bytes = 0
        self._shared: dict[int, SharedResponse] = {}

    @property
    def idle(self) -> bool:
        """True if nobody needs it."""
        return not self.subscribers and not self.live

    @property
    def watched(self) -> bool:
        """True if the log must be looked at now and then, because a notice may be lost."""
        return bool(self.subscribers) or self.shared

    def accept(self, head: Head, events: Sequence[StoredEvent]) -> None:
        """News of the log, perhaps old, perhaps with holes before it."""
        if head.sequence < self.head.sequence:
            return
        if head.oldest < self.head.oldest:
            head = replace(head, oldest=self.head.oldest)
        changed = head != self.head
        self.head = head
        if self._extend_ring(events) or changed:
            self._wake()

    def settle(self, message_ids: Sequence[str], ended_turns: Sequence[tuple[str, int]]) -> None:
        """Messages whose events are in the log, and turns (run, number) that are over."""
        self.live.finish(message_ids)
        for run_id, turn in ended_turns:
            self.live.void(run_id, turn)

    def settle_log(self, events: Sequence[StoredEvent]) -> None:
        """As `settle`, from the events themselves."""
        if self.live:
            self.settle(finished_messages(events), ended_turns(events))

    def give_up_holes(self) -> None:
        """Called now and then: shows text although some before it is missing."""
        if self.live.give_up_holes():
            self._wake()

    def accept_deltas(self, deltas: Sequence[LiveDelta]) -> None:
        """News of messages that are being made."""
        taken = [self.live.add(delta) for delta in deltas]
        if any(taken):
            self._wake()

    def remove(self) -> None:
        """The conversation is gone."""
        self.removed = True
        self.live.clear()
        self._wake()

    def _wake(self) -> None:
        for subscriber in self.subscribers:
            subscriber.wake()

    def _extend_ring(self, events: Sequence[StoredEvent]) -> bool:
        newest = self._ring[-1].sequence if self._ring else 0
        fresh = [event for event in events if event.sequence > newest]
        if not fresh:
            return False
        if self._ring and fresh[0].sequence != newest + 1:
            self._ring.clear()
            self._ring_bytes = 0
        for event in fresh:
            self._ring.append(event)
            self._ring_bytes += len(event.data)
        while len(self._ring) > RING_EVENTS or (
            self._ring_bytes > RING_BYTES and len(self._ring) > 1
        ):
            self._ring_bytes -= len(self._ring.pop(0).data)
        self._shared.clear()
        return True

    def after(self, position: int) -> Sequence[StoredEvent]:
        """Events that follow `position`, as far as the ring has them; else none."""
        if not self._ring or self._ring[0].sequence > position + 1:
            return ()
        start = position + 1 - self._ring[0].sequence
        batch = self._ring[start : start + BATCH_EVENTS]
        sizes, total = [], 0
        for event in batch:
            total += len(event.data)
            sizes.append(total)
        return batch[: max(1, bisect_right(sizes, BATCH_BYTES))]

    def response_after(self, position: int) -> SharedResponse | None:
        """The next response for everybody at `position` without a filter, serialized once; None
        if the ring does not have it."""
        shared = self._shared.get(position)
        if shared is None:
            kept_up = self._ring and self._ring[-1].sequence == position + 1
            events = self._ring[-1:] if kept_up else self.after(position)
            if not events:
                return None
            last = events[-1].sequence
            shared = self._shared[position] = SharedResponse(
                last,
                tuple(event.message_id for event in events if event.message_id),
                events_response(events, self.token(last)),
            )
        return shared

    def token(self, sequence: int) -> str:
        """Resume after this sequence."""
        return resume_token(self.binding, sequence)
