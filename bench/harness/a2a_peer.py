"""The reference of `send_message`: the A2A SDK's gRPC server with its stores in memory, in its own
process. Its agent answers each message at once with a message."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import uvloop
from a2a.helpers import new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler, GrpcHandler
from a2a.server.tasks import InMemoryTaskStore
from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard
from a2a.types.a2a_pb2_grpc import add_A2AServiceServicer_to_server


class Answering(AgentExecutor):
    """Says one word."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """At once."""
        await event_queue.enqueue_event(new_text_message("noted"))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """There is never anything to cancel."""


async def serve() -> None:
    """Listens and says where."""
    card = AgentCard(
        name="bench",
        description="answers at once",
        version="1",
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
    )
    handler = DefaultRequestHandler(Answering(), InMemoryTaskStore(), card)
    server = grpc.aio.server()
    add: Any = add_A2AServiceServicer_to_server
    add(GrpcHandler(handler), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
