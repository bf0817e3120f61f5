"""Where changes come from, and who is told of calls."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.gateway.v1 import agent_service_pb2, agent_service_pb2_grpc
from meshkit import call_origin
from meshkit.call_origin import ORIGIN_HEADER, CallOrigin
from meshkit.errors import MeshError
from meshkit.identity import Principal, principal_scope
from meshkit.policy import rules_of_component
from meshkit.served_call import ServedCall
from meshkit.testkit import raises_rich

from libs.meshkit.tests.conftest import servicer

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
ORIGIN = CallOrigin("call_1", "Some/Method", "agent:größe", "ipv4:10.0.0.1:5", "ab" * 16, "r1")


async def test_an_origin_travels_with_calls_and_each_has_its_own_id(
    mesh: Any, operator: Principal
) -> None:
    seen: list[CallOrigin | None] = []

    async def get(request: Any, context: Any) -> Any:
        seen.append(call_origin.find_received())
        assert call_origin.find_begun() is None
        return catalog.GetDocumentResponse()

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        await mesh.catalog(host).GetDocument(GET)
        call_origin.begin(ORIGIN)
        await mesh.catalog(host).GetDocument(GET)
        await mesh.catalog(host).GetDocument(GET)
    assert seen[0] is None
    others = [one for one in seen if one is not None]
    assert [one.call_id for one in others] == ["call_1.1", "call_1.2"]
    assert {(o.method, o.resource, o.peer, o.trace_id, o.request_id) for o in others} == {
        ("Some/Method", "agent:größe", "ipv4:10.0.0.1:5", "ab" * 16, "r1")
    }


@pytest.mark.parametrize("header", ["{", "[]", "{}", "3"])
async def test_what_is_no_origin_is_refused(mesh: Any, operator: Principal, header: str) -> None:
    async def get(request: Any, context: Any) -> Any:
        return catalog.GetDocumentResponse()

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        call = mesh.catalog(host).GetDocument(GET, metadata=((ORIGIN_HEADER, header),))
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field=ORIGIN_HEADER):
            await call


class Listener:
    """Notes what it is told; refuses one agent."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str, str, str]] = []

    async def admitted(self, call: ServedCall) -> None:
        if getattr(call.request, "agent_id", "") == "no":
            raise MeshError.credentials_invalid("the listener refuses")

    def ended(self, call: ServedCall) -> None:
        who = call.principal.subject if call.principal else ""
        agent = getattr(call.request, "agent_id", "")
        self.ends.append((call.rules.name, who, agent, call.code.name))


async def test_a_listener_hears_of_every_call_and_may_refuse_it(
    mesh: Any, operator: Principal
) -> None:
    async def authenticate(context: Any) -> Principal:
        for key, value in context.invocation_metadata():
            if key == "x-api-key" and value == "good":
                return operator
        raise MeshError.credentials_invalid("bad key")

    async def get(request: Any, context: Any) -> Any:
        # What the outside sends is no origin.
        assert call_origin.find_received() is None
        return agent_service_pb2.GetAgentResponse()

    served = (
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server,
        servicer(agent_service_pb2_grpc.AgentServiceServicer, {"GetAgent": get}),
        "agentmesh.gateway.v1.AgentService",
    )
    host = mesh.hosts.build("gateway", [served], public_authenticator=authenticate)
    listener = Listener()
    host.call_listener = listener
    await host.start()
    stub: Any = agent_service_pb2_grpc.AgentServiceStub(
        mesh.channels().channel(host.grpc_address, "gateway")
    )
    good = (("x-api-key", "good"), (ORIGIN_HEADER, ORIGIN.header()))
    await stub.GetAgent(agent_service_pb2.GetAgentRequest(agent_id="a"), metadata=good)
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await stub.GetAgent(agent_service_pb2.GetAgentRequest(agent_id="b"))
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await stub.GetAgent(agent_service_pb2.GetAgentRequest(agent_id="no"), metadata=good)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.GetAgent(agent_service_pb2.GetAgentRequest(agent_id=""), metadata=good)
    async with asyncio.timeout(10):
        while len(listener.ends) < 4:  # a caller hears of the end before the listener does
            await asyncio.sleep(0.001)
    assert listener.ends == [
        ("GetAgent", "key_1", "a", "OK"),
        ("GetAgent", "", "b", "UNAUTHENTICATED"),
        ("GetAgent", "key_1", "no", "UNAUTHENTICATED"),
        ("GetAgent", "key_1", "", "INVALID_ARGUMENT"),
    ]


def test_what_changes_something_is_read_from_the_contract() -> None:
    rules = {rule.name: rule.changes for rule in rules_of_component("gateway")}
    assert rules["SendMessage"]
    assert rules["RevokeKey"]
    assert not rules["GetConversation"]
    assert not rules["SubscribeConversation"]
    assert not any(rule.changes for rule in rules_of_component("conversation_store"))
