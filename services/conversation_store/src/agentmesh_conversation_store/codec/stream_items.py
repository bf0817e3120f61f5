"""Subscription responses as bytes, put together around events that are bytes already.

Parsing events only to serialize them again would cost more than everything else on the way.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentmesh.conversation.v1 import stream_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as service_pb2
from google.protobuf.descriptor import Descriptor

from agentmesh_conversation_store.domain.events import StoredEvent

_LENGTH_DELIMITED = 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(message: Descriptor, field: str) -> bytes:
    return _varint(message.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


_RESPONSE_ITEM = _tag(service_pb2.SubscribeConversationResponse.DESCRIPTOR, "item")
_ITEM_EVENTS = _tag(stream_pb2.StreamItem.DESCRIPTOR, "events")
_ITEM_TOKEN = _tag(stream_pb2.StreamItem.DESCRIPTOR, "resume_token")
_BATCH_EVENT = _tag(stream_pb2.EventBatch.DESCRIPTOR, "events")


def _field(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def events_response(events: Iterable[StoredEvent], resume_token: str) -> bytes:
    """A SubscribeConversationResponse with these events."""
    batch = b"".join(_field(_BATCH_EVENT, event.data) for event in events)
    item = _field(_ITEM_EVENTS, batch) + _field(_ITEM_TOKEN, resume_token.encode())
    return _field(_RESPONSE_ITEM, item)


def item_response(item: stream_pb2.StreamItem) -> bytes:
    """A SubscribeConversationResponse with any other item."""
    return _field(_RESPONSE_ITEM, item.SerializeToString())
