"""Conversations that ask people again and again, while whatever carries them is killed."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import grpc
from agentmesh.conversation_store.v1 import approval_store_service_pb2 as approvals_pb2
from meshkit.identity import principal_scope

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import SOMEBODY, RealMesh, StartMesh
from services.agent_runtime.tests.test_people_with_store import answer, approvals, pending
from tests.support.model_server import ModelServer, Reply, ToolCall

CONVERSATIONS = 8
TURNS = 2
QUESTIONS = 2
KILLS = 5


def curious(body: dict[str, Any], number: int) -> Reply:
    """Asks its questions in each turn, two of them at once, and then says what it heard."""
    since = body["messages"]
    said = [i for i, m in enumerate(since) if m["role"] == "assistant" and not m.get("tool_calls")]
    turn = since[said[-1] + 1 :] if said else since
    heard = sorted(m["content"] for m in turn if m["role"] == "tool")
    if len(heard) < QUESTIONS:
        text = json.dumps({"question": f"{len(said)}.{len(heard)}"})
        calls = [ToolCall("ask_human", text, f"q{n}") for n in range(QUESTIONS)]
        return Reply(tool_calls=tuple(calls))
    return Reply(f"turn {len(said)}: {heard}")


async def test_people_are_asked_once_whatever_dies(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(curious)
    mesh = await start_mesh(runtimes=2)
    member = team(agent("alice", tools=("ask_human",)))
    started = [
        await mesh.begin(member, "begin", max_rounds=TURNS, human=True)
        for _ in range(CONVERSATIONS)
    ]
    stop = asyncio.Event()
    person = asyncio.create_task(answers_at_random(mesh, stop))
    await storm(mesh)
    for conversation in started:
        ended = await mesh.settled(conversation, within=120)
        assert ended.run.rounds == TURNS, ended
    stop.set()
    asked = await person
    # Every question reached a person once, and its answer the model.
    assert len(asked) == CONVERSATIONS * TURNS * QUESTIONS
    for conversation in started:
        said = [text for who, text in await mesh.texts(conversation) if who == "alice" and text]
        spoken = [text for text in said if text.startswith("turn ")]
        assert spoken == [f"turn {n}: ['heard {n}.0', 'heard {n}.0']" for n in range(TURNS)]
    per_conversation = 2 * TURNS
    repeated = len(model_server.requests) - CONVERSATIONS * per_conversation
    assert repeated <= KILLS * CONVERSATIONS, "more than kills can explain"


async def storm(mesh: RealMesh) -> None:
    """Kills one process after another, and starts it again."""
    dice = random.Random(7)
    for _ in range(KILLS):
        await asyncio.sleep(dice.uniform(0.1, 0.8))
        victim = dice.choice([*mesh.runtimes, mesh.store])
        await victim.restart()


async def answers_at_random(mesh: RealMesh, stop: asyncio.Event) -> Counter[str]:
    """A person who is there whatever dies: what they were asked, by id."""
    dice = random.Random(8)
    asked: Counter[str] = Counter()
    while not stop.is_set():
        await asyncio.sleep(0.05)
        try:
            for one in await pending(mesh):
                if dice.random() < 0.5:
                    await answer(mesh, one, f"heard {one.prompt}")
        except grpc.aio.AioRpcError:
            continue
    request = approvals_pb2.ListApprovalsRequest(page_size=1000)
    with principal_scope(SOMEBODY):
        response = await approvals(mesh).ListApprovals(request)
    asked.update(approval.approval_id for approval in response.approvals)
    return asked
