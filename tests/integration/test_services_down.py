"""A service that is down is named, and the mesh goes on when it is back."""

from __future__ import annotations

import grpc
import httpx
import pytest
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import follow, run_end
from tests.support.errors import error_info
from tests.support.mesh import Mesh


async def test_a_store_that_is_down_is_named(mesh: Mesh) -> None:
    stub = ConversationServiceStub(mesh.channel())
    await mesh.kill("conversation_store")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListConversations(conversations.ListConversationsRequest(), timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert error_info(caught.value).metadata["service"] == "conversation_store"
    async with httpx.AsyncClient(base_url=mesh.rest_url, timeout=20) as client:
        response = await client.get("/conversations")
        assert response.status_code == 503
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.json()["services"]["conversation_store"] != "serving"
    await mesh.restart("conversation_store")
    conversation_id = await mesh.start_main_job()
    events = await follow(mesh.channel(), conversation_id)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED


async def test_conversations_start_while_every_runtime_is_down(mesh: Mesh) -> None:
    await mesh.kill("agent_runtime")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await AgentServiceStub(mesh.channel()).RegisterAgent(
            agents.RegisterAgentRequest(name="somebody", config=agents.AgentConfig()), timeout=20
        )
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert error_info(caught.value).metadata["service"] == "agent_runtime"

    conversation_id = await mesh.start_main_job()
    await mesh.restart("agent_runtime")
    events = await follow(mesh.channel(), conversation_id)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED


async def test_a_tool_runner_that_comes_back_is_used(mesh: Mesh) -> None:
    await mesh.kill("tool_runner")
    conversation_id = await mesh.start_main_job()
    await mesh.restart("tool_runner")
    events = await follow(mesh.channel(), conversation_id)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
