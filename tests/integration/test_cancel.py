"""G6: a cancel ends the run at once and leaves nothing running."""

from __future__ import annotations

import asyncio
import uuid

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import assert_dense, follow, run_end
from tests.support.mesh import Mesh
from tests.support.model_server import Fault, ModelServer, Reply
from tests.support.prompts import Prompt, call_tool

# A program that multiplies, leaves its process group and ignores every polite signal.
STUBBORN = """
import os, signal, sys, time
for name in ("SIGTERM", "SIGINT", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
os.execv("/bin/sh", ["MARKER", "-c", "trap '' TERM INT HUP; while :; do sleep 0.1; done"])
"""


async def gone(mesh: Mesh, marker: str) -> bool:
    """True once no process carries the marker; gives up after a while."""
    for _ in range(200):
        if not mesh.sandboxed_programs(marker):
            return True
        await asyncio.sleep(0.05)
    return False


async def cancel(mesh: Mesh, conversation_id: str) -> conversations.CancelConversationResponse:
    stub = ConversationServiceStub(mesh.channel())
    request = conversations.CancelConversationRequest(
        conversation_id=conversation_id, reason="enough"
    )
    return await stub.CancelConversation(request)


async def test_cancel_reaches_the_sandbox(model_mesh: Mesh, model_server: ModelServer) -> None:
    marker = f"stubborn-{uuid.uuid4().hex}"
    program = STUBBORN.replace("MARKER", marker)
    model_server.reply_with(call_tool("code_executor", language="python", code=program))
    started = await model_mesh.start_conversation("run for ever", ("developer",))
    while len(model_mesh.sandboxed_programs(marker)) < 4:
        await asyncio.sleep(0.05)

    response = await cancel(model_mesh, started.conversation_id)
    assert response.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    assert await gone(model_mesh, marker)

    events = await follow(model_mesh.channel(), started.conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_CANCELLED
    assert run_end(events).reason == conversation_pb2.RUN_END_REASON_CANCELLED
    assert events[-1].WhichOneof("kind") == "run_ended"

    again = await cancel(model_mesh, started.conversation_id)
    assert again.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    later = await follow(model_mesh.channel(), started.conversation_id)
    assert len(later) == len(events)


async def test_cancel_drops_the_model_call(model_mesh: Mesh, model_server: ModelServer) -> None:
    model_server.fail_next(Fault(stream="stall", after_chunks=1))
    started = await model_mesh.start_conversation("think for ever", ("developer",))
    while not model_server.open_streams:
        await asyncio.sleep(0.01)
    await cancel(model_mesh, started.conversation_id)
    while model_server.open_streams:
        await asyncio.sleep(0.01)
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_CANCELLED
    assert len(model_server.requests) == 1


async def test_a_killed_tool_runner_leaves_nothing_running(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    marker = f"orphan-{uuid.uuid4().hex}"
    program = STUBBORN.replace("MARKER", marker)
    model_server.reply_with(
        lambda body, number: (
            Reply("done")
            if Prompt(body).tool_results
            else call_tool("code_executor", language="python", code=program)
        )
    )
    started = await model_mesh.start_conversation("run", ("developer",), max_rounds=1)
    while len(model_mesh.sandboxed_programs(marker)) < 4:
        await asyncio.sleep(0.05)
    await model_mesh.kill("tool_runner")
    await model_mesh.restart("tool_runner")
    assert await gone(model_mesh, marker)
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
