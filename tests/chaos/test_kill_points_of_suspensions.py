"""A process dies on either side of what suspends a turn and of what follows it: the person is asked
once, the call is made once, and the conversation comes out as if nothing had happened."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from agentmesh_client import AgentMesh, AgentMeshError

from tests.support.conversations import (
    assert_dense,
    follow,
    messages_of,
    run_end,
    tool_results,
    transcript,
)
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.prompts import Prompt, call_tool
from tests.support.wire_tap import Side, WireTap

EFFECT = """
with open("effects.log", "a") as log:
    log.write("once\\n")
print("effects:", len(open("effects.log").readlines()))
"""
KILLS = [
    ("agent_runtime", "RecordStep", 1),
    ("agent_runtime", "SuspendTurn", 1),
    ("agent_runtime", "RecordStep", 3),
    ("agent_runtime", "CommitTurn", 1),
    ("conversation_store", "SuspendTurn", 1),
    ("tool_runner", "BeginStep", 2),
    ("tool_runner", "RecordStep", 2),
]


@pytest_asyncio.fixture
async def client(model_mesh: Mesh) -> AsyncIterator[AgentMesh]:
    async with AgentMesh(model_mesh.address("gateway")) as client:
        yield client


def guarded(body: dict[str, Any], number: int) -> Reply:
    """Runs one program with a side effect, and says what it saw."""
    prompt = Prompt(body)
    if not prompt.tool_results:
        return call_tool("code_executor", language="python", code=EFFECT)
    return Reply(f"I saw: {prompt.tool_results[-1]}. TERMINATE")


async def converse(mesh: Mesh, client: AgentMesh, agent: str) -> list[event_pb2.Event]:
    """A conversation of one turn, and a person who approves whatever waits."""
    started = await mesh.start_conversation("do it once", [agent], max_rounds=2)
    person = asyncio.create_task(approves(client, started.conversation_id))
    try:
        return await follow(mesh.channel(), started.conversation_id)
    finally:
        person.cancel()


async def approves(client: AgentMesh, conversation_id: str) -> None:
    while True:
        await asyncio.sleep(0.05)
        try:
            async for approval in client.approvals.list(conversation_id=conversation_id):
                await client.approvals.approve(approval.id)
        except AgentMeshError:
            continue


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
@pytest.mark.parametrize(("victim", "method", "nth"), KILLS)
async def test_a_kill_around_a_suspension(
    model_mesh: Mesh,
    model_server: ModelServer,
    store_tap: WireTap,
    client: AgentMesh,
    victim: str,
    method: str,
    nth: int,
    side: Side,
) -> None:
    agent = f"guarded_{uuid.uuid4().hex[:8]}"
    await client.agents.register(
        agent, model="gpt-4", tools=["code_executor"], approvals=[{"tools": ["code_executor"]}]
    )
    model_server.reply_with(guarded)
    calm = await converse(model_mesh, client, agent)
    calls = len(model_server.requests)
    assert calls == 2
    model_server.requests.clear()
    store_tap.forget()

    async def strike() -> None:
        await model_mesh.kill(victim)
        model_mesh.restart_soon(victim)

    point = store_tap.at(side, method, nth, strike)
    events = await converse(model_mesh, client, agent)
    async with asyncio.timeout(30):
        await point.done.wait()
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED, run_end(events)
    kinds = [event.WhichOneof("kind") for event in events]
    assert kinds.count("approval_requested") == kinds.count("approval_resolved") == 1
    ids = [m.message_id for m in messages_of(events)]
    assert len(ids) == len(set(ids))
    # Only a reply that was not recorded yet may have to be asked for again.
    assert len(model_server.requests) <= calls + (victim != "tool_runner")
    if victim != "tool_runner":
        assert transcript(events) == transcript(calm)
    (result,) = tool_results(events)
    assert "effects: 2" not in result.output
