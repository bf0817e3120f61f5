"""Many streams on one gateway process: what an idle one takes, and how fast events go through.

5,000 streams of as many subscribers to 500 conversations stay open and idle. Beside them 50
subscribers follow one more conversation to which a writer sends as fast as the store commits: the
figure is the events that reach them a second, counted at each. Reference: a bare grpc.aio server
that hands every message to as many subscribers, with a stream of its own for each, published as
fast as it takes them. Memory is that of the gateway before and after the idle streams.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import uvloop
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from bench.fan_out import GATEWAY_METHOD, response_bytes
from bench.harness.bare_server import SERVICE, bare_server
from bench.harness.rounds import Rounds, Target, interleave, report
from bench.harness.store_and_gateway import (
    Databases,
    StoreAndGateway,
    resident_bytes,
    store_and_gateway,
)
from bench.harness.subscribers import Subscribers, Watch, stamp, subscribers

TARGET = Target("at least", 0.6)
CONVERSATIONS = 500
READERS = 50
CONTENT_BYTES = 200
SENDERS = 32
SETTLE_SECONDS = 5.0

Send = Callable[[], Awaitable[object]]


async def delivered_per_second(send: Send, crowd: Subscribers, events: int) -> float:
    """Events that reach all readers together, a second, from the first call to the last arrival."""
    await crowd.settle()
    left = iter(range(events))

    async def keep_sending() -> None:
        for _ in left:
            await send()

    began = time.perf_counter()
    await asyncio.gather(*(keep_sending() for _ in range(SENDERS)))
    await crowd.latencies(events)
    return events * READERS / (time.perf_counter() - began)


def watching(mesh: StoreAndGateway, conversation_id: str, count: int) -> Watch:
    """Subscribers of a conversation at the gateway."""
    request = pb2.SubscribeConversationRequest(conversation_id=conversation_id)
    return Watch.of(mesh.gateway.grpc_address, GATEWAY_METHOD, request.SerializeToString(), count)


async def idle_streams(stack: AsyncExitStack, mesh: StoreAndGateway, count: int) -> dict[str, Any]:
    """Opens them, spread over conversations; KiB that each takes of the gateway and the store."""
    each = count // CONVERSATIONS
    # The first of them warms the processes up, so that only streams are weighed.
    first = await mesh.start_conversation()
    await stack.enter_async_context(subscribers(watching(mesh, first, 1)))
    ids = [await mesh.start_conversation() for _ in range(CONVERSATIONS)]
    before = [resident_bytes(mesh.gateway), resident_bytes(mesh.store)]
    watches = [watching(mesh, conversation_id, each) for conversation_id in ids]
    await stack.enter_async_context(subscribers(watches[0], *watches[1:]))
    await asyncio.sleep(SETTLE_SECONDS)
    after = [resident_bytes(mesh.gateway), resident_bytes(mesh.store)]
    opened = each * CONVERSATIONS
    kib = [round((now - then) / opened / 1024, 1) for now, then in zip(after, before, strict=True)]
    return {"streams": opened, "gateway_kib": kib[0], "store_kib": kib[1]}


async def measure(rounds: int, streams: int, events: int, databases: Databases) -> None:
    """Takes the rounds and reports them."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(store_and_gateway(databases))
        size = await response_bytes(mesh)
        idle = await idle_streams(stack, mesh, streams)
        conversation_id = await mesh.start_conversation()
        ours = await stack.enter_async_context(
            subscribers(watching(mesh, conversation_id, READERS))
        )
        address, _ = await stack.enter_async_context(bare_server())
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        publish: Any = channel.unary_unary(f"/{SERVICE}/Publish")
        theirs = await stack.enter_async_context(
            subscribers(Watch.of(address, f"/{SERVICE}/Subscribe", b"", READERS))
        )

        async def send() -> None:
            await mesh.send(conversation_id, stamp(CONTENT_BYTES))

        async def publish_one() -> None:
            await publish(stamp(size).encode())

        taken: Rounds = await interleave(
            lambda: delivered_per_second(send, ours, events),
            lambda: delivered_per_second(publish_one, theirs, events),
            rounds,
            "events/s",
        )
    report(
        "gateway_streams",
        "events/s",
        taken,
        reference_name=f"a bare grpc.aio server with {READERS} subscribers of {size} bytes",
        target=TARGET,
        more={"idle": idle, "readers": READERS, "load": round(os.getloadavg()[0], 1)},
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--events", type=int, default=1000)
    Databases.add_options(parser)
    options = parser.parse_args()
    databases = Databases.of(options)
    uvloop.run(measure(options.rounds, options.streams, options.events, databases))


if __name__ == "__main__":
    main()
