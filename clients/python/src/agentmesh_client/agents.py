"""Agents: what conversations can be started with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Unpack
from uuid import uuid4

import grpc
from agentmesh.gateway.v1 import agent_service_pb2 as pb2
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from google.protobuf.field_mask_pb2 import FieldMask

from agentmesh_client.agent_settings import AgentSettings, configured
from agentmesh_client.models import Agent
from agentmesh_client.transport import Caller


class Agents:
    """`mesh.agents`: read, register, change, copy and delete agents.

    Conversations go on with the versions that they were started with, whatever becomes of their
    agents. What an agent is made of are the keyword arguments of `AgentSettings`.
    """

    def __init__(self, channel: grpc.aio.Channel, call: Caller) -> None:
        self._stub: Any = AgentServiceStub(channel)
        self._call = call

    async def list(self, *, built_in: bool | None = None) -> list[Agent]:
        """All agents that the tenant can use, by id; only shipped ones, or only its own."""
        request = pb2.ListAgentsRequest(built_in=built_in)
        return [agent async for agent in self._pages(self._stub.ListAgents, request)]

    async def get(self, agent_id: str, *, version: int = 0) -> Agent:
        """One agent, as it is or as it was in a version. Raises NotFoundError."""
        request = pb2.GetAgentRequest(agent_id=agent_id, version=version)
        return Agent.of((await self._call(self._stub.GetAgent, request)).agent)

    # In this class `list` is the method.
    async def versions(self, agent_id: str) -> tuple[Agent, ...]:
        """All versions of an agent, newest first. Raises NotFoundError."""
        request = pb2.ListAgentVersionsRequest(agent_id=agent_id)
        pages = self._pages(self._stub.ListAgentVersions, request)
        return tuple([agent async for agent in pages])

    async def register(self, agent_id: str, **settings: Unpack[AgentSettings]) -> Agent:
        """Registers an agent. Tools that do not exist stand in `unresolved_tools` of the result."""
        config, _ = configured(settings)
        request = pb2.RegisterAgentRequest(name=agent_id, config=config, request_id=uuid4().hex)
        return Agent.of((await self._call(self._stub.RegisterAgent, request)).agent)

    async def update(
        self, agent_id: str, *, etag: str = "", **changes: Unpack[AgentSettings]
    ) -> Agent:
        """Writes a new version in which these settings are others; None empties one.

        With the `etag` of an agent that was read it fails with the code "ABORTED" if somebody
        changed it since. A shipped agent becomes the tenant's own by it.
        """
        config, paths = configured(changes)
        request = pb2.UpdateAgentRequest(
            agent_id=agent_id,
            config=config,
            update_mask=FieldMask(paths=paths),
            etag=etag,
            request_id=uuid4().hex,
        )
        return Agent.of((await self._call(self._stub.UpdateAgent, request)).agent)

    async def clone(
        self, agent_id: str, new_id: str, *, version: int = 0, **changes: Unpack[AgentSettings]
    ) -> Agent:
        """Registers a copy of an agent, or of a version of it, in which these settings differ."""
        config, paths = configured(changes)
        request = pb2.CloneAgentRequest(
            agent_id=agent_id,
            name=new_id,
            version=version,
            config=config,
            update_mask=FieldMask(paths=paths),
            request_id=uuid4().hex,
        )
        return Agent.of((await self._call(self._stub.CloneAgent, request)).agent)

    async def delete(self, agent_id: str, *, etag: str = "") -> None:
        """Hides an agent of the tenant. One that is shipped is FailedPreconditionError; one that
        was hidden by the tenant's own is there again."""
        request = pb2.DeleteAgentRequest(agent_id=agent_id, etag=etag, request_id=uuid4().hex)
        await self._call(self._stub.DeleteAgent, request)

    async def _pages(self, method: Any, request: Any) -> AsyncIterator[Agent]:
        while True:
            page = await self._call(method, request)
            for raw in page.agents:
                yield Agent.of(raw)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
