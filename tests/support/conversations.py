"""What tests say to a mesh, over the public contract alone: as a client in any language would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from agentmesh.conversation.v1 import event_pb2, message_pb2, stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

TEAM = ("project_manager", "developer", "reviewer")
MAIN_JOB = "write a function that parses ISO-8601 durations, test it, review it"


async def subscribe(
    channel: grpc.aio.Channel,
    conversation_id: str,
    *,
    after_sequence: int = 0,
    resume_token: str = "",
    until: stream_pb2.SubscribeUntil.ValueType = stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
    deadline: float = 90,
) -> list[stream_pb2.StreamItem]:
    """Everything that one stream sends before it ends."""
    request = conversations.SubscribeConversationRequest(
        conversation_id=conversation_id,
        after_sequence=after_sequence,
        resume_token=resume_token,
        until=until,
    )
    stub = ConversationServiceStub(channel)
    call = stub.SubscribeConversation(request, timeout=deadline)
    return [response.item async for response in call]


async def follow(
    channel: grpc.aio.Channel, conversation_id: str, *, deadline: float = 90
) -> list[event_pb2.Event]:
    """All events until no run is under way, over as many streams as it takes."""
    seen: list[event_pb2.Event] = []
    stub = ConversationServiceStub(channel)
    token = ""
    while True:
        request = conversations.SubscribeConversationRequest(
            conversation_id=conversation_id,
            resume_token=token,
            until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
        )
        try:
            call = stub.SubscribeConversation(request, timeout=deadline, wait_for_ready=True)
            async for response in call:
                token = response.item.resume_token or token
                seen += response.item.events.events
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)
        else:
            return seen


def events_of(items: Iterable[stream_pb2.StreamItem]) -> list[event_pb2.Event]:
    """The events among the items of a stream."""
    return [event for item in items for event in item.events.events]


def messages_of(events: Iterable[event_pb2.Event]) -> list[message_pb2.Message]:
    """The messages that count: those of discarded turns do not."""
    events = list(events)
    void = {
        message_id
        for event in events
        if event.WhichOneof("kind") == "turn_discarded"
        for message_id in event.turn_discarded.message_ids
    }
    return [
        event.message
        for event in events
        if event.WhichOneof("kind") == "message" and event.message.message_id not in void
    ]


def transcript(events: Iterable[event_pb2.Event]) -> list[tuple[str, str, str]]:
    """Who said what: agent, role, content."""
    return [(m.agent, message_pb2.MessageRole.Name(m.role), m.content) for m in messages_of(events)]


def tool_results(events: Iterable[event_pb2.Event]) -> list[message_pb2.ToolResultPart]:
    """What tools answered, in order."""
    return [
        part.tool_result
        for message in messages_of(events)
        for part in message.parts
        if part.WhichOneof("kind") == "tool_result"
    ]


def run_end(events: Iterable[event_pb2.Event]) -> event_pb2.RunEnded:
    """The last run's end; fails if none ended."""
    ends = [e.run_ended for e in events if e.WhichOneof("kind") == "run_ended"]
    assert ends, "no run ended"
    return ends[-1]


def assert_dense(events: list[event_pb2.Event], first: int = 1) -> None:
    """Sequences rise by one, from `first` on."""
    assert [e.sequence for e in events] == list(range(first, first + len(events)))
