"""The newest messages of a conversation, read from its log.

The log is read forwards, so a window before its end is read, and a wider one if that holds too few
messages. Messages of discarded turns do not count; the event that says so comes after them, maybe
after the window: of what follows it, only such events are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentmesh.conversation.v1.conversation_pb2 import Conversation
from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.conversation.v1.message_pb2 import Message
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import (
    EventFilter,
    ListEventsRequest,
)

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
        ConversationStoreServiceAsyncStub,
    )

_PAGE = 500
_DISCARDED: Final = "turn_discarded"
# A message comes with about this many other events: the turn's end, the run's start and end.
_EVENTS_PER_MESSAGE = 3


@dataclass(frozen=True, slots=True)
class Transcript:
    """Messages, oldest first. Before the sequence `older_before` there are more, unless it is 0."""

    messages: list[Message]
    older_before: int


async def newest_messages(
    store: ConversationStoreServiceAsyncStub,
    conversation: Conversation,
    limit: int,
    before_sequence: int,
    most_bytes: int,
) -> Transcript:
    """At most `limit` messages before `before_sequence`, or up to the log's end if that is 0.

    Fewer if they would take more than `most_bytes`, but one at least.
    """
    first = max(conversation.oldest_sequence, 1)
    end = conversation.head_sequence + 1
    stop = min(before_sequence or end, end)
    width = limit * _EVENTS_PER_MESSAGE + 1
    window = _Window(store, conversation.conversation_id, stop)
    while True:
        start = max(first, stop - width)
        events = await window.messages(start)
        if len(events) > limit or start == first:
            break
        width *= 4
    kept = _newest_that_fit(events[-limit:], most_bytes)
    older = kept[0].sequence if len(kept) < len(events) else 0
    return Transcript([event.message for event in kept], older)


def _newest_that_fit(events: list[Event], most_bytes: int) -> list[Event]:
    room = most_bytes
    for position in range(len(events) - 1, -1, -1):
        room -= events[position].message.ByteSize()
        if room < 0:
            return events[min(position + 1, len(events) - 1) :]
    return events


class _Window:
    """A part of a log that ends before the sequence `stop`."""

    def __init__(
        self, store: ConversationStoreServiceAsyncStub, conversation_id: str, stop: int
    ) -> None:
        self._store = store
        self._conversation_id = conversation_id
        self._stop = stop
        self._discarded_later: set[str] | None = None

    async def messages(self, start: int) -> list[Event]:
        """The messages from the sequence `start` on that were not discarded, then or later."""
        if start >= self._stop:
            return []
        messages: list[Event] = []
        discarded: set[str] = set()
        async for event in read_events(
            self._store,
            self._conversation_id,
            ["message", _DISCARDED],
            after=start - 1,
            # The window has no more events than this; larger pages would reach beyond it.
            page_size=min(self._stop - start, _PAGE),
        ):
            if event.sequence >= self._stop:
                discarded |= await self._later()
                break
            if event.HasField(_DISCARDED):
                discarded.update(event.turn_discarded.message_ids)
            else:
                messages.append(event)
        return [event for event in messages if event.message.message_id not in discarded]

    async def _later(self) -> set[str]:
        """The ids of messages that are discarded at `stop` or after it; read once."""
        if self._discarded_later is None:
            after = self._stop - 1
            self._discarded_later = {
                message_id
                async for event in read_events(
                    self._store, self._conversation_id, [_DISCARDED], after=after
                )
                for message_id in event.turn_discarded.message_ids
            }
        return self._discarded_later


async def read_events(
    store: ConversationStoreServiceAsyncStub,
    conversation_id: str,
    kinds: Sequence[str],
    *,
    after: int = 0,
    page_size: int = _PAGE,
) -> AsyncIterator[Event]:
    """All events of some kinds after a sequence, in order."""
    request = ListEventsRequest(
        conversation_id=conversation_id,
        after_sequence=after,
        page_size=page_size,
        filter=EventFilter(kinds=kinds),
    )
    while True:
        page = await store.ListEvents(request)
        for event in page.events:
            yield event
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
