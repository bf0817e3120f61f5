"""The feed of all conversations of a tenant, over both edges, with a real store behind."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from agentmesh.conversation.v1 import event_pb2, stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from httpx_sse import ServerSentEvent, aconnect_sse
from meshkit.testkit import HostFactory, raises_rich

from tests.support.wire_tap import Side, WireTap

from .conftest import Gateway, Gateways
from .front import START, Front
from .tenants import caller

PATH = "/conversations/stream"
PATIENCE = 30.0


class Feed:
    """A reader over gRPC."""

    def __init__(self, front: Front, metadata: Any = (), **fields: Any) -> None:
        self.call = front.conversations.SubscribeTenant(
            pb2.SubscribeTenantRequest(**fields), metadata=metadata
        )
        self.events: list[event_pb2.Event] = []
        self.token = ""

    async def read(self) -> stream_pb2.StreamItem:
        """Takes one item."""
        async with asyncio.timeout(PATIENCE):
            item: stream_pb2.StreamItem = (await self.call.read()).item
        assert item.resume_token
        self.token = item.resume_token
        self.events += item.events.events
        return item

    async def begun(self) -> Feed:
        """Reads the sign of life that says from where."""
        assert (await self.read()).HasField("heartbeat")
        return self

    async def until(self, count: int) -> Feed:
        """Reads until there are so many events."""
        async with asyncio.timeout(PATIENCE):
            while len(self.events) < count:
                await self.read()
        return self


def by_conversation(events: list[Any]) -> dict[str, list[int]]:
    """Sequences, by conversation."""
    found: dict[str, list[int]] = defaultdict(list)
    for event in events:
        found[event.conversation_id].append(event.sequence)
    return found


async def logs(front: Front, ids: list[str]) -> list[event_pb2.Event]:
    """All events of some conversations."""
    found: list[event_pb2.Event] = []
    for conversation_id in ids:
        page = await front.conversations.ListEvents(
            pb2.ListEventsRequest(conversation_id=conversation_id)
        )
        found += page.events
    return found


@asynccontextmanager
async def frames(gateway: Gateway, **headers: str) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    """A reader over REST."""
    async with aconnect_sse(gateway.http, "GET", PATH, headers=headers) as source:
        yield aiter(source.aiter_sse())


async def test_every_event_of_every_conversation_comes_as_it_was_logged(front: Front) -> None:
    feed = await Feed(front).begun()
    ids = [(await front.started())["conversation_id"] for _ in range(3)]
    await front.http.post(f"/conversations/{ids[0]}/message", json={"content": "more"})
    await feed.until(10)
    expected = await logs(front, ids)
    assert sorted(feed.events, key=lambda e: (ids.index(e.conversation_id), e.sequence)) == expected
    sequences = by_conversation(feed.events).values()
    assert all(found == list(range(1, len(found) + 1)) for found in sequences)
    feed.call.cancel()


async def test_a_filter_and_a_token(front: Front) -> None:
    first = await Feed(front, filter={"kinds": ["message"]}).begun()
    first.call.cancel()
    one, two = [(await front.started())["conversation_id"] for _ in range(2)]
    again = Feed(front, resume_token=first.token, filter={"kinds": ["message"]})
    await again.until(2)
    assert [event.conversation_id for event in again.events] == [one, two]
    assert {event.WhichOneof("kind") for event in again.events} == {"message"}
    again.call.cancel()
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await Feed(front, resume_token="x").read()


async def test_a_browser_resumes_behind_each_single_event_at_any_gateway(
    front: Front, gateways: Gateways
) -> None:
    async with frames(front.gateway) as received:
        begin = await anext(received)
    assert begin.event == "heartbeat"
    ids = [(await front.started())["conversation_id"] for _ in range(4)]
    other = await gateways.start(store_address=front.store.grpc_address)
    seen: list[dict[str, Any]] = []
    last = begin.id
    # Two at a time, so that it leaves in the midst of what one commit wrote.
    for gateway in (front.gateway, other) * 3:
        async with frames(gateway, **{"last-event-id": last}) as received:
            for _ in range(2):
                frame = await anext(received)
                assert frame.id != last
                last = frame.id
                seen.append(json.loads(frame.data))
                assert frame.event in seen[-1]
    logged = [(e.conversation_id, e.sequence) for e in await logs(front, ids)]
    assert [(e["conversation_id"], e["sequence"]) for e in seen] == logged


async def test_tenants_never_meet_and_keys_are_needed(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    mine = await caller(own_front, mesh_hosts, "operator")
    theirs = await caller(own_front, mesh_hosts, "operator", "other")
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
        await Feed(own_front).read()
    assert (await own_front.http.get(PATH)).status_code == 401
    feed = await Feed(own_front, mine.metadata).begun()
    foreign = await Feed(own_front, theirs.metadata).begun()
    body = {"task": "x", "agents": ["developer"]}
    response = await own_front.http.post(START, json=body, headers=mine.headers)
    assert response.status_code == 200, response.text
    await feed.until(3)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await Feed(own_front, theirs.metadata, resume_token=feed.token).read()
    # Had anything passed, it would come before what a later reader sees.
    late = Feed(own_front, theirs.metadata, resume_token=foreign.token)
    administrator = await caller(own_front, mesh_hosts, "operator", "other")
    response = await own_front.http.post(START, json=body, headers=administrator.headers)
    own = response.json()["conversation_id"]
    for reader in (foreign, late):
        await reader.until(3)
        assert by_conversation(reader.events) == {own: [1, 2, 3]}
        reader.call.cancel()
    feed.call.cancel()


async def test_a_revoked_key_ends_its_feed_on_both_edges(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    administrator = await caller(own_front, mesh_hosts, "admin")
    viewer = await caller(own_front, mesh_hosts, "viewer")
    feed = await Feed(own_front, viewer.metadata).begun()
    kept = await Feed(own_front, administrator.metadata).begun()
    async with frames(own_front.gateway, **viewer.headers) as received:
        await anext(received)
        path = f"/admin/keys/{viewer.key_id}/revoke"
        revoked = await own_front.http.post(path, json={}, headers=administrator.headers)
        assert revoked.status_code == 200, revoked.text
        with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
            await feed.read()
        last = await asyncio.wait_for(anext(received), PATIENCE)
    assert (last.event, json.loads(last.data)["error"]["code"]) == ("error", 401)
    assert not kept.call.done()
    kept.call.cancel()


async def test_it_outlives_a_store_that_is_killed(own_front: Front) -> None:
    feed = await Feed(own_front).begun()
    ids = [(await own_front.started())["conversation_id"]]
    await feed.until(3)
    await own_front.store.sigkill()
    await own_front.store.start()
    async with asyncio.timeout(PATIENCE):
        while (await own_front.http.get("/agents")).status_code != 200:
            await asyncio.sleep(0.05)
    ids.append((await own_front.started())["conversation_id"])
    await feed.until(6)
    assert feed.events == await logs(own_front, ids)
    feed.call.cancel()


async def test_what_happens_while_its_stream_is_broken_comes_as_well(
    own_front: Front, gateways: Gateways
) -> None:
    async with WireTap(own_front.store.grpc_address) as tap:
        gateway = await gateways.start(store_address=tap.address)
        feed = await Feed(Front(gateway, own_front.store)).begun()
        ids = [(await own_front.started())["conversation_id"]]
        await feed.until(3)

        async def meanwhile() -> None:
            await own_front.store.start()
            async with asyncio.timeout(PATIENCE):
                while (await own_front.http.get("/agents")).status_code != 200:
                    await asyncio.sleep(0.05)
            ids.append((await own_front.started())["conversation_id"])

        again = tap.at(Side.BEFORE, "SubscribeTenant", 2, meanwhile)
        await own_front.store.sigkill()
        await feed.until(6)
        assert again.done.is_set()
        assert feed.events == await logs(own_front, ids)
        feed.call.cancel()


async def test_a_store_that_stays_away_and_a_drain_end_it_with_a_time_to_return(
    own_front: Front, gateways: Gateways
) -> None:
    hasty = await gateways.start(
        store_address=own_front.store.grpc_address, upstream_patience_seconds=0.3
    )
    ended = await Feed(Front(hasty, own_front.store)).begun()
    drained = await Feed(own_front).begun()
    stopping = asyncio.create_task(own_front.gateway.host.stop())
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING") as expected:
        await drained.read()
    assert expected.error.retry_after is not None
    await stopping
    await own_front.store.sigkill()
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE") as expected:
        await ended.read()
    assert expected.error.retry_after is not None
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await Feed(Front(hasty, own_front.store)).read()
