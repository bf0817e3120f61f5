"""Messages of 64 clients at once: ours durable on Postgres, against an A2A server in memory.

Ours: SendMessage with an API key through the gateway, each to a conversation of its own; an answer
means that the message is on disk (fsync and synchronous_commit are on). Reference: SendMessage of
the A2A SDK's gRPC server with its task store and queues in memory, whose agent answers at once.
Both sides' callers send and receive bytes, and do as little for a call as there can be: 64 machines
would take none of the processors that the servers have.
"""

from __future__ import annotations

import argparse
import os
import uuid
from collections.abc import Awaitable
from contextlib import ExitStack

import grpc
import uvloop
from a2a.types import a2a_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from bench.harness.callers import Call, byte_method, take_turns
from bench.harness.peer_process import peer_process
from bench.harness.rounds import Rounds, Target, report
from bench.harness.store_and_gateway import Databases, StoreAndGateway, store_and_gateway
from tests.support.databases import PostgresServer

TARGET = Target("at least", 1.5)
CLIENTS = 64
TEXT = "A message of a person, as long as such messages are. " * 4
PEER = "bench.harness.a2a_peer"
GATEWAY_METHOD = "/agentmesh.gateway.v1.ConversationService/SendMessage"
A2A_METHOD = "/lf.a2a.v1.A2AService/SendMessage"


async def our_clients(mesh: StoreAndGateway, channel: grpc.aio.Channel) -> list[Call]:
    """Each writes to a conversation of its own."""
    conversations = [await mesh.start_conversation() for _ in range(CLIENTS)]
    metadata = (("authorization", f"Bearer {await mesh.create_key()}"),)
    method = byte_method(channel, GATEWAY_METHOD)

    def client(conversation_id: str) -> Call:
        wanted = pb2.SendMessageRequest(conversation_id=conversation_id, content=TEXT)
        request = wanted.SerializeToString()
        return lambda: method(request, metadata)

    return [client(conversation_id) for conversation_id in conversations]


def their_clients(channel: grpc.aio.Channel) -> list[Call]:
    """Each begins with a context of its own."""
    method = byte_method(channel, A2A_METHOD)

    def client() -> Call:
        def call() -> Awaitable[bytes]:
            message = a2a_pb2.Message(
                message_id=uuid.uuid4().hex,
                role=a2a_pb2.ROLE_USER,
                parts=[a2a_pb2.Part(text=TEXT)],
            )
            return method(a2a_pb2.SendMessageRequest(message=message).SerializeToString(), ())

        return call

    return [client() for _ in range(CLIENTS)]


async def measure(rounds: int, calls: int, databases: Databases) -> None:
    """Takes the rounds and reports them."""
    async with (
        store_and_gateway(databases) as mesh,
        peer_process(PEER) as (port, pid),
        grpc.aio.insecure_channel(mesh.gateway.grpc_address) as gateway,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as peer,
    ):
        sides = await take_turns(
            await our_clients(mesh, gateway),
            their_clients(peer),
            rounds=rounds,
            calls=calls,
            pids={"gateway": mesh.gateway.pid, "store": mesh.store.pid, "a2a": pid},
        )
    report(
        "send_message",
        "calls/s",
        Rounds(sides.rates(sides.ours), sides.rates(sides.reference)),
        reference_name="the A2A SDK's gRPC server, everything in memory",
        target=TARGET,
        more={
            "latencies_ms": sides.latencies,
            "processor_us_per_call": sides.processor,
            "database": databases.names,
            "load": round(os.getloadavg()[0], 1),
        },
    )


def main() -> None:
    """Measures what the command line says, on a Postgres of its own unless one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=2000)
    Databases.add_options(parser)
    options = parser.parse_args()
    databases = Databases.of(options)
    with ExitStack() as stack:
        if not databases.postgres_url:
            server = stack.enter_context(PostgresServer())
            databases = Databases(server.create_database(), databases.redis_url)
        uvloop.run(measure(options.rounds, options.calls, databases))


if __name__ == "__main__":
    main()
