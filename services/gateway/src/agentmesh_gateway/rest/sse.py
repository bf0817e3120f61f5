"""Streams as server-sent events.

One frame per event, so that a client which leaves between two of them resumes exactly there:

    id: 17                      where to resume: pass it as Last-Event-ID
    event: message              the kind
    data: {"sequence": 17, …}   the event itself

In a subscription to one conversation the id is the event's sequence; heartbeats carry the sequence
up to which everything was delivered. In the tenant's feed it is the newest item's resume token.
Deltas and discards carry no id: a browser then keeps the one before, which is where to resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import orjson
from agentmesh.conversation.v1.stream_pb2 import StreamItem
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from agentmesh_gateway.rest.codec import JsonObject, encode_message

KEEP_ALIVE = b": keep-alive\n\n"
RETRY = b"retry: 1000\n"
"""The first line of a stream: after how many milliseconds a browser comes back."""
_UNKNOWN_KIND = "unknown"

Frames = Callable[[Message], Iterator[bytes]]
"""The frames of one response of a stream."""


def frame(event: str, data: JsonObject, event_id: str = "") -> bytes:
    """One frame. JSON on one line, so that one `data:` line holds it."""
    head = f"id: {event_id}\nevent: {event}\ndata: " if event_id else f"event: {event}\ndata: "
    return head.encode() + orjson.dumps(data) + b"\n\n"


def frames_of(response: Descriptor) -> Frames:
    """How a stream of `response` becomes frames.

    Responses that wrap one message `item` are unwrapped, and the field of its oneof that is set
    names the event.
    """
    item = response.fields_by_name.get("item")
    if item is None or item.message_type is None:
        return _plain_frames
    if item.message_type.full_name != StreamItem.DESCRIPTOR.full_name:
        return _item_frames
    # In the tenant's feed a sequence alone does not say where to resume.
    if response.name == "SubscribeTenantResponse":
        return _tenant_frames
    return _conversation_frames


def _plain_frames(response: Message) -> Iterator[bytes]:
    yield frame(_kind(response) or "item", encode_message(response))


def _item_frames(response: Message) -> Iterator[bytes]:
    item: Message = response.item  # type: ignore[attr-defined]  # frames_of saw the field
    yield frame(_kind(item) or _UNKNOWN_KIND, encode_message(item))


def _conversation_frames(response: Message) -> Iterator[bytes]:
    item: StreamItem = response.item  # type: ignore[attr-defined]  # frames_of saw the field
    if item.HasField("events"):
        for event in item.events.events:
            kind = event.WhichOneof("kind") or _UNKNOWN_KIND
            yield frame(kind, encode_message(event), str(event.sequence))
    elif item.HasField("heartbeat"):
        resume = str(item.heartbeat.delivered_through)
        yield frame("heartbeat", encode_message(item.heartbeat), resume)
    else:
        yield from _preview_frames(item)


def _tenant_frames(response: Message) -> Iterator[bytes]:
    item: StreamItem = response.item  # type: ignore[attr-defined]  # frames_of saw the field
    if item.HasField("events"):
        last = len(item.events.events) - 1
        for position, event in enumerate(item.events.events):
            kind = event.WhichOneof("kind") or _UNKNOWN_KIND
            resume = item.resume_token if position == last else ""
            yield frame(kind, encode_message(event), resume)
    elif item.HasField("heartbeat"):
        yield frame("heartbeat", encode_message(item.heartbeat), item.resume_token)
    else:
        yield from _preview_frames(item)


def _preview_frames(item: StreamItem) -> Iterator[bytes]:
    kind = item.WhichOneof("item")
    if kind is not None:
        yield frame(kind, encode_message(getattr(item, kind)))


def _kind(message: Message) -> str | None:
    for oneof in message.DESCRIPTOR.oneofs:
        name: str | None = message.WhichOneof(oneof.name)
        if name is not None:
            return name
    return None
