"""Clients and stores of other versions: what this gateway does not know passes through it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from agentmesh.common.v1.usage_pb2 import Budget
from agentmesh.conversation.v1.conversation_pb2 import Conversation
from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.conversation.v1.stream_pb2 import (
    SUBSCRIBE_UNTIL_HEAD,
    EventBatch,
    StreamItem,
)
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from google.protobuf.message import Message
from httpx_sse import aconnect_sse
from meshkit.errors import from_rich_status
from meshkit.testkit import HostFactory

from .conftest import Gateway, Gateways
from .front import Front
from .scripted_store import ScriptedStore, events, heartbeat, start_scripted_store
from .test_streams import frames

PATIENCE = 30.0
CALLS = "/agentmesh.gateway.v1.ConversationService"


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, as a later version may have it."""
    key = number << 3 | 2
    return bytes([key & 0x7F | 0x80, key >> 7, len(content)]) + content


MORE = field(500, b"more")
UNKNOWN_KIND = field(99, field(77, b"of a kind to come"))
"""Within an event: a kind that this version does not know."""


def later_event(sequence: int, content: bytes = UNKNOWN_KIND) -> Event:
    known = Event(sequence=sequence, conversation_id="conv_1", run_id="run_1")
    return Event.FromString(known.SerializeToString() + content + MORE)


def later_item(*sequences: int) -> StreamItem:
    batch = EventBatch(events=[later_event(sequence) for sequence in sequences])
    whole = StreamItem(events=batch, resume_token=f"token-{sequences[-1]}")
    return StreamItem.FromString(whole.SerializeToString() + MORE)


def events_of(responses: list[Any]) -> list[bytes]:
    return [event.SerializeToString() for one in responses for event in one.item.events.events]


EXPECTED = [later_event(number).SerializeToString() for number in (1, 2, 3)]


class LaterStore(ScriptedStore):
    """Answers with more than this version knows."""

    async def get_conversation(
        self, request: store_pb2.GetConversationRequest, context: Any
    ) -> store_pb2.GetConversationResponse:
        answer = await super().get_conversation(request, context)
        answer.conversation.run.MergeFromString(MORE)
        answer.conversation.run.run_id = "run_1"
        return answer

    async def list_events(
        self, request: store_pb2.ListEventsRequest, context: Any
    ) -> store_pb2.ListEventsResponse:
        page = store_pb2.ListEventsResponse(events=[later_event(n) for n in (1, 2, 3)])
        return store_pb2.ListEventsResponse.FromString(page.SerializeToString() + MORE)

    async def list_conversations(
        self, request: store_pb2.ListConversationsRequest, context: Any
    ) -> store_pb2.ListConversationsResponse:
        one = Conversation.FromString(
            Conversation(conversation_id="conv_1").SerializeToString() + MORE
        )
        return store_pb2.ListConversationsResponse(conversations=[one])


async def caught_up_then_live(request: Any) -> AsyncIterator[StreamItem]:
    """The first two events are history, the third is news."""
    if request.until == SUBSCRIBE_UNTIL_HEAD:
        yield later_item(1, 2)
        yield heartbeat(2)
        return
    yield later_item(3)
    await asyncio.Event().wait()


async def later(gateways: Gateways, hosts: HostFactory) -> Gateway:
    host = await start_scripted_store(hosts, LaterStore(caught_up_then_live))
    return await gateways.start(store_address=host.grpc_address)


async def first_events(call: Any, count: int) -> list[bytes]:
    seen: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while len(seen) < count:
            response = await call.read()
            assert response is not grpc.aio.EOF
            seen += events_of([response])
    return seen


