"""G10: whatever belongs to another tenant is not there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import pytest
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import artifact_service_pb2 as artifacts
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import follow, subscribe
from tests.support.errors import reason_of
from tests.support.mesh import Mesh

Call = Callable[[Any, str], Awaitable[object]]

CALLS: dict[str, Call] = {
    "get": lambda stub, cid: stub.GetConversation(
        conversations.GetConversationRequest(conversation_id=cid)
    ),
    "send": lambda stub, cid: stub.SendMessage(
        conversations.SendMessageRequest(conversation_id=cid, content="hello")
    ),
    "cancel": lambda stub, cid: stub.CancelConversation(
        conversations.CancelConversationRequest(conversation_id=cid)
    ),
    "events": lambda stub, cid: stub.ListEvents(
        conversations.ListEventsRequest(conversation_id=cid)
    ),
    "trace": lambda stub, cid: stub.GetTrace(conversations.GetTraceRequest(conversation_id=cid)),
}


@pytest.fixture
async def acme_conversation(keyed_mesh: Mesh) -> str:
    return await keyed_mesh.start_main_job(key="acme")


@pytest.mark.parametrize("name", CALLS)
async def test_another_tenants_conversation_is_not_found(
    keyed_mesh: Mesh, acme_conversation: str, name: str
) -> None:
    own = ConversationServiceStub(keyed_mesh.channel("acme"))
    other = ConversationServiceStub(keyed_mesh.channel("rival"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await CALLS[name](other, acme_conversation)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert reason_of(caught.value) == "NOT_FOUND"
    await CALLS["get"](own, acme_conversation)


async def test_another_tenants_stream_is_not_found(
    keyed_mesh: Mesh, acme_conversation: str
) -> None:
    await follow(keyed_mesh.channel("acme"), acme_conversation)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await subscribe(keyed_mesh.channel("rival"), acme_conversation)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    headers = {"authorization": f"Bearer {keyed_mesh.keys['rival']}"}
    async with httpx.AsyncClient(base_url=keyed_mesh.rest_url, headers=headers) as client:
        response = await client.get(f"/conversations/{acme_conversation}/stream")
        assert response.status_code == 404


async def test_lists_show_ones_own(keyed_mesh: Mesh, acme_conversation: str) -> None:
    request = conversations.ListConversationsRequest()
    own, other = [
        await ConversationServiceStub(keyed_mesh.channel(key)).ListConversations(request)
        for key in ("acme", "rival")
    ]
    assert acme_conversation in [c.conversation_id for c in own.conversations]
    assert acme_conversation not in [c.conversation_id for c in other.conversations]


async def test_an_agent_belongs_to_the_tenant_that_registered_it(keyed_mesh: Mesh) -> None:
    request = agents.RegisterAgentRequest(
        name="acme_agent", config=agents.AgentConfig(system_message="You are acme's.")
    )
    await AgentServiceStub(keyed_mesh.channel("acme")).RegisterAgent(request)
    for key, seen in (("acme", True), ("rival", False)):
        listed = await AgentServiceStub(keyed_mesh.channel(key)).ListAgents(
            agents.ListAgentsRequest()
        )
        ids = [a.id for a in listed.agents]
        assert ("acme_agent" in ids) is seen
        assert "developer" in ids
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await keyed_mesh.start_conversation("hello", ("acme_agent",), key="rival")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [
        ((), "CREDENTIALS_MISSING"),
        ((("authorization", "Bearer amk_wrong"),), "CREDENTIALS_INVALID"),
    ],
)
async def test_without_a_good_key_nobody_gets_in(
    keyed_mesh: Mesh, credentials: tuple[tuple[str, str], ...], reason: str
) -> None:
    stub = ConversationServiceStub(keyed_mesh.channel())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListConversations(conversations.ListConversationsRequest(), metadata=credentials)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(caught.value) == reason
    async with httpx.AsyncClient(base_url=keyed_mesh.rest_url) as client:
        response = await client.get("/conversations", headers=dict(credentials))
        assert response.status_code == 401
        assert response.json()["error"]["details"][0]["reason"] == reason


async def test_a_viewer_may_not_start(keyed_mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await keyed_mesh.start_main_job(key="viewer")
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(caught.value) == "ROLE_TOO_LOW"


async def test_a_users_job_is_carried_out_and_is_theirs(keyed_mesh: Mesh) -> None:
    """Workers, tools and files do their part of what nobody else may read."""
    cid = await keyed_mesh.start_main_job(key="user")
    await follow(keyed_mesh.channel("user"), cid)
    found = await ConversationServiceStub(keyed_mesh.channel("user")).GetConversation(
        conversations.GetConversationRequest(conversation_id=cid)
    )
    assert found.status == conversation_pb2.CONVERSATION_STATUS_COMPLETED
    assert found.visibility == conversation_pb2.CONVERSATION_VISIBILITY_PRIVATE
    files = await ArtifactServiceStub(keyed_mesh.channel("user")).ListArtifacts(
        artifacts.ListArtifactsRequest(conversation_id=cid)
    )
    assert files.artifacts
    for stub, request in (
        (ConversationServiceStub, conversations.GetConversationRequest(conversation_id=cid)),
        (ArtifactServiceStub, artifacts.ListArtifactsRequest(conversation_id=cid)),
    ):
        method = type(request).__name__.removesuffix("Request")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub(keyed_mesh.channel("viewer")), method)(request)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
