"""The gateway as the commands use it: the Python client, and its errors as lines for people."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import grpc
from agentmesh.gateway.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    conversation_service_pb2,
    conversation_service_pb2_grpc,
)
from agentmesh_client import AgentMesh, AgentMeshError
from agentmesh_client.errors import from_rpc_error

from agentmesh_cli.failures import describe_failure
from agentmesh_cli.options import Connection

_TIMEOUT_SECONDS = 10.0
# Someone who watches a conversation sits out a gateway that starts again.
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Gateway:
    """One gateway: `mesh` is the client of it."""

    mesh: AgentMesh
    _metadata: tuple[tuple[str, str], ...]

    @classmethod
    @asynccontextmanager
    async def open(cls, connection: Connection, *, patient: bool = False) -> AsyncIterator[Self]:
        """The gateway that `connection` leads to; what its calls raise leaves as CliError.

        `patient` tries calls again for a while when nobody answers.
        """
        address, key = connection.resolve_address(), connection.api_key
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        try:
            async with AgentMesh(
                address, api_key=key, retry_for=_PATIENCE_SECONDS if patient else 0.0
            ) as mesh:
                yield cls(mesh, metadata)
        except AgentMeshError as error:
            raise describe_failure(error, address) from None

    async def trace(self, conversation_id: str) -> conversation_service_pb2.GetTraceResponse:
        """The spans of the newest run that the services still remember."""
        stub: conversation_service_pb2_grpc.ConversationServiceAsyncStub = (
            conversation_service_pb2_grpc.ConversationServiceStub(self.mesh.channel)
        )
        request = conversation_service_pb2.GetTraceRequest(conversation_id=conversation_id)
        try:
            return await stub.GetTrace(request, metadata=self._metadata, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def default_model(self) -> str:
        """The model of agents that name none; empty if the mesh does not say."""
        stub: agent_service_pb2_grpc.AgentServiceAsyncStub = (
            agent_service_pb2_grpc.AgentServiceStub(self.mesh.channel)
        )
        request = agent_service_pb2.ListModelsRequest()
        try:
            models = await stub.ListModels(
                request, metadata=self._metadata, timeout=_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError:
            return ""
        return models.default_model
