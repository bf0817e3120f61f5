"""A unary call through the gateway, against the same call to the service behind it.

Ours: GetConversation without messages, with an API key, through authentication, authorisation,
validation, limits, audit and telemetry to the store and back. Reference: the store's own
GetConversation, called as the gateway calls it. The store is the same process on both sides, and
the callers send and receive bytes.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import grpc
import uvloop
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from meshkit.channels import call_metadata

from bench.harness.callers import Call, take_turns
from bench.harness.rounds import Rounds, Target, report
from bench.harness.store_and_gateway import Databases, StoreAndGateway, store_and_gateway

TARGET = Target("at least", 0.5)
P99_TARGET = Target("at most", 3.0)
GATEWAY_METHOD = "/agentmesh.gateway.v1.ConversationService/GetConversation"
STORE_METHOD = "/agentmesh.conversation_store.v1.ConversationStoreService/GetConversation"


def through_gateway(channel: grpc.aio.Channel, conversation_id: str, key: str) -> Call:
    """Ours."""
    wanted = pb2.GetConversationRequest(conversation_id=conversation_id, without_messages=True)
    method: Any = channel.unary_unary(GATEWAY_METHOD)
    request, metadata = wanted.SerializeToString(), (("authorization", f"Bearer {key}"),)
    return lambda: method(request, metadata=metadata)


def to_store(channel: grpc.aio.Channel, conversation_id: str) -> Call:
    """The reference."""
    wanted = store_pb2.GetConversationRequest(conversation_id=conversation_id)
    method: Any = channel.unary_unary(STORE_METHOD)
    request = wanted.SerializeToString()
    return lambda: method(request, metadata=call_metadata())


async def measure_in(mesh: StoreAndGateway, rounds: int, calls: int, concurrency: int) -> None:
    """Takes the rounds and reports them."""
    conversation_id = await mesh.start_conversation()
    key = await mesh.create_key()
    async with (
        grpc.aio.insecure_channel(mesh.gateway.grpc_address) as gateway,
        grpc.aio.insecure_channel(mesh.store.grpc_address) as store,
    ):
        sides = await take_turns(
            [through_gateway(gateway, conversation_id, key)] * concurrency,
            [to_store(store, conversation_id)] * concurrency,
            rounds=rounds,
            calls=calls,
            pids={"gateway": mesh.gateway.pid, "store": mesh.store.pid},
        )
    report(
        "gateway_unary",
        "calls/s",
        Rounds(sides.rates(sides.ours), sides.rates(sides.reference)),
        reference_name="the store's own GetConversation",
        target=TARGET,
        holds_too=P99_TARGET.holds(sides.p99_ratio),
        more={
            "p99_ratio": sides.p99_ratio,
            "p99_target": P99_TARGET.ratio,
            "latencies_ms": sides.latencies,
            "processor_us_per_call": sides.processor,
            "load": round(os.getloadavg()[0], 1),
        },
    )


async def measure(rounds: int, calls: int, concurrency: int, databases: Databases) -> None:
    """Starts both services and measures."""
    async with store_and_gateway(databases) as mesh:
        await measure_in(mesh, rounds, calls, concurrency)


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--concurrency", type=int, default=16)
    Databases.add_options(parser)
    options = parser.parse_args()
    databases = Databases.of(options)
    uvloop.run(measure(options.rounds, options.calls, options.concurrency, databases))


if __name__ == "__main__":
    main()
