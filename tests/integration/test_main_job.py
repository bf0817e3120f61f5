"""The main job: a team plans, writes, tests, mends and reviews code that really runs."""

from __future__ import annotations

import json

import httpx
from agentmesh.conversation.v1 import conversation_pb2, message_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from httpx_sse import aconnect_sse

from tests.conftest import MeshFactory
from tests.support.conversations import (
    MAIN_JOB,
    TEAM,
    assert_dense,
    events_of,
    follow,
    messages_of,
    run_end,
    subscribe,
    tool_results,
)
from tests.support.mesh import Mesh


async def test_over_grpc(mesh: Mesh) -> None:
    stub = ConversationServiceStub(mesh.channel())
    started = await stub.StartConversation(
        conversations.StartConversationRequest(
            agents=TEAM, task=MAIN_JOB, workflow="software_development"
        )
    )
    assert started.status == conversation_pb2.CONVERSATION_STATUS_RUNNING

    items = await subscribe(mesh.channel(), started.conversation_id)
    events = events_of(items)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED, run_end(events)

    runs = [r for r in tool_results(events) if r.tool == "code_executor"]
    assert len(runs) >= 2
    assert "failed" in runs[0].output
    assert "AssertionError" in runs[0].output or "Error" in runs[0].output
    assert runs[-1].outcome == message_pb2.TOOL_OUTCOME_OK
    assert "passed" in runs[-1].output
    assert "failed" not in runs[-1].output

    speakers = {m.agent for m in messages_of(events) if m.role == message_pb2.MESSAGE_ROLE_AGENT}
    assert speakers == set(TEAM)
    called = {r.tool for r in tool_results(events)}
    assert called >= {"task_planner", "code_executor", "code_analyzer", "security_scanner"}

    whole = await stub.GetConversation(
        conversations.GetConversationRequest(conversation_id=started.conversation_id)
    )
    assert whole.status == conversation_pb2.CONVERSATION_STATUS_COMPLETED
    assert whole.summary
    assert whole.usage.model_calls >= 4
    assert whole.usage.input_tokens > 0
    assert whole.usage.output_tokens > 0
    assert whole.usage.tool_calls == len(tool_results(events))
    assert [m.message_id for m in whole.messages] == [m.message_id for m in messages_of(events)]


async def test_deltas_preview_the_messages_that_come(mesh: Mesh) -> None:
    conversation_id = await mesh.start_main_job()
    items = await subscribe(mesh.channel(), conversation_id)
    final: dict[str, int] = {}
    texts: dict[str, str] = {}
    for position, item in enumerate(items):
        for event in item.events.events:
            if event.WhichOneof("kind") == "message":
                final[event.message.message_id] = position
        if item.WhichOneof("item") == "delta":
            delta = item.delta
            assert delta.message_id not in final, "a delta came after its message"
            if delta.kind == 1:
                texts[delta.message_id] = texts.get(delta.message_id, "") + delta.text
    messages = {m.message_id: m for m in messages_of(events_of(items))}
    whole = [t for mid, t in texts.items() if messages[mid].content == t]
    assert whole, "no message was previewed from its first to its last character"


async def test_over_rest(mesh: Mesh) -> None:
    """The Quick Start's request as written, then its stream as server-sent events."""
    body = {
        "agents": list(TEAM),
        "task": "Create a Python web application with user authentication",
        "workflow": "software_development",
    }
    async with httpx.AsyncClient(base_url=mesh.rest_url, timeout=90) as client:
        response = await client.post("/conversations/start", json=body)
        assert response.status_code == 200, response.text
        started = response.json()
        assert started["status"] == "running"
        assert started["agents"] == body["agents"]
        assert started["task"] == body["task"]
        assert started["started_at"].endswith("Z")
        conversation_id = started["conversation_id"]

        path = f"/conversations/{conversation_id}/stream"
        sequences: list[int] = []
        async with aconnect_sse(client, "GET", path, params={"until": "run_end"}) as source:
            assert source.response.headers["content-type"].startswith("text/event-stream")
            async for sse in source.aiter_sse():
                data = json.loads(sse.data)
                if "sequence" in data:
                    assert sse.id
                    sequences.append(data["sequence"])
        assert sequences == list(range(1, len(sequences) + 1))

        whole = (await client.get(f"/conversations/{conversation_id}")).json()
        assert whole["status"] == "completed"
        assert whole["summary"]
        assert whole["completed_at"].endswith("Z")
        assert {"agent", "content", "timestamp"} <= whole["messages"][0].keys()

        listed = (await client.get("/conversations")).json()["conversations"]
        assert conversation_id in [c["conversation_id"] for c in listed]


async def test_another_sandbox_output_takes_another_path(mesh: Mesh, meshes: MeshFactory) -> None:
    """The scripted model reads what the sandbox really said. In a sandbox whose Python has no
    pytest the tests cannot run: nothing is mended, and nobody claims that tests passed."""
    usual = await follow(mesh.channel(), await mesh.start_main_job())
    bare = await meshes(tool_runner={"AGENTMESH_SANDBOX_PYTHON": "/usr/bin/python3"})
    other = await follow(bare.channel(), await bare.start_main_job())

    usual_output = [r.output for r in tool_results(usual) if r.tool == "code_executor"]
    other_output = [r.output for r in tool_results(other) if r.tool == "code_executor"]
    assert "passed" in usual_output[-1]
    assert all("No module named pytest" in output for output in other_output)
    said = [m.content for m in messages_of(other) if m.role == message_pb2.MESSAGE_ROLE_AGENT]
    assert not any("tests pass" in text.lower() for text in said)
    assert [m.content for m in messages_of(usual)] != [m.content for m in messages_of(other)]