async def test_a_later_stores_events_reach_grpc_clients_as_they_are(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await later(gateways, mesh_hosts)
    stub: Any = ConversationServiceStub(gateway.channel)
    watching = stub.SubscribeConversation(
        pb2.SubscribeConversationRequest(conversation_id="conv_1")
    )
    assert await first_events(watching, 3) == EXPECTED
    chatting = stub.Converse()
    await chatting.write(pb2.ConverseRequest(open=pb2.ConverseOpen(conversation_id="conv_1")))
    assert await first_events(chatting, 3) == EXPECTED
    page = await stub.ListEvents(pb2.ListEventsRequest(conversation_id="conv_1"))
    assert [event.SerializeToString() for event in page.events] == EXPECTED
    assert page.SerializeToString().endswith(MORE)
    for call in (watching, chatting):
        call.cancel()


async def test_a_later_stores_resources_keep_what_they_have_more(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await later(gateways, mesh_hosts)
    stub: Any = ConversationServiceStub(gateway.channel)
    listed = await stub.ListConversations(pb2.ListConversationsRequest())
    assert listed.conversations[0].SerializeToString().endswith(MORE)
    found = await stub.GetConversation(
        pb2.GetConversationRequest(conversation_id="conv_1", without_messages=True)
    )
    assert MORE in found.run.SerializeToString()


async def test_rest_shows_what_it_knows(gateways: Gateways, mesh_hosts: HostFactory) -> None:
    gateway = await later(gateways, mesh_hosts)
    async with aconnect_sse(gateway.http, "GET", "/conversations/conv_1/stream") as source:
        stream = source.aiter_sse()
        async with asyncio.timeout(PATIENCE):
            shown = [await anext(stream) for _ in range(2)]
    assert [(frame.event, frame.id) for frame in shown] == [("unknown", "1"), ("unknown", "2")]
    assert json.loads(shown[0].data)["run_id"] == "run_1"
    listed = await gateway.http.get("/conversations/conv_1/events")
    assert [event["sequence"] for event in listed.json()["events"]] == [1, 2, 3]


async def test_items_of_a_kind_to_come_are_passed_on(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    unknown = StreamItem.FromString(field(99, b"a kind of item"))

    async def script(request: Any) -> AsyncIterator[StreamItem]:
        yield events(1)
        yield unknown
        yield events(2)
        yield heartbeat(2)

    host = await start_scripted_store(mesh_hosts, ScriptedStore(script))
    gateway = await gateways.start(store_address=host.grpc_address)
    stub: Any = ConversationServiceStub(gateway.channel)
    call = stub.SubscribeConversation(
        pb2.SubscribeConversationRequest(conversation_id="conv_1", until=SUBSCRIBE_UNTIL_HEAD)
    )
    received = [response.item async for response in call]
    assert unknown in received
    kinds = [
        frame.event for frame in await frames(gateway, "/conversations/conv_1/stream?until=head")
    ]
    assert kinds == ["message", "message", "heartbeat"]


def with_more(message: Message, *places: str) -> bytes:
    """A message as a later client has it: with more in it, and in some of its messages."""
    for place in places:
        getattr(message, place).MergeFromString(MORE)
    return message.SerializeToString() + MORE


@pytest.mark.parametrize("edge", ["unary", "stream"])
async def test_a_later_clients_requests_are_served(front: Front, edge: str) -> None:
    request = pb2.StartConversationRequest(
        task="t", agents=["developer"], budget=Budget(max_turns=5)
    )
    request.parts.add().text.text = "x"
    request.parts[0].text.MergeFromString(MORE)
    if edge == "stream":
        opening = pb2.ConverseOpen(start=request)
        opening.start.budget.MergeFromString(MORE)
        call = front.conversations.Converse(timeout=PATIENCE)
        await call.write(
            pb2.ConverseRequest.FromString(with_more(pb2.ConverseRequest(open=opening)))
        )
        assert (await call.read()).ack.WhichOneof("outcome") == "opened"
        later_command = pb2.ConverseRequest(request_id="later").SerializeToString() + field(99, b"")
        await call.write(pb2.ConverseRequest.FromString(later_command))
        while not (response := await call.read()).HasField("ack"):
            pass
        assert response.ack.request_id == "later"
        assert from_rich_status(response.ack.error).code is grpc.StatusCode.INVALID_ARGUMENT
        call.cancel()
        return
    send: Any = front.gateway.channel.unary_unary(f"{CALLS}/StartConversation")
    answer = await send(with_more(request, "budget"), timeout=PATIENCE)
    started = pb2.StartConversationResponse.FromString(answer)
    listing: Any = front.gateway.channel.unary_unary(f"{CALLS}/ListEvents")
    wanted = pb2.ListEventsRequest(conversation_id=started.conversation_id)
    wanted.filter.kinds.append("message")
    page = pb2.ListEventsResponse.FromString(
        await listing(with_more(wanted, "filter"), timeout=PATIENCE)
    )
    # The part is in the log as the client wrote it.
    (part,) = [p for p in page.events[0].message.parts if p.text.text == "x"]
    assert part.text.SerializeToString().endswith(MORE)


async def test_json_of_a_later_client_is_refused_by_name(front: Front) -> None:
    body = {"task": "t", "agents": ["developer"], "tone": "friendly"}
    response = await front.http.post("/conversations/start", json=body)
    assert response.status_code == 400
    assert "tone" in response.text
