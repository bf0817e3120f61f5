"""G8: one trace per run, over all four services, going on after a crash."""

from __future__ import annotations

import asyncio

from agentmesh.common.v1 import trace_service_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import MAIN_JOB, TEAM, follow
from tests.support.mesh import Mesh

SERVICES = {"gateway", "conversation_store", "agent_runtime", "tool_runner"}


async def trace(mesh: Mesh, conversation_id: str) -> list[trace_service_pb2.Span]:
    stub = ConversationServiceStub(mesh.channel())
    response = await stub.GetTrace(conversations.GetTraceRequest(conversation_id=conversation_id))
    assert not response.unreachable
    assert {s.trace_id for s in response.spans} == {response.trace_id}
    return list(response.spans)


async def test_one_trace_over_four_services(mesh: Mesh) -> None:
    conversation_id = await mesh.start_main_job()
    await follow(mesh.channel(), conversation_id)
    spans = await trace(mesh, conversation_id)
    assert {s.service for s in spans} == SERVICES
    known = {s.span_id for s in spans}
    roots = [s for s in spans if s.parent_span_id not in known]
    assert len(roots) == 1, [(r.name, r.service) for r in roots]
    names = " ".join(s.name for s in spans)
    for expected in ("StartConversation", "CommitTurn", "RecordStep", "CallTool", "chat"):
        assert expected in names, expected


async def test_no_message_stands_in_a_span(mesh: Mesh) -> None:
    secret_word = "xylophonist"
    started = await mesh.start_conversation(f"{MAIN_JOB} for a {secret_word}", TEAM)
    conversation_id = started.conversation_id
    await follow(mesh.channel(), conversation_id)
    for span in await trace(mesh, conversation_id):
        assert secret_word not in str(span)


async def test_the_trace_goes_on_after_a_crash(own_mesh: Mesh) -> None:
    conversation_id = await own_mesh.start_main_job()
    following = asyncio.create_task(follow(own_mesh.channel(), conversation_id))
    await asyncio.sleep(0.5)
    await own_mesh.kill("agent_runtime")
    await own_mesh.restart("agent_runtime")
    await following
    spans = await trace(own_mesh, conversation_id)
    # The trace id is that of the call that started the run, and the new process speaks under it.
    assert "agent_runtime" in {s.service for s in spans}
    assert any(s.name.endswith("StartConversation") for s in spans)
