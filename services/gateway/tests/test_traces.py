"""Whose trace a call is part of, and who sees what in it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh_gateway.settings import GatewaySettings
from meshkit.testkit import HostFactory
from meshkit.trace_entry import TRACERESPONSE
from pydantic import ValidationError

from .conftest import Gateway, Gateways
from .front import START, Front, stand_before
from .tenants import caller

CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{CLIENT_TRACE}-b7ad6b7169203331-01"
BODY: dict[str, Any] = {"task": "hello", "agents": ["developer"]}


async def trace_of(gateway: Gateway, conversation_id: str, **headers: str) -> dict[str, Any]:
    response = await gateway.http.get(f"/conversations/{conversation_id}/trace", headers=headers)
    assert response.status_code == 200, response.text
    trace: dict[str, Any] = response.json()
    return trace


async def started(gateway: Gateway, over: str) -> tuple[str, str]:
    """A conversation that a caller with a trace starts; its id, and what the caller is told."""
    if over == "REST":
        headers = {"traceparent": TRACEPARENT}
        response = await gateway.http.post(START, json=BODY, headers=headers)
        return response.json()["conversation_id"], response.headers.get(TRACERESPONSE, "")
    stub: Any = ConversationServiceStub(gateway.channel)
    call = stub.StartConversation(
        pb2.StartConversationRequest(**BODY), metadata=(("traceparent", TRACEPARENT),)
    )
    told = dict(await call.initial_metadata()).get(TRACERESPONSE, "")
    return (await call).conversation_id, str(told)


@pytest.mark.parametrize("over", ["REST", "gRPC"])
async def test_a_call_from_outside_begins_a_trace_and_says_which(front: Front, over: str) -> None:
    conversation_id, told = await started(front.gateway, over)
    trace = await trace_of(front.gateway, conversation_id)
    assert trace["trace_id"] == told.split("-")[1] != CLIENT_TRACE
    assert {span["service"] for span in trace["spans"]} >= {"gateway", "conversation_store"}
    assert trace["unreachable"] == ["tool_runner"]
    known = {span["span_id"] for span in trace["spans"]}
    (first,) = (span for span in trace["spans"] if span["parent_span_id"] not in known)
    assert first["name"].endswith("/StartConversation")
    assert first["attributes"]["agentmesh.client_trace_id"] == CLIENT_TRACE


@pytest.mark.parametrize("over", ["REST", "gRPC"])
async def test_traces_of_trusted_peers_are_continued(
    shared_store: Any, gateways: Gateways, mesh_hosts: HostFactory, over: str
) -> None:
    front = await stand_before(
        shared_store, gateways, mesh_hosts, trusted_trace_peers=("127.0.0.0/8", "::1/128")
    )
    conversation_id, told = await started(front.gateway, over)
    assert not told
    trace = await trace_of(front.gateway, conversation_id)
    assert trace["trace_id"] == CLIENT_TRACE
    (first,) = (s for s in trace["spans"] if s["parent_span_id"] == "b7ad6b7169203331")
    assert first["service"] == "gateway"
    assert "agentmesh.client_trace_id" not in first["attributes"]


async def test_peers_of_other_networks_are_not_trusted(
    shared_store: Any, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    peers = ("10.0.0.0/8", "spiffe://example.org/ns/prod/sa/web")
    front = await stand_before(shared_store, gateways, mesh_hosts, trusted_trace_peers=peers)
    for over in ("REST", "gRPC"):
        conversation_id, told = await started(front.gateway, over)
        trace = await trace_of(front.gateway, conversation_id)
        assert trace["trace_id"] == told.split("-")[1] != CLIENT_TRACE


async def test_whoever_sends_anothers_trace_sees_nothing_of_it(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    """Both are of one tenant, and neither conversation is shared."""
    http = own_front.http
    alice = await caller(own_front, mesh_hosts, "user")
    mallory = await caller(own_front, mesh_hosts, "user")
    theirs = await http.post(START, json=BODY, headers=alice.headers)
    conversation_id = theirs.json()["conversation_id"]
    seen = await trace_of(own_front.gateway, conversation_id, **alice.headers)
    own_spans = {span["span_id"] for span in seen["spans"]}
    assert own_spans

    stolen = {"traceparent": f"00-{seen['trace_id']}-{seen['spans'][0]['span_id']}-01"}
    refused = await http.get(f"/conversations/{conversation_id}/trace", headers=mallory.headers)
    assert refused.status_code == 404
    made = await http.post(START, json=BODY, headers=mallory.headers | stolen)
    trace = await trace_of(
        own_front.gateway, made.json()["conversation_id"], **mallory.headers, **stolen
    )
    assert trace["spans"]
    assert not own_spans & {span["span_id"] for span in trace["spans"]}
    again = await trace_of(own_front.gateway, conversation_id, **alice.headers)
    services = [s for s in again["spans"] if s["name"].endswith("/StartConversation")]
    assert len(services) == len(
        [s for s in seen["spans"] if s["name"].endswith("/StartConversation")]
    )


async def test_refusals_streams_and_files_name_the_trace_too(front: Front) -> None:
    headers = {"traceparent": TRACEPARENT}
    conversation_id = (await front.started())["conversation_id"]
    for method, path, content in (
        ("GET", "/conversations/conv_1", None),
        ("GET", f"/conversations/{conversation_id}/stream?until=head", None),
        ("POST", "/blobs", b"hello"),
    ):
        kind = {"content-type": "application/octet-stream"} if content else {}
        response = await front.http.request(method, path, content=content, headers=headers | kind)
        parts = response.headers[TRACERESPONSE].split("-")
        assert (parts[0], len(parts[1]), len(parts[2])) == ("00", 32, 16)
        assert parts[1] != CLIENT_TRACE
    stub: Any = ConversationServiceStub(front.gateway.channel)
    call = stub.GetConversation(
        pb2.GetConversationRequest(conversation_id="conv_1"),
        metadata=(("traceparent", TRACEPARENT),),
    )
    assert CLIENT_TRACE not in dict(await call.initial_metadata())[TRACERESPONSE]
    with pytest.raises(grpc.aio.AioRpcError):
        await call


@pytest.mark.parametrize("headers", [{}, {"traceparent": "00-0-0-0"}])
async def test_who_names_no_trace_is_told_of_none(front: Front, headers: dict[str, str]) -> None:
    response = await front.http.get("/agents", headers=headers)
    assert response.status_code == 200
    assert TRACERESPONSE not in response.headers


@pytest.mark.parametrize("peers", [("0.0.0.0/0",), ("web",), ("spiffe://x",)])
def test_peers_that_are_none_are_refused_by_name(peers: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="AGENTMESH_TRUSTED_TRACE_PEERS"):
        GatewaySettings(trusted_trace_peers=peers)
