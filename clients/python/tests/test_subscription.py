"""Subscriptions over connections that break: every event once, no piece of text twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agentmesh.conversation.v1 import stream_pb2
from agentmesh_client import AgentMesh, AgentMeshError, Delta, Event, UnavailableError
from meshkit.testkit import resetting_server

from .conftest import Script, ScriptedGateway, events, piece


def script(*items: stream_pb2.StreamItem, broken: bool = False, endless: bool = False) -> Script:
    async def play(_: Any) -> AsyncIterator[stream_pb2.StreamItem]:
        for item in items:
            yield item
        if broken:
            raise ConnectionResetError
        if endless:
            await asyncio.Event().wait()

    return play


async def sequences(items: AsyncIterator[Event | Delta]) -> list[int]:
    return [item.sequence async for item in items if isinstance(item, Event)]


async def test_events_come_once_and_in_order_over_a_broken_connection(
    gateway: ScriptedGateway, mesh: AgentMesh
) -> None:
    gateway.scripts = [script(events(1, 2), broken=True), script(events(2, 3), events(4))]
    subscription = mesh.subscribe("conv_1", until="run_end")
    assert await sequences(aiter(subscription)) == [1, 2, 3, 4]
    assert [request.resume_token for request in gateway.requests] == ["", "after-2"]
    assert subscription.sequence == 4


async def test_a_gateway_that_vanishes_is_found_again(
    gateway: ScriptedGateway, mesh: AgentMesh
) -> None:
    gateway.scripts = [script(events(1), endless=True), script(events(2))]
    received = aiter(mesh.subscribe("conv_1", until="run_end"))
    first = await anext(received)
    assert isinstance(first, Event)
    await gateway.stop()
    waiting = asyncio.ensure_future(anext(received))
    await gateway.start()
    second = await asyncio.wait_for(waiting, 20)
    assert isinstance(second, Event)
    assert (first.sequence, second.sequence) == (1, 2)


async def test_a_stream_without_an_end_is_opened_again_when_it_ends(
    gateway: ScriptedGateway, mesh: AgentMesh
) -> None:
    gateway.scripts = [script(events(1)), script(events(2), endless=True)]
    received: Any = aiter(mesh.subscribe("conv_1"))
    assert [(await anext(received)).sequence for _ in range(2)] == [1, 2]
    await received.aclose()


async def test_pieces_of_text_are_shown_once(gateway: ScriptedGateway, mesh: AgentMesh) -> None:
    gateway.scripts = [
        script(piece("He", 0, 0), piece("llo", 1, 2), broken=True),
        # Another replica sends the text so far in one piece, then a new attempt starts over.
        script(piece("llo", 1, 2), piece("Hello!", 0, 3), piece("Hi", 0, 0, fence=2), events(1)),
    ]
    shown = [
        (item.text, item.replaces)
        async for item in mesh.subscribe("conv_1", until="run_end")
        if isinstance(item, Delta)
    ]
    assert shown == [("He", False), ("llo", False), ("Hello!", True), ("Hi", True)]


async def test_discarded_text_is_taken_back(gateway: ScriptedGateway, mesh: AgentMesh) -> None:
    discard = stream_pb2.StreamItem(discard=stream_pb2.DeltaDiscard(message_id="msg_1", fence=2))
    gateway.scripts = [script(piece("He", 0, 0), discard, piece("x", 1, 1), events(1))]
    shown = [
        (item.text, item.replaces)
        async for item in mesh.subscribe("conv_1", until="run_end")
        if isinstance(item, Delta)
    ]
    assert shown == [("He", False), ("", True)]


async def test_it_gives_up_when_there_is_no_gateway(gateway: ScriptedGateway) -> None:
    await gateway.stop()
    async with AgentMesh(gateway.address) as mesh:
        with pytest.raises(UnavailableError):
            await sequences(aiter(mesh.subscribe("conv_1", reconnect_for=0.3)))


async def test_the_time_that_a_caller_takes_for_an_item_is_no_failed_attempt(
    gateway: ScriptedGateway, mesh: AgentMesh
) -> None:
    gateway.scripts = [script(events(1), broken=True), script(events(2))]
    received = aiter(mesh.subscribe("conv_1", until="run_end", reconnect_for=1.0))
    await anext(received)
    await asyncio.sleep(1.1)
    assert await sequences(received) == [2]


async def test_closing_the_client_ends_a_subscription(
    gateway: ScriptedGateway, mesh: AgentMesh
) -> None:
    gateway.scripts = [script(events(1), endless=True)]
    received = aiter(mesh.subscribe("conv_1"))
    await anext(received)
    await mesh.close()
    with pytest.raises(AgentMeshError):
        await asyncio.wait_for(anext(received), 10)


async def test_a_stream_that_is_reset_on_its_way_is_tried_again() -> None:
    """A proxy that loses a gateway says no more than that; gRPC makes an internal error of it."""
    async with resetting_server(2) as address, AgentMesh(address, retry_for=0.3) as client:
        with pytest.raises(UnavailableError):
            await anext(aiter(client.subscribe("conv_1", reconnect_for=0.3)))
        with pytest.raises(UnavailableError):
            await client.get("conv_1")
