"""Whatever comes in: a clear error with the field and the remedy, over gRPC and REST alike, and
nothing half-written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.errors import error_info, reason_of, violations
from tests.support.mesh import Mesh

START = "/conversations/start"


@pytest_asyncio.fixture
async def rest(mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=mesh.rest_url, timeout=20) as client:
        yield client


async def count(mesh: Mesh) -> int:
    listed = await ConversationServiceStub(mesh.channel()).ListConversations(
        conversations.ListConversationsRequest(page_size=500)
    )
    return len(listed.conversations)


BAD_STARTS: list[tuple[dict[str, Any], str]] = [
    ({"agents": ["developer"], "task": ""}, "task"),
    ({"agents": ["developer"], "task": "x", "max_rounds": -1}, "max_rounds"),
    ({"agents": ["developer"], "task": "x", "max_rounds": 0}, "max_rounds"),
    ({"agents": ["developer", "nobody"], "task": "x"}, "agents[1]"),
    ({"agents": [""], "task": "x"}, "agents[0]"),
    ({"agents": [], "task": "x"}, "agents"),
    ({"workflow": "no_such_workflow", "task": "x"}, "workflow"),
]


@pytest.mark.parametrize(("body", "field"), BAD_STARTS)
async def test_a_bad_start_names_the_field(
    mesh: Mesh, rest: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    before = await count(mesh)
    stub = ConversationServiceStub(mesh.channel())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.StartConversation(conversations.StartConversationRequest(**body))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "INVALID_FIELD"
    assert field in violations(caught.value)

    response = await rest.post(START, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    fields = [
        violation["field"]
        for detail in error["details"]
        for violation in detail.get("field_violations", [])
    ]
    assert field in fields
    assert "Traceback" not in response.text
    assert await count(mesh) == before


@pytest.mark.parametrize(
    ("content", "content_type", "status", "says"),
    [
        (b'{"agents": [', "application/json", 400, "JSON"),
        (b"\xff\xfe", "application/json", 400, ""),
        (b"[]", "application/json", 400, ""),
        (b'{"task": "x", "wrokflow": "y"}', "application/json", 400, "wrokflow"),
        (b'{"task": 5, "agents": ["developer"]}', "application/json", 400, "task"),
        (b"task=x", "application/x-www-form-urlencoded", 415, "application/json"),
        (b'{"task": "' + b"x" * (5 << 20) + b'"}', "application/json", 413, ""),
    ],
    ids=["cut off", "encoding", "no object", "unknown field", "wrong type", "form", "too large"],
)
async def test_a_bad_body_is_refused(
    mesh: Mesh,
    rest: httpx.AsyncClient,
    content: bytes,
    content_type: str,
    status: int,
    says: str,
) -> None:
    before = await count(mesh)
    response = await rest.post(START, content=content, headers={"content-type": content_type})
    assert response.status_code == status, response.text
    assert says in response.json()["error"]["message"]
    assert "Traceback" not in response.text
    assert await count(mesh) == before


async def test_an_oversized_grpc_message_is_refused(mesh: Mesh) -> None:
    stub = ConversationServiceStub(mesh.channel())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.StartConversation(
            conversations.StartConversationRequest(agents=["developer"], task="x" * (5 << 20))
        )
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_conversation_is_not_found(mesh: Mesh, rest: httpx.AsyncClient) -> None:
    stub = ConversationServiceStub(mesh.channel())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetConversation(
            conversations.GetConversationRequest(conversation_id="conv_nothing")
        )
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert reason_of(caught.value) == "NOT_FOUND"
    for method, path in [
        ("GET", "/conversations/conv_nothing"),
        ("GET", "/conversations/conv_nothing/stream"),
        ("POST", "/conversations/conv_nothing/cancel"),
    ]:
        response = await rest.request(method, path, json={} if method == "POST" else None)
        assert response.status_code == 404, path
        assert response.json()["error"]["status"] == "NOT_FOUND"


async def test_paths_and_methods(rest: httpx.AsyncClient) -> None:
    assert (await rest.get("/no/such/path")).status_code == 404
    assert (await rest.put(START, json={})).status_code == 405
    assert (await rest.get("/conversations", params={"colour": "red"})).status_code == 400
    assert (await rest.get("/conversations", params={"page_size": "many"})).status_code == 400


async def test_an_agent_with_an_unknown_tool_registers_and_does_not_start(
    mesh: Mesh, rest: httpx.AsyncClient
) -> None:
    body = {
        "name": "custom_agent",
        "config": {
            "role": "Custom specialized role",
            "system_message": "You are a specialized agent...",
            "llm_config": {"model": "gpt-4"},
            "tools": ["custom_tool"],
        },
    }
    response = await rest.post("/agents/register", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["unresolved_tools"] == ["custom_tool"]
    listed = (await rest.get("/agents")).json()["agents"]
    assert "custom_agent" in [agent["id"] for agent in listed]

    before = await count(mesh)
    stub = ConversationServiceStub(mesh.channel())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.StartConversation(
            conversations.StartConversationRequest(agents=["custom_agent"], task="x")
        )
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(caught.value) == "UNRESOLVED_TOOLS"
    assert "custom_tool" in error_info(caught.value).metadata["tools"]
    assert await count(mesh) == before


def _with_model(**fields: Any) -> agents.RegisterAgentRequest:
    config = agents.AgentConfig(llm_config=agent_pb2.LlmConfig(**fields))
    return agents.RegisterAgentRequest(name="odd", config=config)


def _with_schema(**schema: Any) -> agents.RegisterAgentRequest:
    config = agents.AgentConfig()
    config.output_schema.update(schema)
    return agents.RegisterAgentRequest(name="odd", config=config)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (
            agents.RegisterAgentRequest(name="Not An Identifier", config=agents.AgentConfig()),
            "name",
        ),
        (
            agents.RegisterAgentRequest(
                name="hot", config=agents.AgentConfig(llm_config=agent_pb2.LlmConfig(temperature=3))
            ),
            "config.llm_config.temperature",
        ),
        (
            agents.RegisterAgentRequest(
                name="narrow",
                config=agents.AgentConfig(
                    tools=["file_manager"],
                    context=agent_pb2.ContextPolicy(
                        summarizing=agent_pb2.SummarizingContext(max_tokens=30)
                    ),
                ),
            ),
            "config.context.summarizing.max_tokens",
        ),
        (_with_schema(type="array"), "config.output_schema.type"),
        (
            _with_schema(type="object", properties={"a": {"type": "number?"}}),
            "config.output_schema.properties.a.type",
        ),
        (_with_model(model="no-such-model"), "config.llm_config.model"),
        (_with_model(profile="no-such-profile"), "config.llm_config.profile"),
        (_with_model(extra={"model": "another"}), "config.llm_config.extra.model"),
    ],
)
async def test_a_bad_agent_names_the_field(
    mesh: Mesh, request_: agents.RegisterAgentRequest, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await AgentServiceStub(mesh.channel()).RegisterAgent(request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in violations(caught.value)
