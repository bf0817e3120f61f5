"""Agents and API keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.common.v1.options_pb2 import Role
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as agent_service
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from agentmesh_client.models import Agent, ApiKey
from agentmesh_client.transport import Caller


class Agents:
    """`mesh.agents`: the agents that conversations can be started with."""

    def __init__(self, channel: grpc.aio.Channel, call: Caller) -> None:
        self._stub: Any = AgentServiceStub(channel)
        self._call = call

    async def list(self) -> list[Agent]:
        """All agents that the tenant can use, by id."""
        return [agent async for agent in self._pages()]

    async def get(self, agent_id: str) -> Agent:
        """One agent. Raises NotFoundError."""
        request = agent_service.GetAgentRequest(agent_id=agent_id)
        return Agent.of((await self._call(self._stub.GetAgent, request)).agent)

    async def register(
        self,
        agent_id: str,
        *,
        name: str = "",
        role: str = "",
        system_message: str = "",
        model: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: Sequence[str] = (),
        handoffs: Sequence[str] = (),
        human_input_mode: str = "NEVER",
        model_arguments: Mapping[str, Any] | None = None,
    ) -> Agent:
        """Registers an agent. Tools that do not exist stand in `unresolved_tools` of the result."""
        llm = agent_pb2.LlmConfig(model=model, temperature=temperature, max_tokens=max_tokens)
        if model_arguments:
            llm.extra.CopyFrom(ParseDict(dict(model_arguments), Struct()))
        mode = agent_pb2.HumanInputMode.Value(f"HUMAN_INPUT_MODE_{human_input_mode.upper()}")
        request = agent_service.RegisterAgentRequest(
            name=agent_id,
            config=agent_service.AgentConfig(
                name=name,
                role=role,
                system_message=system_message,
                llm_config=llm,
                tools=tools,
                handoffs=handoffs,
                human_input_mode=mode,
            ),
            request_id=uuid4().hex,
        )
        return Agent.of((await self._call(self._stub.RegisterAgent, request)).agent)

    async def _pages(self) -> AsyncIterator[Agent]:
        request = agent_service.ListAgentsRequest()
        while True:
            page = await self._call(self._stub.ListAgents, request)
            for raw in page.agents:
                yield Agent.of(raw)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


class Keys:
    """`mesh.keys`: the tenant's API keys, for administrators."""

    def __init__(self, channel: grpc.aio.Channel, call: Caller) -> None:
        self._stub: Any = AdminServiceStub(channel)
        self._call = call

    async def create(self, role: str, *, name: str = "", ttl: timedelta | None = None) -> ApiKey:
        """Makes a key for "viewer", "operator" or "admin"; `secret` is shown only now."""
        request = admin_pb2.CreateKeyRequest(
            role=Role.Value(f"ROLE_{role.upper()}"), name=name, request_id=uuid4().hex
        )
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        made = await self._call(self._stub.CreateKey, request)
        return ApiKey.of(made.key, made.secret)

    async def list(self) -> list[ApiKey]:
        """All keys of the tenant, newest first, revoked ones included."""
        request = admin_pb2.ListKeysRequest()
        keys: list[ApiKey] = []
        while True:
            page = await self._call(self._stub.ListKeys, request)
            keys.extend(ApiKey.of(raw) for raw in page.keys)
            if not page.next_page_token:
                return keys
            request.page_token = page.next_page_token

    async def revoke(self, key_id: str) -> ApiKey:
        """Makes a key useless, everywhere within ten seconds."""
        request = admin_pb2.RevokeKeyRequest(key_id=key_id)
        return ApiKey.of((await self._call(self._stub.RevokeKey, request)).key)
