"""Gives new events their bytes, once, for the log and for every subscriber."""

from __future__ import annotations

from typing import TypeVar

from agentmesh_conversation_store.domain.changes import Changes
from agentmesh_conversation_store.domain.copying import replace
from agentmesh_conversation_store.domain.events import NewEvent, StoredEvent
from agentmesh_conversation_store.domain.model import Conversation, ConversationView

from .interface import EventCodec

R = TypeVar("R")


def encoded(event: NewEvent, codec: EventCodec) -> StoredEvent:
    """The event as it is kept."""
    return StoredEvent(
        event.sequence,
        event.body.kind,
        event.run_id,
        event.agent,
        event.message_id,
        event.turn,
        codec.encode(event),
    )


def encoded_changes(
    changes: Changes, codec: EventCodec
) -> tuple[tuple[StoredEvent, ...], Conversation | None]:
    """The events of a change as they are kept, and the conversation metered with their size."""
    events = tuple(encoded(event, codec) for event in changes.events)
    conversation = changes.conversation
    if conversation is not None and events:
        size = sum(len(event.data) for event in events)
        conversation = replace(conversation, size_bytes=conversation.size_bytes + size)
    return events, conversation


def metered(result: R, conversation: Conversation | None) -> R:
    """A result that shows the conversation shows it with its size, which decisions do not know."""
    if conversation is not None and isinstance(result, ConversationView):
        return replace(result, conversation=conversation)
    return result
