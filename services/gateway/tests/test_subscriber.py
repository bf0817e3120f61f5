"""One subscriber of a hub, whose reader takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD, StreamItem
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh_gateway.subscriptions.hubs import Hubs
from agentmesh_gateway.subscriptions.pace import Pace
from agentmesh_gateway.subscriptions.responses import read_item
from agentmesh_gateway.subscriptions.store import StoreSubscriptions
from agentmesh_gateway.subscriptions.subscriber import Subscriber
from agentmesh_gateway.subscriptions.wanted import Wanted
from agentmesh_gateway.upstream import STORE
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import HostFactory

from .scripted_store import ScriptedStore, events, heartbeat, start_scripted_store

SUBSCRIBE = "/agentmesh.conversation_store.v1.ConversationStoreService/SubscribeConversation"
PATIENCE = 20.0
HEARTBEAT = 0.05


async def test_a_sign_of_life_speaks_of_what_its_reader_got_not_of_what_there_is(
    mesh_hosts: HostFactory,
) -> None:
    further: asyncio.Queue[StreamItem] = asyncio.Queue()

    async def script(request: store_pb2.SubscribeConversationRequest) -> AsyncIterator[StreamItem]:
        if request.until == SUBSCRIBE_UNTIL_HEAD:
            yield events(1)
            yield heartbeat(1)
            return
        while True:
            yield await further.get()

    host = await start_scripted_store(mesh_hosts, ScriptedStore(script))
    channel: Any = mesh_hosts.channels().channel(host.grpc_address, STORE)
    subscribe = channel.unary_stream(
        SUBSCRIBE, store_pb2.SubscribeConversationRequest.SerializeToString
    )
    store = StoreSubscriptions(subscribe, channel.unary_unary)
    pace = Pace(heartbeat=HEARTBEAT, patience=PATIENCE)
    hubs = Hubs(store, pace)
    written: list[StreamItem] = []
    reader_is_slow, reader_goes_on = asyncio.Event(), asyncio.Event()

    async def write(response: bytes) -> None:
        written.append(read_item(response))
        if written[-1].resume_token == "token-2":
            reader_is_slow.set()
            await reader_goes_on.wait()

    wanted = Wanted.of("acme", store_pb2.SubscribeConversationRequest(conversation_id="conv_1"))
    with principal_scope(Principal("somebody", "acme", 1)):
        serving = asyncio.create_task(Subscriber(hubs, store, wanted, pace, write).serve())
        async with asyncio.timeout(PATIENCE):
            await further.put(events(2))
            await reader_is_slow.wait()
            await further.put(events(3))
            (served,) = hubs._served.values()
            while served.hub.head < 3:
                await asyncio.sleep(0.01)
            await asyncio.sleep(HEARTBEAT)  # it is due by now
            before = len(written)
            reader_goes_on.set()
            while not written[-1].HasField("events") or len(written) == before:
                await asyncio.sleep(0.01)
        serving.cancel()
        await asyncio.wait({serving})
    beat, following = written[before : before + 2]
    assert beat.heartbeat.delivered_through == 2
    assert beat.heartbeat.head_sequence == 3
    assert beat.resume_token == "token-2"
    assert [event.sequence for event in following.events.events] == [3]
