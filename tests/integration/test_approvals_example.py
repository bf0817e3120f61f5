"""examples/approvals on a mesh of real processes, played by its script."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentmesh_client import AgentMesh, Approval

from tests.conftest import MeshFactory

EXAMPLE = Path(__file__).parents[2] / "examples" / "approvals"


async def test_the_example_does_what_its_readme_says(meshes: MeshFactory) -> None:
    environment = {
        "AGENTMESH_AGENTS_FILE": str(EXAMPLE / "agents.yaml"),
        "AGENTMESH_SCRIPT_FILE": str(EXAMPLE / "script.yaml"),
        "OPENAI_API_KEY": "",
    }
    mesh = await meshes(agent_runtime=environment)
    async with AgentMesh(mesh.address("gateway")) as client:
        started = await client.start("write a note", agents=["tidier"], human_input=True)
        question = await waiting(client, started.id)
        assert question.prompt == "What shall the note say?"
        await client.approvals.answer(question.id, "buy milk")
        call = await waiting(client, started.id)
        assert (call.prompt, call.tool) == ("Is this note meant to be kept?", "code_writer")
        assert call.raw.HasField("escalate_at")
        await client.approvals.edit(call.id, {"path": "shopping.txt", "content": "buy milk"})
        async with asyncio.timeout(60):
            while (ended := await client.get(started.id)).status != "completed":
                await asyncio.sleep(0.05)
    assert "wrote shopping.txt" in ended.summary


async def waiting(client: AgentMesh, conversation_id: str) -> Approval:
    async with asyncio.timeout(60):
        while True:
            async for approval in client.approvals.list(conversation_id=conversation_id):
                return await client.approvals.get(approval.id)
            await asyncio.sleep(0.05)
