"""Subscriptions through both edges: frames, resuming, failures, leaving and draining."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD as TO_HEAD
from agentmesh.conversation.v1.stream_pb2 import StreamItem
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import EventFilter
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from httpx_sse import ServerSentEvent, aconnect_sse
from meshkit.errors import MeshError
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Gateway, Gateways
from .scripted_store import (
    Script,
    ScriptedStore,
    delta,
    events,
    heartbeat,
    start_scripted_store,
)

PATH = "/conversations/conv_1/stream"


async def open_both(
    gateways: Gateways, hosts: HostFactory, script: Script, **settings: Any
) -> tuple[Gateway, ScriptedStore]:
    store = ScriptedStore(script)
    host = await start_scripted_store(hosts, store)
    return await gateways.start(store_address=host.grpc_address, **settings), store


async def frames(gateway: Gateway, path: str = PATH, **headers: str) -> list[ServerSentEvent]:
    async with aconnect_sse(
        gateway.http, "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
    ) as source:
        return [event async for event in source.aiter_sse()]


async def log_of_three(_: Any) -> AsyncIterator[StreamItem]:
    yield events(1, 2)
    yield delta("par")
    yield events(3)
    yield heartbeat(3)


async def forever(_: Any) -> AsyncIterator[StreamItem]:
    yield events(1)
    await asyncio.Event().wait()


async def silent(_: Any) -> AsyncIterator[StreamItem]:
    await asyncio.Event().wait()
    yield events(1)


async def broken(_: Any) -> AsyncIterator[StreamItem]:
    yield events(1)
    raise MeshError.unavailable("database", "gone")


async def test_each_event_is_one_frame_that_can_be_resumed_from(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, _ = await open_both(gateways, mesh_hosts, log_of_three)
    received = await frames(gateway, f"{PATH}?until=head")
    assert [(frame.event, frame.id) for frame in received] == [
        ("message", "1"),
        ("message", "2"),
        ("delta", "2"),  # no id of its own: the one before stands
        ("message", "3"),
        ("heartbeat", "3"),
    ]
    first = json.loads(received[0].data)
    assert first["sequence"] == 1
    assert first["message"]["content"] == "message 1"
    assert json.loads(received[2].data)["text"] == "par"


@pytest.mark.parametrize(
    ("last_event_id", "after", "token"), [("7", 7, ""), ("opaque-token", 0, "opaque-token")]
)
async def test_last_event_id_resumes_whatever_the_query_says(
    gateways: Gateways, mesh_hosts: HostFactory, last_event_id: str, after: int, token: str
) -> None:
    gateway, store = await open_both(gateways, mesh_hosts, log_of_three)
    await frames(gateway, f"{PATH}?until=head&after_sequence=2", last_event_id=last_event_id)
    (request,) = store.requests
    assert (request.after_sequence, request.resume_token, request.until) == (after, token, 2)


async def test_an_error_in_mid_stream_is_a_last_frame(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, _ = await open_both(gateways, mesh_hosts, broken, upstream_patience_seconds=0)
    received = await frames(gateway)
    assert [frame.event for frame in received] == ["message", "error"]
    error = json.loads(received[1].data)["error"]
    assert (error["code"], error["status"]) == (503, "UNAVAILABLE")
    assert error["details"][0]["metadata"] == {"service": "database"}


async def test_an_error_before_the_first_item_is_an_ordinary_response(
    gateways: Gateways,
) -> None:
    gateway = await gateways.start()
    response = await gateway.http.get(PATH)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["details"][0]["metadata"]["service"] == "conversation_store"


async def test_the_last_event_that_passes_a_filter_is_no_position(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    async def one_passes_of_three(request: Any) -> AsyncIterator[StreamItem]:
        if request.filter.kinds and request.resume_token:
            yield heartbeat(3)
        elif request.filter.kinds:
            yield StreamItem(events=events(2).events, resume_token="token-3")
        else:
            await asyncio.Event().wait()

    gateway, store = await open_both(
        gateways, mesh_hosts, one_passes_of_three, heartbeat_seconds=0.05
    )
    stub: Any = ConversationServiceStub(gateway.channel)
    call = stub.SubscribeConversation(
        pb2.SubscribeConversationRequest(
            conversation_id="conv_1", filter=EventFilter(kinds=["message"])
        )
    )
    assert [event.sequence for event in (await call.read()).item.events.events] == [2]
    for _ in range(3):
        item = (await call.read()).item
        assert (item.heartbeat.delivered_through, item.resume_token) == (3, "token-3")
    assert [(r.after_sequence, r.resume_token) for r in store.requests] == [
        (0, ""),
        (0, "token-3"),
        (3, "token-3"),
    ]
    call.cancel()


async def test_a_silent_stream_answers_at_once_and_is_kept_alive_by_comments(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, _ = await open_both(gateways, mesh_hosts, silent, sse_keep_alive_seconds=0.05)
    async with gateway.http.stream("GET", PATH) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = response.aiter_text()
        assert "retry: " in await anext(chunks)
        assert await anext(chunks) == ": keep-alive\n\n"


async def test_a_client_that_leaves_over_http_ends_the_upstream_call(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, store = await open_both(gateways, mesh_hosts, forever)
    async with aconnect_sse(gateway.http, "GET", PATH) as source:
        await anext(source.aiter_sse())
    await asyncio.wait_for(store.left.wait(), 10)


async def test_a_client_that_leaves_over_grpc_ends_the_upstream_call(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, store = await open_both(gateways, mesh_hosts, forever)
    call = _subscribe(gateway)
    assert (await call.read()).item.events.events[0].sequence == 1
    call.cancel()
    await asyncio.wait_for(store.left.wait(), 10)


async def test_items_come_through_grpc_unchanged(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, _ = await open_both(gateways, mesh_hosts, log_of_three)
    received = [response.item async for response in _subscribe(gateway, until=TO_HEAD)]
    assert received == [item async for item in log_of_three(None)]


async def test_a_drain_ends_streams_with_a_reason_on_both_edges(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, _ = await open_both(gateways, mesh_hosts, forever)
    call = _subscribe(gateway)
    await call.read()
    async with aconnect_sse(gateway.http, "GET", PATH) as source:
        received = source.aiter_sse()
        await anext(received)
        stopping = asyncio.create_task(gateway.host.stop())
        last = await anext(received)
        assert last.event == "error"
        assert json.loads(last.data)["error"]["details"][0]["reason"] == "DRAINING"
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING") as expected:
        await call.read()
    assert expected.error.retry_after is not None
    await asyncio.wait_for(stopping, 10)


def _subscribe(gateway: Gateway, **fields: Any) -> Any:
    stub: Any = ConversationServiceStub(gateway.channel)
    return stub.SubscribeConversation(
        pb2.SubscribeConversationRequest(conversation_id="conv_1", **fields)
    )
