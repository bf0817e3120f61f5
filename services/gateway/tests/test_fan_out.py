"""Many subscribers of one conversation: one stream from the store, and the whole log for each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import stream_pb2
from meshkit.testkit import HostFactory, raises_rich

from tests.support.wire_tap import WireTap

from .conftest import Gateways
from .mesh_behind import publish_definitions, store_process
from .watching import PATIENCE, SUBSCRIBE, View, Watched

Watch = Callable[..., Awaitable[Watched]]


@pytest_asyncio.fixture
async def watch(
    gateways: Gateways, mesh_hosts: HostFactory, tmp_path: Path
) -> AsyncIterator[Watch]:
    """Starts a store of the test's own and a conversation in it; arguments are settings."""
    async with store_process(tmp_path / "store") as store, WireTap(store.grpc_address) as tap:
        await publish_definitions(mesh_hosts, store)

        async def start(**settings: Any) -> Watched:
            gateway = await gateways.start(store_address=tap.address, **settings)
            watched = Watched(store, tap, gateway)
            await watched.start()
            return watched

        yield start


async def follow(watched: Watched, count: int, **fields: Any) -> tuple[list[View], list[Any]]:
    """So many subscribers, all at the live end."""
    views = [View() for _ in range(count)]
    calls = [watched.subscribe(**fields) for _ in views]
    tasks = [
        asyncio.create_task(view.follow(call)) for view, call in zip(views, calls, strict=True)
    ]
    head = len(await watched.log())
    for view in views:
        await view.reaches(head)
    await watched.settled(1)
    return views, list(zip(calls, tasks, strict=True))


async def everything(call: Any) -> list[stream_pb2.StreamItem]:
    """What comes until the end of a stream."""
    async with asyncio.timeout(PATIENCE):
        return [response.item async for response in call]


async def leave(watchers: list[Any]) -> None:
    for call, task in watchers:
        call.cancel()
        await asyncio.wait([task])


async def test_fifty_subscribers_are_one_stream_at_the_store(watch: Watch) -> None:
    watched = await watch()
    views, watchers = await follow(watched, 50)
    await watched.send_many(30)
    log = await watched.log()
    for view in views:
        await view.reaches(len(log))
        assert view.events == log
    assert watched.streams == 1
    await leave(watchers)
    await watched.settled(0)


async def test_subscribers_that_come_and_go_see_the_whole_log(watch: Watch) -> None:
    watched = await watch()
    chance = random.Random(11)
    until = len(await watched.log()) + 300
    views = [View() for _ in range(20)]
    async with asyncio.timeout(2 * PATIENCE):
        await asyncio.gather(
            watched.send_many(300, at_once=4),
            *(view.follow_restlessly(watched, until, chance) for view in views),
        )
    log = await watched.log()
    assert all(view.events == log for view in views)
    await watched.settled(0)


