"""Turns that wait for people, with real processes: nothing is held, any replica goes on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import AgentRuntimeServiceStub
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from agentmesh.conversation_store.v1 import approval_store_service_pb2 as approvals_pb2
from agentmesh.conversation_store.v1.approval_store_service_pb2_grpc import (
    ApprovalStoreServiceStub,
)
from meshkit.identity import principal_scope

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import SOMEBODY, RealMesh, StartMesh
from tests.support.model_server import ModelServer, Reply, ToolCall

TERMINATED = conversation_pb2.RUN_END_REASON_TERMINATED


def approvals(mesh: RealMesh) -> Any:
    return ApprovalStoreServiceStub(mesh.channel(mesh.store, "conversation_store"))


async def pending(mesh: RealMesh, conversation: str = "") -> list[approvals_pb2.Approval]:
    request = approvals_pb2.ListApprovalsRequest(
        conversation_id=conversation, status=event_pb2.APPROVAL_STATUS_PENDING
    )
    with principal_scope(SOMEBODY):
        return list((await approvals(mesh).ListApprovals(request)).approvals)


async def answer(mesh: RealMesh, asked: approvals_pb2.Approval, text: str) -> None:
    request = approvals_pb2.ResolveApprovalRequest(
        approval_id=asked.approval_id, status=event_pb2.APPROVAL_STATUS_ANSWERED, comment=text
    )
    with principal_scope(SOMEBODY):
        await approvals(mesh).ResolveApproval(request)


async def held(mesh: RealMesh) -> int:
    """Turns that the runtimes hold."""
    count = 0
    for runtime in mesh.runtimes:
        stub: Any = AgentRuntimeServiceStub(mesh.channel(runtime, "agent_runtime"))
        with principal_scope(replace(SOMEBODY, role=options_pb2.ROLE_ADMIN)):
            response = await stub.ListActiveTurns(runtime_pb2.ListActiveTurnsRequest())
        count += len(response.turns)
    return count


def curious(body: dict[str, Any], number: int) -> Reply:
    """Asks twice in one turn, and then says what it heard."""
    heard = [m["content"] for m in body["messages"] if m["role"] == "tool"]
    if len(heard) < 2:
        question = json.dumps({"question": f"question {len(heard) + 1}?"})
        return Reply(tool_calls=(ToolCall("ask_human", question, f"q{len(heard)}"),))
    return Reply(f"I heard {heard} TERMINATE")


async def test_many_that_wait_hold_nothing_and_go_on_at_any_replica(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(curious)
    mesh = await start_mesh(runtimes=2)
    member = team(agent("alice", tools=("ask_human",)))
    started = [await mesh.begin(member, "begin", human=True) for _ in range(6)]
    for number in (1, 2):
        async with asyncio.timeout(60):
            while len(await pending(mesh)) < len(started) or await held(mesh):
                await asyncio.sleep(0.05)
        for conversation in started:
            shown = await mesh.conversation(conversation)
            assert shown.run.waiting_for == conversation_pb2.WAIT_KIND_APPROVAL
            assert (shown.run.turn, shown.run.attempt) == (0, 0)
            await mesh.send(conversation, f"said meanwhile {number}")
        # One replica is gone while they wait, and another comes.
        await mesh.runtimes[0].restart()
        for asked in await pending(mesh):
            assert asked.prompt == f"question {number}?"
            await answer(mesh, asked, f"answer {number}")
    for conversation in started:
        await mesh.settled(conversation)
        said = [text for who, text in await mesh.texts(conversation) if who == "alice"]
        assert "I heard ['answer 1', 'answer 2'] TERMINATE" in said
    # Three for the turn, and one more for the turn that reads what was said meanwhile.
    turns = [r for r in model_server.requests if "said meanwhile" not in json.dumps(r)]
    assert len(turns) == 3 * len(started), "a model was asked twice"


async def test_an_answer_too_long_for_a_grant_reaches_the_model(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    def six_questions(body: dict[str, Any], number: int) -> Reply:
        if any(m["role"] == "tool" for m in body["messages"]):
            return Reply("done TERMINATE")
        question = json.dumps({"question": "how long?"})
        calls = tuple(ToolCall("ask_human", question, f"q{n}") for n in range(6))
        return Reply(tool_calls=calls)

    model_server.reply_with(six_questions)
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice", tools=("ask_human",))), human=True)
    async with asyncio.timeout(60):
        while len(asked := await pending(mesh, conversation)) < 6:
            await asyncio.sleep(0.05)
    for number, one in enumerate(asked):
        await answer(mesh, one, f"{number}" + "x" * 200_000)
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == TERMINATED, mesh.runtimes[0].log()
    told = [m["content"] for m in model_server.requests[-1]["messages"] if m["role"] == "tool"]
    assert sorted(map(len, told)) == [200_001] * 6
    assert len(model_server.requests) == 2
