"""From commit to delivery: one event at a time, one subscriber at the gateway.

Ours is the time from when the store knows an event to be committed until the subscriber has it:
two messages, store to gateway and gateway to subscriber, and all that both services do for them.
Reference: the smallest hop there is, one message of the same size on an open stream of a bare
grpc.aio server that has nothing else to do, from its write to its arrival. `answered_hop` beside
it has the shape of ours: a caller brings the message, and the server answers the call while it
writes to a subscriber in another process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import uvloop
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from bench.fan_out import GATEWAY_METHOD, response_bytes
from bench.harness.bare_server import SERVICE, bare_server, counted
from bench.harness.latencies import Latencies, report_latencies
from bench.harness.rounds import Target
from bench.harness.stamping_store import STAMPS_VARIABLE, CommitTimes
from bench.harness.store_and_gateway import Databases, store_and_gateway
from bench.harness.subscribers import Watch, stamp, subscribers

TARGET = Target("at most", 4.0)
CONTENT_BYTES = 200
GAP_SECONDS = 0.005


async def send_all(send: Callable[[], Awaitable[object]], count: int) -> None:
    """So many messages, one after the other."""
    for _ in range(count):
        await send()
        await asyncio.sleep(GAP_SECONDS)


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
    idle_hops: list[Latencies] = []
    totals: list[Latencies] = []
    async with AsyncExitStack() as stack:
        stamps = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stamps"
        mesh = await stack.enter_async_context(
            store_and_gateway(
                databases, {STAMPS_VARIABLE: str(stamps)}, "bench.harness.stamping_store"
            )
        )
        address, _ = await stack.enter_async_context(bare_server())
        bare = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        conversation_id = await mesh.start_conversation()
        size = await response_bytes(mesh)
        commits = CommitTimes(stamps)
        await commits.take(1)
        wanted = pb2.SubscribeConversationRequest(conversation_id=conversation_id)
        watch = Watch.of(mesh.gateway.grpc_address, GATEWAY_METHOD, wanted.SerializeToString(), 1)
        reader = await stack.enter_async_context(subscribers(watch))
        announce: Any = bare.unary_unary(f"/{SERVICE}/Announce")
        beside = await stack.enter_async_context(
            subscribers(Watch.of(address, f"/{SERVICE}/Subscribe", b"", 1))
        )
        for number in range(rounds + 1):
            idle = Latencies.of(await hop_times(bare, events, size))
            await beside.settle()
            await send_all(lambda: announce(struct.pack("!I", size)), events)
            hop = Latencies.of(await beside.latencies(events))
            await reader.settle()
            await send_all(lambda: mesh.send(conversation_id, stamp(CONTENT_BYTES)), events)
            delivered = await reader.latencies(events)
            committed = await commits.take(events)
            since = [one - other for one, other in zip(delivered, committed, strict=True)]
            print(
                f"round {number}: committed {median(committed):.2f} ms after the call began,"
                f" delivered {median(since):.2f} ms later, hop {hop.p50:.2f} ms,"
                f" on an idle stream {idle.p50:.2f} ms",
                flush=True,
            )
            if number:  # the first one warms up
                totals.append(Latencies.of(delivered))
                ours.append(Latencies.of(since))
                hops.append(hop)
                idle_hops.append(idle)
    answered = Latencies.median(hops)
    report_latencies(
        "live_path",
        ours,
        idle_hops,
        ratio=Latencies.median(ours).p50 / Latencies.median(idle_hops).p50,
        target=TARGET,
        reference_name=f"one message of {size} bytes on a stream of a bare grpc.aio server",
        more={
            "answered_hop": answered.rounded(),
            "ratio_to_answered_hop": round(Latencies.median(ours).p50 / answered.p50, 3),
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
