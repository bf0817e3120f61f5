"""The example package in a whole mesh: installed, allowed, registered over REST, killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import event_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.testkit import MeshProcess, ProcessFailedError

from tests.support.conversations import follow, run_end, tool_results
from tests.support.example_package import EXAMPLE, NAME, install_example
from tests.support.mesh import Mesh

MeshFactory = Callable[..., Awaitable[Mesh]]
DRAWS = '["be brief", "give an example", "say who does it"]'


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed beside everything else."""
    return install_example(tmp_path_factory.mktemp("example"))


@pytest_asyncio.fixture
async def mesh(meshes: MeshFactory, example: Path, tmp_path: Path) -> Mesh:
    """Chance would make any two conversations different, so there is one lot only."""
    agents = (EXAMPLE / "agents.yaml").read_text()
    assert DRAWS in agents
    (tmp_path / "agents.yaml").write_text(agents.replace(DRAWS, '["be brief", "be brief"]'))
    models = (EXAMPLE / "models.yaml").read_text()
    slow = models.replace('{greeting: "I heard:"}', '{greeting: "I heard:", word_seconds: 0.02}')
    assert slow != models
    (tmp_path / "models.yaml").write_text(slow)
    return await meshes(
        agent_runtime={
            "PYTHONPATH": str(example),
            "AGENTMESH_COMPONENT_PACKAGES": NAME,
            "AGENTMESH_AGENTS_FILE": str(tmp_path / "agents.yaml"),
            "AGENTMESH_MODELS_FILE": str(tmp_path / "models.yaml"),
        }
    )


def said(events: list[event_pb2.Event]) -> list[tuple[int, str, str]]:
    """Who said what in which turn."""
    return [(e.turn, e.agent, e.message.content) for e in events if e.HasField("message")]


async def test_a_runtime_that_is_killed_after_every_step_changes_nothing(mesh: Mesh) -> None:
    task = "Is the SLO met?"
    calm = (await mesh.start_conversation(task, workflow="meeting")).conversation_id
    events = await follow(mesh.channel(), calm)
    undisturbed, before = said(events), run_end(events)
    assert before.detail.endswith("of 60 words were said"), before
    assert {who for _, who, _ in undisturbed[1:]} == {"chair", "writer", "critic"}
    assert undisturbed[2][1:] == ("writer", "I heard: The lot: be brief")
    killed = (await mesh.start_conversation(task, workflow="meeting")).conversation_id
    for number in range(2, len(undisturbed)):
        await _until_said(mesh, killed, number)
        await mesh.kill("agent_runtime")
        await mesh.restart("agent_runtime")
    events = await follow(mesh.channel(), killed)
    assert said(events) == undisturbed
    after = run_end(events)
    assert (after.reason, after.summary, after.detail) == (
        before.reason,
        before.summary,
        before.detail,
    )


async def _until_said(mesh: Mesh, conversation_id: str, messages: int) -> None:
    stub: Any = ConversationServiceStub(mesh.channel())
    request = conversations.ListEventsRequest(conversation_id=conversation_id, page_size=500)
    async with asyncio.timeout(60):
        while len(said(list((await stub.ListEvents(request)).events))) < messages:
            await asyncio.sleep(0.01)


async def test_agents_of_a_package_are_registered_checked_and_run(mesh: Mesh) -> None:
    async with httpx.AsyncClient(base_url=mesh.rest_url, timeout=30) as http:
        config: dict[str, Any] = {
            "role": "Explains",
            "component": "custom_agent",
            "component_config": {"glossary": {"SLA": 7}, "glosary": {}},
            "llm_config": {"profile": "parrot"},
        }
        refused = await http.post("/agents/register", json={"name": "mine", "config": config})
        assert refused.status_code == 400, refused.text
        assert "config.component_config.glossary.SLA" in refused.text
        assert "config.component_config.glosary" in refused.text
        unknown = config | {"component": "nowhere"}
        refused = await http.post("/agents/register", json={"name": "mine", "config": unknown})
        assert refused.status_code == 400, refused.text
        assert "config.component" in refused.text
        assert "AGENTMESH_COMPONENT_PACKAGES" in refused.text
        fitting = config | {"component_config": {"glossary": {"SLA": "what we pay for"}}}
        accepted = await http.post("/agents/register", json={"name": "mine", "config": fitting})
        assert accepted.status_code == 200, accepted.text
        assert accepted.json()["agent"]["component"] == "custom_agent"
    started = await mesh.start_conversation("Is the SLA met?", ["mine"])
    messages = said(await follow(mesh.channel(), started.conversation_id))
    assert messages[-1][2] == "I heard: Is the SLA met? In this house: SLA: what we pay for"


async def test_a_call_by_code_waits_for_its_approval_and_is_made_once(mesh: Mesh) -> None:
    async with httpx.AsyncClient(base_url=mesh.rest_url, timeout=30) as http:
        config = {
            "component": "take_minutes",
            "tools": ["code_writer"],
            "approvals": [{"tools": ["code_writer"]}],
        }
        registered = await http.post("/agents/register", json={"name": "ours", "config": config})
        assert registered.status_code == 200, registered.text
        started = await mesh.start_conversation("We met.", ["ours"])
        conversation_id = started.conversation_id
        params = {"conversation_id": conversation_id, "status": "pending"}
        async with asyncio.timeout(60):
            while not (waiting := (await http.get("/approvals", params=params)).json())[
                "approvals"
            ]:
                await asyncio.sleep(0.05)
        (approval,) = waiting["approvals"]
        assert "We met." in approval["tool_call"]["arguments_json"]
        await mesh.kill("agent_runtime")
        await mesh.restart("agent_runtime")
        decision = {"decision": "approved"}
        resolved = await http.post(f"/approvals/{approval['approval_id']}/resolve", json=decision)
        assert resolved.status_code == 200, resolved.text
    events = await follow(mesh.channel(), conversation_id)
    (result,) = tool_results(events)
    assert result.tool_call_id == approval["tool_call"]["tool_call_id"]
    assert run_end(events).summary == result.output


async def test_a_candidate_function_chooses_in_a_whole_mesh(mesh: Mesh) -> None:
    started = await mesh.start_conversation("go on", workflow="pair")
    messages = said(await follow(mesh.channel(), started.conversation_id))
    assert [who for _, who, _ in messages[1:]] == ["writer", "critic"] * 2


async def test_a_package_that_is_not_allowed_keeps_the_runtime_from_starting(
    example: Path, tmp_path: Path
) -> None:
    environment = {
        "PYTHONPATH": str(example),
        "AGENTMESH_AGENTS_FILE": str(EXAMPLE / "agents.yaml"),
    }
    command = [sys.executable, "-m", "agentmesh_agent_runtime"]
    runtime = MeshProcess(command, tmp_path / "agent_runtime", environment)
    with pytest.raises(ProcessFailedError, match=r"agents\.yaml:\d+: writer\.component") as failed:
        await runtime.start()
    assert "AGENTMESH_COMPONENT_PACKAGES" in str(failed.value)
    assert "Traceback" not in str(failed.value)
