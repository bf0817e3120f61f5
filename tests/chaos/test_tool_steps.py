"""G4, G6: a tool call is one step, whoever dies or hangs while its program runs."""

from __future__ import annotations

import asyncio
import signal
import uuid
from typing import Any

from agentmesh.conversation.v1 import conversation_pb2, message_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import assert_dense, follow, run_end, tool_results
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.prompts import Prompt, call_tool

# Shows itself under a name of its own, leaves a trace, and goes on for some seconds.
PROGRAM = """
import os, time
with open("effects.log", "a") as log:
    log.write("once\\n")
if os.fork() == 0:
    os.setsid()
    os.execv("/bin/sh", ["MARKER", "-c", "trap '' TERM; for i in $(seq SECONDS); do sleep 1; done"])
os.wait()
print("effects:", len(open("effects.log").readlines()))
"""


def program(marker: str, seconds: int) -> str:
    return PROGRAM.replace("MARKER", marker).replace("SECONDS", str(seconds))


async def until_running(mesh: Mesh, marker: str) -> None:
    async with asyncio.timeout(60):
        while not mesh.sandboxed_programs(marker):
            await asyncio.sleep(0.02)


async def until_gone(mesh: Mesh, marker: str, patience: float = 30) -> None:
    async with asyncio.timeout(patience):
        while mesh.sandboxed_programs(marker):
            await asyncio.sleep(0.02)


def once(code: str) -> Any:
    """The developer runs the program once and says what it was told."""

    def reply(body: dict[str, Any], number: int) -> Reply:
        results = Prompt(body).tool_results
        if not results:
            return call_tool("code_executor", language="python", code=code)
        return Reply(f"I was told: {results[-1]}")

    return reply


async def test_a_cancel_ends_the_program_of_a_runtime_that_hangs(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    """The store tells tool_runner itself: nobody has to pass it on."""
    marker = f"hanging-{uuid.uuid4().hex}"
    model_server.reply_with(once(program(marker, 300)))
    started = await model_mesh.start_conversation("run for ever", ("developer",))
    await until_running(model_mesh, marker)
    runtime = model_mesh.processes["agent_runtime"]
    runtime.send_signal(signal.SIGSTOP)
    try:
        request = conversations.CancelConversationRequest(conversation_id=started.conversation_id)
        await ConversationServiceStub(model_mesh.channel()).CancelConversation(request)
        # Less than it takes until tool_runner asks the store by itself.
        await until_gone(model_mesh, marker, 15)
    finally:
        runtime.send_signal(signal.SIGCONT)
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_CANCELLED
    assert not tool_results(events)


async def test_a_store_that_dies_under_a_call_costs_no_second_run(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    marker = f"storeless-{uuid.uuid4().hex}"
    model_server.reply_with(once(program(marker, 3)))
    started = await model_mesh.start_conversation("do it once", ("developer",), max_rounds=1)
    await until_running(model_mesh, marker)
    await model_mesh.kill("conversation_store")
    await until_gone(model_mesh, marker)
    await model_mesh.restart("conversation_store")
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
    (result,) = tool_results(events)
    assert result.outcome == message_pb2.TOOL_OUTCOME_OK
    assert "effects: 1" in result.output


async def test_the_model_is_told_of_an_outcome_that_nobody_knows(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    """The runner dies with the program under way: it is not run again, and not guessed about."""
    marker = f"runnerless-{uuid.uuid4().hex}"
    model_server.reply_with(once(program(marker, 300)))
    started = await model_mesh.start_conversation("do it once", ("developer",), max_rounds=1)
    await until_running(model_mesh, marker)
    await model_mesh.kill("tool_runner")
    await until_gone(model_mesh, marker)
    await model_mesh.restart("tool_runner")
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
    (result,) = tool_results(events)
    assert result.outcome == message_pb2.TOOL_OUTCOME_UNKNOWN
    told = Prompt(model_server.requests[-1]).tool_results
    assert "not known" in told[-1]
    assert not model_mesh.sandboxed_programs(marker)
