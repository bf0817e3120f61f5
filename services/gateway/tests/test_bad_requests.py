"""What is refused before any other service is asked, over gRPC and over REST, with the same reason.

No service runs behind the gateway of these tests: what is not refused here is UNAVAILABLE.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from agentmesh.common.v1.errors_pb2 import ErrorReason
from agentmesh.gateway.v1 import agent_service_pb2 as agent_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.testkit import raises_rich

from .conftest import Gateway, Gateways

START = "/conversations/start"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest_asyncio.fixture
async def gateway(gateways: Gateways) -> AsyncIterator[Gateway]:
    yield await gateways.start(allow_anonymous=True, max_message_bytes=64 * 1024)


def problem(response: httpx.Response, http_code: int, reason: str) -> dict[str, Any]:
    """The error of a response, after asserting its shape."""
    assert response.status_code == http_code, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == http_code
    assert error["message"]
    assert "Traceback" not in response.text
    info = error["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, "agentmesh.dev")
    assert ErrorReason.Value(f"ERROR_REASON_{reason}")
    return error


def violated(error: dict[str, Any]) -> list[str]:
    """The fields that an error names."""
    return [
        violation["field"]
        for detail in error["details"]
        for violation in detail.get("field_violations", ())
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"task": "", "agents": ["a"]}, "task"),
        ({"agents": ["a"]}, "task"),
        ({"task": "  \n", "agents": ["a"]}, "task"),
        ({"task": "x"}, "agents"),
        ({"task": "x", "agents": ["a"], "max_rounds": -1}, "max_rounds"),
        ({"task": "x", "agents": ["a"], "max_rounds": 0}, "max_rounds"),
        ({"task": "x", "agents": ["a", "b", "a"]}, "agents[2]"),
        ({"task": "x", "agents": [""]}, "agents[0]"),
        ({"task": "x", "agents": ["a"], "priority": 101}, "priority"),
    ],
)
async def test_a_conversation_that_cannot_start_names_the_field_on_both_edges(
    gateway: Gateway, body: dict[str, Any], field: str
) -> None:
    error = problem(await gateway.http.post(START, json=body), 400, "INVALID_FIELD")
    assert error["status"] == "INVALID_ARGUMENT"
    assert violated(error) == [field]
    stub: Any = ConversationServiceStub(gateway.channel)
    with raises_rich(INVALID, "INVALID_FIELD", field=field) as expected:
        await stub.StartConversation(pb2.StartConversationRequest(**body))
    assert expected.error.message == error["message"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (START, {"task": "x", "agent": ["a"]}, "agent"),
        (START, {"task": "x", "max_rounds": "many"}, "max_rounds"),
        (START, {"task": "x", "budget": {"tokens": 1}}, "budget.tokens"),
        ("/agents/register", {"name": "a b", "config": {}}, "name"),
        ("/agents/register", {"name": "a"}, "config"),
        ("/agents/register", {"name": "a", "config": {"role": 1}}, "config.role"),
        ("/conversations/c/message", {"content": ""}, "content"),
        ("/conversations/c/message", {"content": "x", "strategy": "now"}, "strategy"),
        ("/tools/execute", {"language": "cobol", "code": "x"}, "language"),
        ("/admin/keys", {"role": "owner"}, "role"),
        ("/admin/keys", {}, "role"),
    ],
)
async def test_a_wrong_field_is_named_by_its_path(
    gateway: Gateway, path: str, body: dict[str, Any], field: str
) -> None:
    error = problem(await gateway.http.post(path, json=body), 400, "INVALID_FIELD")
    assert violated(error) == [field]


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({}, "parts[1]"),
        ({"reasoning": {"text": "hm"}}, "parts[1]"),
        ({"tool_result": {"tool": "x", "output": "y"}}, "parts[1]"),
        ({"blob": {"digest": "abc", "media_type": "image/png"}}, "parts[1].blob.digest"),
        ({"blob": {"digest": DIGEST}}, "parts[1].blob.media_type"),
        ({"blob": {"digest": DIGEST, "media_type": "png"}}, "parts[1].blob.media_type"),
        ({"blob": {"digest": DIGEST, "media_type": "image/tiff"}}, "parts[1].blob.media_type"),
        (
            {"blob": {"digest": DIGEST, "media_type": "image/png", "filename": "a\nb"}},
            "parts[1].blob.filename",
        ),
    ],
)
async def test_a_wrong_attachment_is_named_by_its_path(
    gateway: Gateway, part: dict[str, Any], field: str
) -> None:
    parts = [{"text": {"text": "fine"}}, part]
    for path, body in (
        (START, {"task": "x", "agents": ["a"], "parts": parts}),
        ("/conversations/c/message", {"content": "x", "parts": parts}),
    ):
        error = problem(await gateway.http.post(path, json=body), 400, "INVALID_FIELD")
        assert violated(error) == [field]
    many = {"task": "x", "agents": ["a"], "parts": parts[:1] * 33}
    assert violated(problem(await gateway.http.post(START, json=many), 400, "INVALID_FIELD")) == [
        "parts"
    ]


@pytest.mark.parametrize(
    "path",
    ["/conversations?limit=3", "/conversations?page_size=501", "/conversations/c/stream?until=x"],
)
async def test_a_wrong_query_is_refused(gateway: Gateway, path: str) -> None:
    error = problem(await gateway.http.get(path), 400, "INVALID_FIELD")
    assert len(violated(error)) == 1


@pytest.mark.parametrize(
    ("content", "media_type", "http_code"),
    [
        (b'{"task": ', "application/json", 400),
        (b'{"task": "\xff"}', "application/json", 400),
        (b'{"task": "x", "task": "y"}', "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b'{"task": "x"}', "application/json; charset=latin-1", 400),
        (b"task=x", "application/x-www-form-urlencoded", 415),
        (b"task: x", "application/yaml", 415),
        (b'{"task": "x"}', "", 415),
    ],
)
async def test_a_body_that_is_no_json_is_refused(
    gateway: Gateway, content: bytes, media_type: str, http_code: int
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    response = await gateway.http.post(START, content=content, headers=headers)
    problem(response, http_code, "MALFORMED_BODY")


async def test_a_body_that_is_no_object_is_refused(gateway: Gateway) -> None:
    problem(await gateway.http.post(START, json=[1]), 400, "INVALID_FIELD")
    problem(await gateway.http.post(START, json="x"), 400, "INVALID_FIELD")


async def test_oversized_requests_are_refused_on_both_edges(gateway: Gateway) -> None:
    body: dict[str, Any] = {"task": "x" * 70_000, "agents": ["a"]}
    error = problem(await gateway.http.post(START, json=body), 413, "MESSAGE_TOO_LARGE")
    assert error["details"][0]["metadata"] == {"limit_bytes": "65536"}

    async def in_pieces() -> AsyncIterator[bytes]:
        yield json.dumps(body).encode()

    response = await gateway.http.post(
        START, content=in_pieces(), headers={"content-type": "application/json"}
    )
    problem(response, 413, "MESSAGE_TOO_LARGE")
    stub: Any = ConversationServiceStub(gateway.channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.StartConversation(pb2.StartConversationRequest(**body))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_paths_and_methods_that_do_not_exist_are_told_apart(gateway: Gateway) -> None:
    error = problem(await gateway.http.get("/nothing/here"), 404, "NOT_FOUND")
    assert error["status"] == "NOT_FOUND"
    response = await gateway.http.put("/agents")
    problem(response, 405, "UNIMPLEMENTED")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"
    response = await gateway.http.options("/agents")
    assert (response.status_code, response.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_a_service_that_is_down_is_named_on_both_edges(gateway: Gateway) -> None:
    response = await gateway.http.get("/agents")
    error = problem(response, 503, "SERVICE_UNAVAILABLE")
    assert error["details"][0]["metadata"] == {"service": "conversation_store"}
    assert response.headers["retry-after"] == "1"
    config = {"name": "a", "config": {"role": "x"}}
    error = problem(
        await gateway.http.post("/agents/register", json=config), 503, "SERVICE_UNAVAILABLE"
    )
    assert error["details"][0]["metadata"] == {"service": "agent_runtime"}
    stub: Any = AgentServiceStub(gateway.channel)
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE") as expected:
        await stub.ListAgents(agent_pb2.ListAgentsRequest())
    assert expected.error.metadata == {"service": "conversation_store"}


async def test_credentials_are_judged_before_the_body_is_read(gateways: Gateways) -> None:
    gateway = await gateways.start()
    headers = {"authorization": "Basic dTpw", "content-type": "application/json"}
    response = await gateway.http.post(START, content=b"{", headers=headers)
    problem(response, 401, "CREDENTIALS_INVALID")


async def test_a_get_takes_no_body(gateway: Gateway) -> None:
    response = await gateway.http.request("GET", "/agents", json={})
    error = problem(response, 400, "INVALID_FIELD")
    assert error["message"] == "this method takes no body"
    assert violated(error) == [""]


async def test_health_needs_no_credentials_and_names_what_is_down(gateway: Gateway) -> None:
    for path in ("/health", "/conversations/health", "/agents/health"):
        response = await gateway.http.get(path)
        assert response.status_code == 503
        content = response.json()
        assert content["status"] == "unhealthy"
        assert set(content["services"]) == {"conversation_store", "agent_runtime", "tool_runner"}
        assert all("unreachable" in state for state in content["services"].values())


async def test_every_response_has_an_id_and_sane_headers(gateway: Gateway) -> None:
    response = await gateway.http.get("/nothing", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in response.headers
    response = await gateway.http.get("/nothing", headers={"x-request-id": "a b"})
    assert response.headers["x-request-id"].startswith("req_")


async def test_cors_is_off_unless_origins_are_named(gateways: Gateways) -> None:
    origin = "https://console.example"
    gateway = await gateways.start(allow_anonymous=True, cors_allow_origins=[origin])
    response = await gateway.http.get("/nothing", headers={"origin": origin})
    assert response.headers["access-control-allow-origin"] == origin
    response = await gateway.http.get("/nothing", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers
