"""Conversations that wait for people."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.mesh import Mesh


async def start_asking(
    mesh: Mesh, mode: agent_pb2.HumanInputMode.ValueType, *, beside: tuple[str, ...] = ()
) -> str:
    """A conversation with an agent that asks a person after each of its turns, or before it ends;
    its id."""
    name = f"asker_{uuid.uuid4().hex[:8]}"
    config = agents.AgentConfig(role="asker", system_message="Ask.", human_input_mode=mode)
    await AgentServiceStub(mesh.channel()).RegisterAgent(
        agents.RegisterAgentRequest(name=name, config=config)
    )
    response = await mesh.start_conversation(
        "begin", (name, *beside), human_input=True, max_rounds=9
    )
    return response.conversation_id


async def waits(mesh: Mesh, conversation_id: str, *, within: float = 60.0) -> None:
    """Returns when the conversation waits for a person."""
    stub = ConversationServiceStub(mesh.channel())
    request = conversations.GetConversationRequest(conversation_id=conversation_id)
    async with asyncio.timeout(within):
        while True:
            found = await patiently(stub.GetConversation, request)
            if found.status == conversation_pb2.CONVERSATION_STATUS_WAITING:
                return
            await asyncio.sleep(0.02)


async def answer(mesh: Mesh, conversation_id: str, text: str) -> None:
    """Somebody says something at the gateway."""
    request = conversations.SendMessageRequest(
        conversation_id=conversation_id, content=text, request_id=uuid.uuid4().hex
    )
    await patiently(ConversationServiceStub(mesh.channel()).SendMessage, request)


async def patiently(method: Any, request: Any) -> Any:
    """Calls again while a service is coming back, as clients do."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await method(request, timeout=20, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
