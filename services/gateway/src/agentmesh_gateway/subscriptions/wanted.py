"""What a subscriber asked for."""

from __future__ import annotations

from dataclasses import dataclass

from agentmesh.conversation.v1 import stream_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2

from .responses import Filter, Place


@dataclass(frozen=True, slots=True)
class Wanted:
    """A subscription's request. `events` is its filter without deltas, for catching up."""

    tenant: str
    conversation_id: str
    begin: Place
    until: stream_pb2.SubscribeUntil.ValueType
    events: store_pb2.EventFilter
    filter: Filter
    deltas: bool

    @classmethod
    def of(cls, tenant: str, request: store_pb2.SubscribeConversationRequest) -> Wanted:
        """The meaning of a request."""
        token = request.resume_token
        events = store_pb2.EventFilter()
        events.CopyFrom(request.filter)
        events.without_deltas = True
        return cls(
            tenant,
            request.conversation_id,
            Place(None if token else request.after_sequence, token),
            request.until,
            events,
            Filter(request.filter),
            not request.filter.without_deltas,
        )

    def from_place(self, place: Place) -> store_pb2.SubscribeConversationRequest:
        """The request for everything from `place` to the head."""
        return store_pb2.SubscribeConversationRequest(
            conversation_id=self.conversation_id,
            after_sequence=place.position or 0,
            resume_token=place.token,
            until=stream_pb2.SUBSCRIBE_UNTIL_HEAD,
            filter=self.events,
        )