async def test_a_slow_reader_holds_up_nobody_and_misses_nothing(watch: Watch) -> None:
    watched = await watch()
    fast, watchers = await follow(watched, 3)
    # On a connection of its own: what the others read widens the window of the one they share.
    async with grpc.aio.insecure_channel(
        watched.gateway.host.grpc_address,
        [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        await falls_behind(watched, watched.subscribe(channel), fast)
    await watched.settled(1)
    await leave(watchers)


async def falls_behind(watched: Watched, call: Any, fast: list[View]) -> None:
    """Reads `call` up to its live end, not while much is written, then on to the end."""
    slow = View()
    while slow.last < 2:
        slow.take((await call.read()).item)
    await watched.settled(1)
    opened = watched.tap.calls[SUBSCRIBE]
    for _ in range(20):
        # Half of what the gateway remembers: who reads at all keeps up with that.
        await watched.send_many(16, size=32 * 1024)
        log = await watched.log()
        for view in fast:
            await view.reaches(len(log))
    # It was left behind further than the gateway remembers, and nobody read on for it meanwhile.
    assert watched.tap.calls[SUBSCRIBE] == opened
    while slow.last < len(log):
        slow.take((await call.read()).item)
    assert slow.events == log
    assert all(view.events == log for view in fast)
    assert watched.tap.calls[SUBSCRIBE] > opened


async def test_subscribers_stay_connected_while_the_store_is_killed(watch: Watch) -> None:
    watched = await watch()
    views, watchers = await follow(watched, 10)
    for _ in range(2):
        await watched.send_many(5)
        await watched.store.sigkill()
        await watched.store.start()
        await watched.settled(1)
        await watched.answers()
    await watched.send("after it came back")
    log = await watched.log()
    for view in views:
        await view.reaches(len(log))
        assert view.events == log
    assert not any(task.done() for _, task in watchers)
    await leave(watchers)


async def test_patience_with_a_store_that_stays_away_ends(watch: Watch) -> None:
    watched = await watch(upstream_patience_seconds=0.3)
    _, watchers = await follow(watched, 3)
    await watched.store.sigkill()
    for _, task in watchers:
        with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE") as expected:
            await asyncio.wait_for(task, PATIENCE)
        assert expected.error.retry_after is not None


async def test_watching_a_run_ends_with_it_for_all(watch: Watch) -> None:
    watched = await watch()
    until = stream_pb2.SUBSCRIBE_UNTIL_RUN_END
    views, watchers = await follow(watched, 10, until=until)
    await watched.send("not the end yet")
    await watched.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(task for _, task in watchers))
    log = await watched.log()
    assert all(view.events == log for view in views)
    await watched.settled(0)

    late = View()
    await asyncio.wait_for(late.follow(watched.subscribe(until=until)), PATIENCE)
    assert late.events == log


@pytest.mark.parametrize("kind", ["message", "run_ended"])
async def test_a_filter_hides_no_end_from_who_watches_a_run(watch: Watch, kind: str) -> None:
    """Of a run that is over, and of one that ends while the subscriber is at the live end."""
    watched = await watch()
    wanted: dict[str, Any] = {
        "until": stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
        "filter": {"kinds": [kind]},
    }
    early = asyncio.create_task(everything(watched.subscribe(**wanted)))
    await watched.settled(1)
    await watched.send("not the end yet")
    await watched.cancel()
    log = await watched.log()
    for items in (await early, await everything(watched.subscribe(**wanted))):
        events = [event for item in items for event in item.events.events]
        assert {event.WhichOneof("kind") for event in events} == {kind}
        assert items[-1].heartbeat.delivered_through == len(log)
    await watched.settled(0)


async def test_heartbeats_count_what_a_filter_cut_out(watch: Watch) -> None:
    watched = await watch(heartbeat_seconds=0.1)
    await watched.cancel()
    call = watched.subscribe(filter={"kinds": ["message"]})
    beats: list[stream_pb2.StreamItem] = []
    while len(beats) < 3:
        item = (await call.read()).item
        beats += [item] if item.HasField("heartbeat") else []
    head = len(await watched.log())
    assert {beat.heartbeat.delivered_through for beat in beats} == {head}
    call.cancel()


async def test_filters_hold_at_the_live_end(watch: Watch) -> None:
    watched = await watch(heartbeat_seconds=0.2)
    _, watchers = await follow(watched, 1)
    call = watched.subscribe(filter={"kinds": ["run_ended"]}, after_sequence=1)
    beat = (await call.read()).item.heartbeat
    assert beat.delivered_through == beat.head_sequence == len(await watched.log())
    await watched.settled(1)
    await watched.send("of another kind")
    while beat.delivered_through < len(await watched.log()):
        item = (await call.read()).item
        assert item.WhichOneof("item") == "heartbeat"
        beat = item.heartbeat
    await watched.cancel()
    log = await watched.log()
    async with asyncio.timeout(PATIENCE):
        while not item.HasField("events"):
            item = (await call.read()).item
    assert [event.sequence for event in item.events.events] == [len(log)]
    await leave([*watchers])
    call.cancel()


async def test_heartbeats_say_what_was_delivered_and_can_be_resumed_from(watch: Watch) -> None:
    watched = await watch(heartbeat_seconds=0.1)
    call = watched.subscribe()
    beats: list[stream_pb2.StreamItem] = []
    while len(beats) < 3:
        item = (await call.read()).item
        beats += [item] if item.HasField("heartbeat") else []
    call.cancel()
    head = len(await watched.log())
    assert {beat.heartbeat.delivered_through for beat in beats} == {head}
    await watched.send("later")
    resumed = watched.subscribe(resume_token=beats[-1].resume_token)
    assert (await resumed.read()).item.events.events[0].sequence == head + 1
    resumed.cancel()


async def test_a_drain_ends_subscriptions_at_the_live_end(watch: Watch) -> None:
    watched = await watch()
    _, watchers = await follow(watched, 3)
    stopping = asyncio.create_task(watched.gateway.host.stop())
    for _, task in watchers:
        with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING"):
            await asyncio.wait_for(task, PATIENCE)
    await stopping
