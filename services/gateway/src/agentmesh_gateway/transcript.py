"""The newest messages of a conversation, read from its log.

The log is read backwards. Messages of discarded turns do not count; the event that says so comes
after them, so that it is read first: also from what follows the messages that are asked for.
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
# So many more are read at once, because some messages or discards are not shown.
_DISCARDS = 8


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
    conversation_id = conversation.conversation_id
    discarded: set[str] = set()
    if before_sequence:
        after = before_sequence - 1
        async for event in read_events(store, conversation_id, [_DISCARDED], after=after):
            discarded.update(event.turn_discarded.message_ids)
    request = ListEventsRequest(
        conversation_id=conversation_id,
        before_sequence=before_sequence,
        newest_first=True,
        page_size=min(limit + _DISCARDS, _PAGE),
        filter=EventFilter(kinds=["message", _DISCARDED]),
    )
    kept: list[Event] = []
    room = most_bytes
    async for event in _pages(store, request):
        if event.HasField(_DISCARDED):
            discarded.update(event.turn_discarded.message_ids)
        elif event.message.message_id not in discarded:
            room -= event.message.ByteSize()
            if kept and (len(kept) == limit or room < 0):
                messages = [one.message for one in reversed(kept)]
                return Transcript(messages, kept[-1].sequence)
            kept.append(event)
    return Transcript([one.message for one in reversed(kept)], 0)


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
    async for event in _pages(store, request):
        yield event


async def _pages(
    store: ConversationStoreServiceAsyncStub, request: ListEventsRequest
) -> AsyncIterator[Event]:
    while True:
        page = await store.ListEvents(request)
        for event in page.events:
            yield event
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
