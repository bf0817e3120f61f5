"""One conversation, 1,000 subscribers at the gateway, 5 events a second: from send to delivery.

Ours: a writer's call to the store, the commit, one stream to the gateway, a thousand to the
subscribers. Reference: a call to a bare grpc.aio server that hands the same bytes to as many
subscribers in the same kind of process. The clock starts before the call on both sides, so ours
includes the commit. The ratio is the worse one of p50 and p99.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import psutil
import uvloop
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from bench.harness.bare_server import SERVICE, bare_server
from bench.harness.latencies import Latencies, report_latencies
from bench.harness.rounds import Target
from bench.harness.store_and_gateway import (
    Databases,
    StoreAndGateway,
    resident_bytes,
    store_and_gateway,
)
from bench.harness.subscribers import Subscribers, Watch, stamp, subscribers

TARGET = Target("at most", 1.5)
GATEWAY_METHOD = "/agentmesh.gateway.v1.ConversationService/SubscribeConversation"
CONTENT_BYTES = 200
EVENTS_A_SECOND = 5
# Longer than a heartbeat: every subscriber is at the live end and has settled there.
SETTLE_SECONDS = 3.0

Send = Callable[[], Awaitable[object]]


async def one_round(send: Send, crowd: Subscribers, events: int) -> Latencies:
    """Sends events at their pace, then reads what the subscribers saw of them."""
    await crowd.settle()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(events):
        await asyncio.sleep(began + number / EVENTS_A_SECOND - loop.time())
        await send()
    return Latencies.of(await crowd.latencies(events))


async def connect_ours(
    stack: AsyncExitStack, mesh: StoreAndGateway, count: int
) -> tuple[Send, Subscribers, dict[str, float]]:
    """Subscribers of a new conversation, what publishes to them, and KiB that each one takes."""
    conversation_id = await mesh.start_conversation()

    async def send() -> None:
        await mesh.send(conversation_id, stamp(CONTENT_BYTES))

    request = pb2.SubscribeConversationRequest(conversation_id=conversation_id).SerializeToString()
    address = mesh.gateway.grpc_address
    # The first one warms both processes up, so that only subscribers are weighed.
    first = await stack.enter_async_context(
        subscribers(Watch.of(address, GATEWAY_METHOD, request, 1))
    )
    await one_round(send, first, 5)
    before = [resident_bytes(mesh.gateway), resident_bytes(mesh.store)]
    crowd = await stack.enter_async_context(
        subscribers(Watch.of(address, GATEWAY_METHOD, request, count))
    )
    await asyncio.sleep(SETTLE_SECONDS)
    after = [resident_bytes(mesh.gateway), resident_bytes(mesh.store)]
    kib = [round((now - then) / count / 1024, 1) for now, then in zip(after, before, strict=True)]
    return send, crowd, {"gateway": kib[0], "store": kib[1]}


async def connect_reference(
    stack: AsyncExitStack, address: str, process: psutil.Process, count: int, size: int
) -> tuple[Send, Subscribers, float]:
    """The same of the bare server."""
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
    publish: Any = channel.unary_unary(f"/{SERVICE}/Publish")

    async def send() -> None:
        await publish(stamp(size).encode())

    method = f"/{SERVICE}/Subscribe"
    first = await stack.enter_async_context(subscribers(Watch.of(address, method, b"", 1)))
    await one_round(send, first, 5)
    before = process.memory_info().rss
    crowd = await stack.enter_async_context(subscribers(Watch.of(address, method, b"", count)))
    await asyncio.sleep(SETTLE_SECONDS)
    return send, crowd, round((process.memory_info().rss - before) / count / 1024, 1)


async def measure(rounds: int, count: int, events: int, databases: Databases) -> None:
    """Takes the rounds and reports them."""
    ours: list[Latencies] = []
    theirs: list[Latencies] = []
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(store_and_gateway(databases))
        address, process = await stack.enter_async_context(bare_server())
        send, crowd, kib = await connect_ours(stack, mesh, count)
        size = await response_bytes(mesh)
        publish, reference, bare_kib = await connect_reference(stack, address, process, count, size)
        for number in range(rounds + 1):
            their_round = await one_round(publish, reference, events)
            our_round = await one_round(send, crowd, events)
            print(
                f"round {number}: ours {our_round.rounded()}, reference {their_round.rounded()}",
                flush=True,
            )
            if number:  # the first one warms up
                ours.append(our_round)
                theirs.append(their_round)
    mine, other = Latencies.median(ours), Latencies.median(theirs)
    ratios = {"p50": round(mine.p50 / other.p50, 3), "p99": round(mine.p99 / other.p99, 3)}
    report_latencies(
        "fan_out",
        ours,
        theirs,
        ratio=max(ratios.values()),
        target=TARGET,
        reference_name=f"a bare grpc.aio server with {count} subscribers of {size} bytes",
        more={
            "ratios": ratios,
            "idle_subscriber_kib": {**kib, "reference": bare_kib},
            "database": databases.names,
            "load": round(os.getloadavg()[0], 1),
        },
    )


async def response_bytes(mesh: StoreAndGateway) -> int:
    """How large the response with one of these events is."""
    conversation_id = await mesh.start_conversation()
    await mesh.send(conversation_id, stamp(CONTENT_BYTES))
    async with grpc.aio.insecure_channel(mesh.gateway.grpc_address) as channel:
        wanted = pb2.SubscribeConversationRequest(conversation_id=conversation_id)
        subscribe: Any = channel.unary_stream(GATEWAY_METHOD)
        call = subscribe(wanted.SerializeToString())
        read = pb2.SubscribeConversationResponse.FromString(await call.read())
        call.cancel()
    del read.item.events.events[:-1]
    return read.ByteSize()


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--events", type=int, default=30)
    Databases.add_options(parser)
    options = parser.parse_args()
    databases = Databases.of(options)
    uvloop.run(measure(options.rounds, options.subscribers, options.events, databases))


if __name__ == "__main__":
    main()
