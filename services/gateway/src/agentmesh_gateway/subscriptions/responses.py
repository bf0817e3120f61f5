"""Subscription responses as bytes: what is in them, and how they are cut and joined.

An event is never serialized again: events keep the bytes in which the store sent them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.conversation.v1.stream_pb2 import Heartbeat, StreamItem
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import (
    EventFilter,
    SubscribeConversationResponse,
)
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_ITEM = SubscribeConversationResponse.ITEM_FIELD_NUMBER
_EVENTS = StreamItem.EVENTS_FIELD_NUMBER
_HEARTBEAT = StreamItem.HEARTBEAT_FIELD_NUMBER
_TOKEN = StreamItem.RESUME_TOKEN_FIELD_NUMBER
_BATCHED = 1


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a log. Without a `position` only the token says where it is, and the other way
    round without a token."""

    position: int | None
    token: str


@dataclass(frozen=True, slots=True)
class SlicedEvent:
    """One event of a batch: what filters ask about, and its bytes with their tag."""

    sequence: int
    kind: str
    run_id: str
    agent: str
    message_id: str
    data: bytes


class Batch:
    """Consecutive events as they came in one response.

    Most are passed on as they came: single events are cut out when somebody asks for them.
    """

    __slots__ = (
        "_events",
        "count",
        "data",
        "first",
        "last",
        "message_ids",
        "run_ended_at",
        "token",
    )

    def __init__(self, events: Sequence[Event], token: str, data: bytes) -> None:
        self.first = events[0].sequence
        self.last = events[-1].sequence
        self.count = len(events)
        self.run_ended_at = 0
        """The newest event that ends a run; 0 if there is none."""
        message_ids = []
        for event in events:
            if event.HasField("message"):
                message_ids.append(event.message.message_id)
            elif event.HasField("run_ended"):
                self.run_ended_at = event.sequence
        self.message_ids = tuple(message_ids)
        self.token = token
        self.data = data
        self._events: tuple[SlicedEvent, ...] | None = None

    @property
    def events(self) -> tuple[SlicedEvent, ...]:
        """Its events, one by one. Raises DecodeError."""
        if self._events is None:
            self._events = _sliced(read_item(self.data).events.events, self.data)
        return self._events


class Filter:
    """Which events pass, by the store's rules: those that match every list that is not empty."""

    def __init__(self, wanted: EventFilter) -> None:
        self._kinds = frozenset(wanted.kinds)
        self._run_ids = frozenset(wanted.run_ids)
        self._agents = frozenset(wanted.agents)
        self.passes_all = not (self._kinds or self._run_ids or self._agents)

    def passes(self, kind: str, run_id: str, agent: str) -> bool:
        """Whether such an event passes. Pieces of a message pass if the message would."""
        return (
            (not self._kinds or kind in self._kinds)
            and (not self._run_ids or run_id in self._run_ids)
            and (not self._agents or agent in self._agents)
        )


def read_item(response: bytes) -> StreamItem:
    """The item, parsed."""
    return SubscribeConversationResponse.FromString(response).item


def marks_place(response: bytes) -> bool:
    """Whether the response says where to resume: events and heartbeats do."""
    for number, _, start, end in _fields(response, 0, len(response)):
        if number == _ITEM:
            for inner, _, _, _ in _fields(response, start, end):
                return inner in (_EVENTS, _HEARTBEAT)
    return False


def place_after(response: bytes, accepted: Filter) -> Place:
    """The place behind a response that marks one. Behind events that a filter let through only
    the token says where that is: it may lie further on than the last of them."""
    item = read_item(response)
    if item.HasField("heartbeat"):
        return Place(item.heartbeat.delivered_through, item.resume_token)
    last = item.events.events[-1].sequence if accepted.passes_all else None
    return Place(last, item.resume_token)


def events_response(events: Iterable[SlicedEvent], token: str) -> bytes:
    """A response with these events."""
    batch = b"".join(event.data for event in events)
    return item_response(_field(_EVENTS, batch) + _field(_TOKEN, token.encode()))


def heartbeat_response(place: int, head: int, token: str) -> bytes:
    """A sign of life: everything up to `place` was delivered, and `head` is the newest known."""
    now = Timestamp()
    now.FromNanoseconds(time.time_ns())
    beat = Heartbeat(delivered_through=place, head_sequence=max(place, head), time=now)
    return item_response(StreamItem(heartbeat=beat, resume_token=token).SerializeToString())


def item_response(item: bytes) -> bytes:
    """A response with this serialized item."""
    return _field(_ITEM, item)


def _sliced(parsed: Sequence[Event], response: bytes) -> tuple[SlicedEvent, ...]:
    slices = _event_slices(response)
    if len(slices) != len(parsed):
        raise DecodeError("a batch of events is not what it seems")
    return tuple(
        SlicedEvent(
            event.sequence,
            event.WhichOneof("kind") or "",
            event.run_id,
            event.agent,
            event.message.message_id if event.HasField("message") else "",
            data,
        )
        for event, data in zip(parsed, slices, strict=True)
    )


def _event_slices(response: bytes) -> list[bytes]:
    return [
        response[tag:end]
        for number, _, item_start, item_end in _fields(response, 0, len(response))
        if number == _ITEM
        for inner, _, start, stop in _fields(response, item_start, item_end)
        if inner == _EVENTS
        for field, tag, _, end in _fields(response, start, stop)
        if field == _BATCHED
    ]


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of a message: number, where its tag begins, where its value begins and ends."""
    while at < end:
        tag_at = at
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
            stop = at + length
        elif kind == _VARINT:
            _, stop = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            stop = at + (8 if kind == _FIXED64 else 4)
        else:
            raise DecodeError(f"wire type {kind}")
        if stop > end:
            raise DecodeError("a field ends beyond its message")
        yield tag >> 3, tag_at, at, stop
        at = stop


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise DecodeError("a number ends beyond its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _field(number: int, data: bytes) -> bytes:
    return _encoded(number << 3 | _LENGTH_DELIMITED) + _encoded(len(data)) + data


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
