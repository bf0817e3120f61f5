"""G7: a conversation waits for a person while services die and come back, and takes the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.conversation.v1 import conversation_pb2

from tests.support.conversations import assert_dense, follow, messages_of, run_end
from tests.support.mesh import SERVICES, Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.people import answer, start_asking, waits
from tests.support.prompts import Prompt


def talk(body: dict[str, Any], number: int) -> Reply:
    """Everybody says how much they heard, and wants to end."""
    return Reply(f"heard {len(Prompt(body).messages)}. TERMINATE")


async def restarted(mesh: Mesh, which: str) -> None:
    """One service, or all of them, is killed and started again."""
    if which == "all":
        await mesh.restart_all()
    else:
        await mesh.restart(which)


@pytest.mark.parametrize("mode", ["ALWAYS", "TERMINATE"])
@pytest.mark.parametrize("which", [*SERVICES, "all"])
async def test_an_answer_after_a_restart(
    model_mesh: Mesh, model_server: ModelServer, which: str, mode: str
) -> None:
    model_server.reply_with(talk)
    conversation_id = await start_asking(
        model_mesh, agent_pb2.HumanInputMode.Value(f"HUMAN_INPUT_MODE_{mode}")
    )
    await waits(model_mesh, conversation_id)
    await restarted(model_mesh, which)
    await waits(model_mesh, conversation_id)
    assert len(model_server.requests) == 1

    await answer(model_mesh, conversation_id, "go on")
    async with asyncio.timeout(60):
        while len(model_server.requests) < 2:
            await asyncio.sleep(0.02)
    await waits(model_mesh, conversation_id)
    await restarted(model_mesh, which)
    await answer(model_mesh, conversation_id, "exit")
    events = await follow(model_mesh.channel(), conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
    said = [message.content for message in messages_of(events)]
    assert said == ["begin", "heard 2. TERMINATE", "go on", "heard 4. TERMINATE", "exit"]
    assert len(model_server.requests) == 2
