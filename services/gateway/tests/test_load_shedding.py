"""A replica that has more to do than it can still lets people stop things."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1.conversation_pb2 import Conversation
from agentmesh.conversation_store.v1 import approval_store_service_pb2 as approval_store_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import identity_service_pb2 as identity_pb2
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import approval_service_pb2 as approval_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.approval_service_pb2_grpc import ApprovalServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh_gateway.registration import adder
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Gateway, Gateways

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ENOUGH_SECONDS = 60


class StuckStore:
    """Answers no question about a conversation before it is released; everything else at once."""

    def __init__(self) -> None:
        self.asked = 0
        self.released = asyncio.Event()

    async def get_conversation(self, request: Any, context: Any) -> Any:
        self.asked += 1
        await self.released.wait()
        return store_pb2.GetConversationResponse(
            conversation=Conversation(conversation_id=request.conversation_id)
        )

    async def list_conversations(self, request: Any, context: Any) -> Any:
        return store_pb2.ListConversationsResponse()

    async def list_events(self, request: Any, context: Any) -> Any:
        return store_pb2.ListEventsResponse()

    async def cancel_conversation(self, request: Any, context: Any) -> Any:
        return store_pb2.CancelConversationResponse()

    async def pause_conversation(self, request: Any, context: Any) -> Any:
        return store_pb2.PauseConversationResponse()

    async def list_approvals(self, request: Any, context: Any) -> Any:
        return approval_store_pb2.ListApprovalsResponse()

    async def authenticate_key(self, request: Any, context: Any) -> Any:
        """Everybody is an administrator of the tenant that the secret names."""
        answer = identity_pb2.AuthenticateKeyResponse(keys_exist=True)
        answer.key.key_id = "key_1"
        answer.key.tenant = request.secret
        answer.key.role = options_pb2.ROLE_ADMIN
        return answer

    async def revoke_key(self, request: Any, context: Any) -> Any:
        return identity_pb2.RevokeKeyResponse()


async def start(gateways: Gateways, hosts: HostFactory) -> tuple[Gateway, StuckStore]:
    """A gateway that takes four calls at once, two of each tenant."""
    store = StuckStore()
    services = [
        store_pb2.DESCRIPTOR.services_by_name["ConversationStoreService"],
        identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
        *approval_store_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    host = await hosts.start(
        "conversation_store",
        [(adder(service), store, service.full_name) for service in services],
    )
    gateway = await gateways.start(
        store_address=host.grpc_address, max_calls_under_way=4, max_loop_lag_seconds=0
    )
    return gateway, store


def of(tenant: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", tenant),)


def get(gateway: Gateway, tenant: str) -> Any:
    stub: Any = ConversationServiceStub(gateway.channel)
    return stub.GetConversation(
        pb2.GetConversationRequest(conversation_id="conv_1"), metadata=of(tenant)
    )


async def saturate(gateway: Gateway, store: StuckStore) -> list[Any]:
    calls = [get(gateway, tenant) for tenant in ("acme", "acme", "umbrella", "umbrella")]
    async with asyncio.timeout(ENOUGH_SECONDS):
        while store.asked < 4:
            await asyncio.sleep(0.01)
    return calls


async def test_what_stops_things_is_served_when_all_else_is_refused(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, store = await start(gateways, mesh_hosts)
    conversations: Any = ConversationServiceStub(gateway.channel)
    calls = await saturate(gateway, store)
    mine = of("initech")
    listing = pb2.ListConversationsRequest()
    for refused in (
        conversations.ListConversations(listing, metadata=mine),
        get(gateway, "initech"),
    ):
        with raises_rich(UNAVAILABLE, "REPLICA_OVERLOADED") as caught:
            await refused
        assert caught.error.retry_after
    headers = dict(mine)
    response = await gateway.http.get("/conversations", headers=headers)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")

    cancel = pb2.CancelConversationRequest(conversation_id="conv_1")
    await conversations.CancelConversation(cancel, metadata=mine)
    pause = pb2.PauseConversationRequest(conversation_id="conv_1")
    await conversations.PauseConversation(pause, metadata=mine)
    approvals: Any = ApprovalServiceStub(gateway.channel)
    await approvals.ListApprovals(approval_pb2.ListApprovalsRequest(), metadata=mine)
    admin: Any = AdminServiceStub(gateway.channel)
    await admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="key_1"), metadata=mine)
    await admin.CheckHealth(admin_pb2.CheckHealthRequest())
    response = await gateway.http.post("/conversations/conv_1/cancel", json={}, headers=headers)
    assert response.status_code == 200

    store.released.set()
    for call in calls:
        assert (await call).conversation_id == "conv_1"
    await conversations.ListConversations(listing, metadata=mine)


async def test_one_tenant_gets_half_of_the_replica_at_most(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway, store = await start(gateways, mesh_hosts)
    calls = [get(gateway, "acme") for _ in range(2)]
    async with asyncio.timeout(ENOUGH_SECONDS):
        while store.asked < 2:
            await asyncio.sleep(0.01)
    with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as caught:
        await get(gateway, "acme")
    assert caught.error.retry_after
    assert caught.error.quotas[0].subject == "tenant:acme"
    other = get(gateway, "umbrella")
    async with asyncio.timeout(ENOUGH_SECONDS):
        while store.asked < 3:
            await asyncio.sleep(0.01)
    # A call that its caller gives up gives its place back.
    calls[0].cancel()
    async with asyncio.timeout(ENOUGH_SECONDS):
        while store.asked < 4:
            again = get(gateway, "acme")
            done, _ = await asyncio.wait({asyncio.ensure_future(_end(again))}, timeout=0.2)
            if not done:
                break
    store.released.set()
    await calls[1]
    await other


async def _end(call: Any) -> None:
    try:
        await call
    except grpc.aio.AioRpcError:
        return
