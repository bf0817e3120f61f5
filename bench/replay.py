"""100,000 events from the log to one subscriber through the gateway, in events per second.

Reference: a bare grpc.aio server that writes as many single messages, each as large as one event's
response. The subscriber of both reads bytes in this process; that ours are all there, each once and
in order, is checked when the clock has stopped.
"""

from __future__ import annotations

import argparse
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
import uvloop
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from bench.fan_out import GATEWAY_METHOD
from bench.harness.bare_server import SERVICE, bare_server, counted
from bench.harness.filling import LEASE, filled
from bench.harness.rounds import Target, interleave, report
from bench.harness.store_and_gateway import Databases, store_and_gateway

TARGET = Target("at least", 1.0)
CONTENT_BYTES = 200


async def through_the_gateway(
    channel: grpc.aio.Channel, conversation_id: str, events: int
) -> float:
    """Events per second."""
    subscribe: Any = channel.unary_stream(GATEWAY_METHOD)
    request = pb2.SubscribeConversationRequest(
        conversation_id=conversation_id, until=stream_pb2.SUBSCRIBE_UNTIL_HEAD
    )
    began = time.perf_counter()
    responses = [response async for response in subscribe(request.SerializeToString())]
    took = time.perf_counter() - began
    sequences = [
        event.sequence
        for response in responses
        for event in pb2.SubscribeConversationResponse.FromString(response).item.events.events
    ]
    assert sequences == list(range(1, events + 1)), "the log did not come as it is"
    return events / took


async def bare_messages(channel: grpc.aio.Channel, events: int, size: int) -> float:
    """Messages per second."""
    replay: Any = channel.unary_stream(f"/{SERVICE}/Replay")
    began = time.perf_counter()
    count = 0
    async for _ in replay(counted(events, size)):
        count += 1
    assert count == events
    return events / (time.perf_counter() - began)


async def newest_event_bytes(channel: grpc.aio.Channel, conversation_id: str, events: int) -> int:
    """How large a response with one event is."""
    subscribe: Any = channel.unary_stream(GATEWAY_METHOD)
    request = pb2.SubscribeConversationRequest(
        conversation_id=conversation_id,
        after_sequence=events - 1,
        until=stream_pb2.SUBSCRIBE_UNTIL_HEAD,
    )
    sizes = [len(response) async for response in subscribe(request.SerializeToString())]
    return max(sizes)


async def measure(rounds: int, events: int, databases: Databases) -> None:
    """Takes the rounds and reports them."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(store_and_gateway(databases, LEASE))
        address, _ = await stack.enter_async_context(bare_server())
        bare = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        gateway = await stack.enter_async_context(
            grpc.aio.insecure_channel(mesh.gateway.grpc_address)
        )
        conversation_id = await filled(mesh, events, "x" * CONTENT_BYTES)
        size = await newest_event_bytes(gateway, conversation_id, events)
        taken = await interleave(
            lambda: through_the_gateway(gateway, conversation_id, events),
            lambda: bare_messages(bare, events, size),
            rounds,
            "events/s",
        )
    report(
        "replay",
        "events/s",
        taken,
        reference_name=f"bare grpc.aio stream of single messages of {size} bytes",
        target=TARGET,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=100_000)
    Databases.add_options(parser)
    options = parser.parse_args()
    uvloop.run(measure(options.rounds, options.events, Databases.of(options)))


if __name__ == "__main__":
    main()
