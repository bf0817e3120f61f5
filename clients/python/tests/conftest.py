"""A gateway that does what a test says, behind a real gRPC server that can vanish and come back.

A real gateway cannot be made to break a stream at a given item, or to repeat one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2, stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import (
    ConversationServiceServicer,
    add_ConversationServiceServicer_to_server,
)
from agentmesh_client import AgentMesh

Script = Callable[[pb2.SubscribeConversationRequest], AsyncIterator[stream_pb2.StreamItem]]


class ScriptedGateway:
    """Serves subscriptions by scripts, one per call; the last one serves all further calls."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.requests: list[pb2.SubscribeConversationRequest] = []
        self.starts: list[pb2.StartConversationRequest] = []
        self.metadata: dict[str, str | bytes] = {}
        self.start_errors: list[grpc.StatusCode] = []
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """Stays the same over restarts."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listens."""
        scripted = self

        class Servicer(ConversationServiceServicer):
            async def SubscribeConversation(  # noqa: N802  the contract's name
                self, request: pb2.SubscribeConversationRequest, context: Any
            ) -> AsyncIterator[pb2.SubscribeConversationResponse]:
                scripted.requests.append(request)
                scripts = scripted.scripts
                script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
                try:
                    async for item in script(request):
                        yield pb2.SubscribeConversationResponse(item=item)
                except ConnectionResetError:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

            async def StartConversation(  # noqa: N802  the contract's name
                self, request: pb2.StartConversationRequest, context: Any
            ) -> pb2.StartConversationResponse:
                scripted.starts.append(request)
                scripted.metadata = dict(context.invocation_metadata())
                if scripted.start_errors:
                    await context.abort(scripted.start_errors.pop(0), "not now")
                return pb2.StartConversationResponse(
                    conversation_id="conv_1",
                    status=conversation_pb2.CONVERSATION_STATUS_RUNNING,
                )

        self._server = grpc.aio.server()
        make: Any = Servicer
        add_ConversationServiceServicer_to_server(make(), self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()

    async def stop(self) -> None:
        """Breaks every connection."""
        if self._server is not None:
            await self._server.stop(None)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    scripted = ScriptedGateway()
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest_asyncio.fixture
async def mesh(gateway: ScriptedGateway) -> AsyncIterator[AgentMesh]:
    async with AgentMesh(gateway.address, api_key="amk_1") as client:
        yield client


def events(*sequences: int) -> stream_pb2.StreamItem:
    """One item with messages at these sequences."""
    return stream_pb2.StreamItem(
        events=stream_pb2.EventBatch(
            events=[
                event_pb2.Event(
                    sequence=sequence,
                    message=message_pb2.Message(agent="developer", content=str(sequence)),
                )
                for sequence in sequences
            ]
        ),
        resume_token=f"after-{sequences[-1]}",
    )


def piece(text: str, first: int, last: int, fence: int = 1) -> stream_pb2.StreamItem:
    """One item with pieces `first` to `last` of a message."""
    return stream_pb2.StreamItem(
        delta=stream_pb2.Delta(
            message_id="msg_1",
            agent="developer",
            kind=stream_pb2.DELTA_KIND_TEXT,
            text=text,
            fence=fence,
            first_index=first,
            last_index=last,
        )
    )
