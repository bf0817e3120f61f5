"""G6: a cancel ends the run at once and leaves nothing running."""

from __future__ import annotations

import asyncio
import uuid

from agentmesh.catalog.v1 import agent_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import assert_dense, follow, run_end
from tests.support.mesh import Mesh
from tests.support.model_server import Fault, ModelServer, Reply
from tests.support.people import start_asking, waits
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


async def stays_as_it_is(mesh: Mesh, model_server: ModelServer, conversation_id: str) -> None:
    """Cancelled, with the end of its run as the last event, and nothing comes after it."""
    asked = len(model_server.requests)
    events = await follow(mesh.channel(), conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_CANCELLED
    assert events[-1].HasField("run_ended")
    await asyncio.sleep(1)
    assert await follow(mesh.channel(), conversation_id) == events
    assert len(model_server.requests) == asked


async def test_cancel_in_mid_stream_lets_nothing_be_written_afterwards(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    """The model would go on talking: its next words find nobody."""
    model_server.reply_with(Reply("word " * 400))
    model_server.chunk_delay = 0.05
    started = await model_mesh.start_conversation("talk", ("reviewer",))
    while not model_server.open_streams:
        await asyncio.sleep(0.01)
    await cancel(model_mesh, started.conversation_id)
    async with asyncio.timeout(20):
        while model_server.open_streams:
            await asyncio.sleep(0.01)
    await stays_as_it_is(model_mesh, model_server, started.conversation_id)


async def test_cancel_drops_a_call_that_was_not_answered_yet(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    model_server.hold()
    started = await model_mesh.start_conversation("think", ("reviewer",))
    while not model_server.held:
        await asyncio.sleep(0.01)
    await cancel(model_mesh, started.conversation_id)
    async with asyncio.timeout(20):
        while model_server.held:
            await asyncio.sleep(0.01)
    model_server.release()
    await stays_as_it_is(model_mesh, model_server, started.conversation_id)


async def test_cancel_while_no_runtime_is_free(model_mesh: Mesh, model_server: ModelServer) -> None:
    await model_mesh.kill("agent_runtime")
    started = await model_mesh.start_conversation("queue up", ("reviewer",))
    response = await cancel(model_mesh, started.conversation_id)
    assert response.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    await model_mesh.restart("agent_runtime")
    await stays_as_it_is(model_mesh, model_server, started.conversation_id)
    assert not model_server.requests


async def test_cancel_while_a_failed_attempt_waits_for_the_next(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    model_server.fail_next(*[Fault(stream="drop", after_chunks=1)] * 9)
    started = await model_mesh.start_conversation("try hard", ("reviewer",))
    stub = ConversationServiceStub(model_mesh.channel())
    request = conversations.ListEventsRequest(conversation_id=started.conversation_id)
    async with asyncio.timeout(30):
        while not any(
            event.HasField("attempt_failed") for event in (await stub.ListEvents(request)).events
        ):
            await asyncio.sleep(0.02)
    await cancel(model_mesh, started.conversation_id)
    await stays_as_it_is(model_mesh, model_server, started.conversation_id)


async def test_cancel_while_a_person_is_waited_for(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    conversation_id = await start_asking(model_mesh, agent_pb2.HUMAN_INPUT_MODE_ALWAYS)
    await waits(model_mesh, conversation_id)
    await cancel(model_mesh, conversation_id)
    await stays_as_it_is(model_mesh, model_server, conversation_id)


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
