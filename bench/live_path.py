"""From commit to delivery: one event at a time, one subscriber at the gateway.

Ours is the time from before a writer's call until the subscriber has the event, less the commit:
the call's own time at the store less that of a bare unary call. So what is left is every message on
the way, store to gateway to subscriber, and the writer's request. Reference: one message of the
same size on an open stream of a bare grpc.aio server, from its write to its arrival.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import grpc
import uvloop
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from bench.fan_out import GATEWAY_METHOD, response_bytes
from bench.harness.bare_server import SERVICE, bare_server, counted
from bench.harness.latencies import Latencies, report_latencies
from bench.harness.rounds import Target
from bench.harness.store_and_gateway import Databases, store_and_gateway
from bench.harness.subscribers import Watch, stamp, subscribers

TARGET = Target("at most", 4.0)
CONTENT_BYTES = 200
GAP_SECONDS = 0.005


async def call_times(send: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of each of `count` calls, one after the other."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await send()
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(GAP_SECONDS)
    return times


async def hop_times(bare: grpc.aio.Channel, count: int, size: int) -> list[float]:
    """Milliseconds of each of `count` messages from their write to their arrival."""
    stamped: Any = bare.unary_stream(f"/{SERVICE}/Stamped")
    times = []
    async for message in stamped(counted(count, size)):
        arrived = time.monotonic_ns()
        times.append((arrived - struct.unpack_from("!Q", message)[0]) / 1e6)
    return times


async def measure(rounds: int, events: int, databases: Databases) -> None:
    """Takes the rounds and reports them."""
    ours: list[Latencies] = []
    hops: list[Latencies] = []
    commits: list[float] = []
    totals: list[Latencies] = []
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(store_and_gateway(databases))
        address, _ = await stack.enter_async_context(bare_server())
        bare = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        publish: Any = bare.unary_unary(f"/{SERVICE}/Publish")
        conversation_id = await mesh.start_conversation()
        size = await response_bytes(mesh)
        wanted = pb2.SubscribeConversationRequest(conversation_id=conversation_id)
        watch = Watch.of(mesh.gateway.grpc_address, GATEWAY_METHOD, wanted.SerializeToString(), 1)
        reader = await stack.enter_async_context(subscribers(watch))
        for number in range(rounds + 1):
            hop = Latencies.of(await hop_times(bare, events, size))
            unary = median(await call_times(lambda: publish(b"x" * size), events))
            await reader.settle()
            calls = await call_times(
                lambda: mesh.send(conversation_id, stamp(CONTENT_BYTES)), events
            )
            delivered = await reader.latencies(events)
            commit = median(calls) - unary
            print(
                f"round {number}: delivered {median(delivered):.2f} ms after the call began, "
                f"commit {commit:.2f} ms, hop {hop.p50:.2f} ms",
                flush=True,
            )
            if number:  # the first one warms up
                totals.append(Latencies.of(delivered))
                ours.append(Latencies.of([latency - commit for latency in delivered]))
                hops.append(hop)
                commits.append(commit)
    report_latencies(
        "live_path",
        ours,
        hops,
        ratio=Latencies.median(ours).p50 / Latencies.median(hops).p50,
        target=TARGET,
        reference_name=f"one message of {size} bytes on a stream of a bare grpc.aio server",
        more={
            "commit": round(median(commits), 3),
            "with_commit": Latencies.median(totals).rounded(),
            "database": databases.names,
            "load": round(os.getloadavg()[0], 1),
        },
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=200)
    Databases.add_options(parser)
    options = parser.parse_args()
    uvloop.run(measure(options.rounds, options.events, Databases.of(options)))


if __name__ == "__main__":
    main()
