"""Who may call what."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn
from agentmesh.gateway.v1 import agent_service_pb2, agent_service_pb2_grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from meshkit.channels import call_metadata
from meshkit.errors import MeshError
from meshkit.identity import (
    INTERNAL_HEADER,
    SYSTEM,
    InternalIdentity,
    Principal,
    capability_scope,
    current_capability,
    current_principal,
    principal_scope,
)
from meshkit.server import StartupError
from meshkit.testkit import raises_rich

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
DELETE = catalog.DeleteDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
RELEASE = turn.ReleaseTurnRequest(run_id="run_1", turn=1)
VIEWER, OPERATOR, ADMIN = 1, 2, 3


async def _ok(request: Any, context: Any) -> Any:
    return catalog.GetDocumentResponse()


async def _deleted(request: Any, context: Any) -> Any:
    return catalog.DeleteDocumentResponse()


async def _published(request: Any, context: Any) -> Any:
    return catalog.PublishDocumentsResponse()


@pytest.mark.parametrize(
    ("role", "tenant", "reads", "deletes"),
    [
        (VIEWER, "acme", True, "ROLE_TOO_LOW"),
        (OPERATOR, "acme", True, True),
        (ADMIN, "acme", True, True),
        (0, "acme", "ROLE_TOO_LOW", "ROLE_TOO_LOW"),
        (ADMIN, "", "INTERNAL_ONLY", "INTERNAL_ONLY"),
    ],
)
async def test_internal_methods_want_a_tenant_and_the_role(
    mesh: Any, role: int, tenant: str, reads: Any, deletes: Any
) -> None:
    host = await mesh.serve(GetDocument=_ok, DeleteDocument=_deleted)
    stub = mesh.catalog(host)
    with principal_scope(Principal("someone", tenant, role)):
        for call, request, outcome in (
            (stub.GetDocument, GET, reads),
            (stub.DeleteDocument, DELETE, deletes),
        ):
            if outcome is True:
                await call(request)
                continue
            with raises_rich(grpc.StatusCode.PERMISSION_DENIED, outcome):
                await call(request)


async def test_role_errors_name_both_roles(mesh: Any) -> None:
    host = await mesh.serve(DeleteDocument=_deleted)
    with (
        principal_scope(Principal("someone", "acme", VIEWER)),
        raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW") as expected,
    ):
        await mesh.catalog(host).DeleteDocument(DELETE)
    assert expected.error.metadata == {"required_role": "operator", "role": "viewer"}


async def test_system_methods_take_any_service_and_nobody_else(mesh: Any) -> None:
    host = await mesh.serve(PublishDocuments=_published)
    request = catalog.PublishDocumentsRequest()
    await mesh.catalog(host).PublishDocuments(request)
    await mesh.catalog(host).PublishDocuments(request, metadata=call_metadata(SYSTEM))
    with principal_scope(Principal("someone", "acme", 0)):
        await mesh.catalog(host).PublishDocuments(request)
    async with grpc.aio.insecure_channel(host.grpc_address) as bare:
        from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc

        stub: Any = catalog_service_pb2_grpc.CatalogServiceStub(bare)
        with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "INTERNAL_ONLY"):
            await stub.PublishDocuments(request)


async def test_tokens_under_another_secret_are_refused(
    mesh: Any, outsider: InternalIdentity
) -> None:
    host = await mesh.serve(GetDocument=_ok)
    forged = ((INTERNAL_HEADER, outsider.mint(Principal("root", "acme", ADMIN))),)
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await mesh.catalog(host).GetDocument(GET, metadata=forged)


async def test_worker_methods_take_the_identity_of_the_capability(
    mesh: Any, outsider: InternalIdentity
) -> None:
    seen = []

    async def release(request: Any, context: Any) -> Any:
        seen.append((current_principal(), current_capability()))
        return turn.ReleaseTurnResponse()

    host = await mesh.serve(ReleaseTurn=release)
    stub = mesh.turns(host)
    wanted: dict[str, Any] = {
        "tenant": "acme",
        "conversation_id": "conv_1",
        "run_id": "run_1",
        "fence": 7,
    }
    token = host.identity.mint_capability(**wanted)
    await stub.ReleaseTurn(RELEASE, metadata=call_metadata(capability=token))
    with capability_scope(host.identity.verify_capability(token)):
        await stub.ReleaseTurn(RELEASE)
    for principal, capability in seen:
        assert (principal.tenant, principal.subject, principal.service) == ("acme", "run_1", "test")
        assert (capability.run_id, capability.fence) == ("run_1", 7)

    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_REQUIRED"):
        await stub.ReleaseTurn(RELEASE)
    for bad in (
        outsider.mint_capability(**wanted),
        host.identity.mint(Principal("root", "acme", ADMIN)),
        host.identity.mint_capability(**wanted, lifetime_seconds=-60),
    ):
        with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
            await stub.ReleaseTurn(RELEASE, metadata=call_metadata(capability=bad))
    assert len(seen) == 2


async def test_public_methods_ask_the_authenticator(mesh: Any) -> None:
    async def authenticate(context: Any) -> Principal:
        for key, value in context.invocation_metadata():
            if key == "x-api-key":
                return Principal("key_1", "acme", int(value))
        raise MeshError.credentials_missing("send x-api-key")

    async def list_agents(request: Any, context: Any) -> Any:
        return agent_service_pb2.ListAgentsResponse(next_page_token=current_principal().tenant)

    host = await mesh.serve(public_authenticator=authenticate, ListAgents=list_agents)
    async with grpc.aio.insecure_channel(host.grpc_address) as channel:
        stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
        request = agent_service_pb2.ListAgentsRequest()
        answer = await stub.ListAgents(request, metadata=(("x-api-key", "1"),))
        assert answer.next_page_token == "acme"
        with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
            await stub.ListAgents(request, metadata=(("x-api-key", "0"),))
        with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
            await stub.ListAgents(request)


@pytest.mark.parametrize(
    ("scopes", "outcome"),
    [
        (None, True),
        ({"agents:read", "keys:write"}, True),
        ({"agents:write"}, "agents:write"),
        (set(), ""),
    ],
)
async def test_limited_credentials_need_the_scope_of_the_method(
    mesh: Any, scopes: set[str] | None, outcome: Any
) -> None:
    async def authenticate(_: Any) -> Principal:
        limits = None if scopes is None else frozenset(scopes)
        return Principal("key_1", "acme", ADMIN, scopes=limits)

    async def list_agents(request: Any, context: Any) -> Any:
        return agent_service_pb2.ListAgentsResponse()

    host = await mesh.serve(public_authenticator=authenticate, ListAgents=list_agents)
    async with grpc.aio.insecure_channel(host.grpc_address) as channel:
        stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
        request = agent_service_pb2.ListAgentsRequest()
        if outcome is True:
            await stub.ListAgents(request)
            return
        with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING") as expected:
            await stub.ListAgents(request)
    assert expected.error.metadata == {"required_scope": "agents:read", "scopes": outcome}


async def test_public_methods_without_an_authenticator_do_not_start(mesh: Any) -> None:
    host = mesh.hosts.build("gateway")
    host.add(
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server,
        agent_service_pb2_grpc.AgentServiceServicer(),  # type: ignore[abstract]  # as it runs
        "agentmesh.gateway.v1.AgentService",
    )
    with pytest.raises(StartupError, match="public_authenticator"):
        await host.start()


async def test_a_method_without_policy_does_not_start(mesh: Any) -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="meshkit_test/lawless.proto", package="meshkit_test", syntax="proto3"
    )
    file.message_type.add(name="Nothing")
    service = file.service.add(name="LawlessService")
    service.method.add(
        name="Do", input_type=".meshkit_test.Nothing", output_type=".meshkit_test.Nothing"
    )
    descriptor_pool.Default().Add(file)
    host = mesh.hosts.build("lawless")
    host.add(lambda servicer, server: None, object(), "meshkit_test.LawlessService")
    with pytest.raises(StartupError, match=r"LawlessService/Do has no policy"):
        await host.start()


async def test_health_and_reflection_need_no_credentials(mesh: Any) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    host = await mesh.serve()
    async with grpc.aio.insecure_channel(host.grpc_address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        name = "agentmesh.conversation_store.v1.TurnService"
        for service in ("", name):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        host.set_serving(name, False)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=name))
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                break
        watch.cancel()

        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {s.name for s in (await call.read()).list_services_response.service}
        assert {name, "grpc.health.v1.Health", "agentmesh.common.v1.TraceService"} <= listed
        call.cancel()
