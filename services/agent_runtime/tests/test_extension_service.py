"""What a runtime says of components: listed, checked, and made once before they are registered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import AgentRuntimeServiceStub
from agentmesh.catalog.v1 import agent_pb2, team_pb2
from agentmesh.common.v1 import options_pb2
from agentmesh_agent_runtime.definitions.specs import AgentSpec
from google.protobuf.struct_pb2 import Struct
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import test_settings

from services.agent_runtime.tests.component_package import install
from services.agent_runtime.tests.extension_world import NAMES, SOURCE
from services.agent_runtime.tests.memory_world import team as round_robin
from services.agent_runtime.tests.real_mesh import StartMesh
from tests.support.example_package import install_example

VIEWER = Principal("viewer", "acme", options_pb2.ROLE_VIEWER, "gateway")


@pytest_asyncio.fixture
async def runtime(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """A runtime with both packages and one that nobody allowed; as a viewer sees it."""
    packages = install_example(tmp_path / "packages")
    groups = ("agents", "teams", "terminations")
    points = {f"agentmesh.{group}": {name: name for name in NAMES} for group in groups}
    install(packages, monkeypatch, SOURCE, points, name="odd")
    marked = f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
    install(packages, monkeypatch, marked, {"agentmesh.agents": {"mark": "f"}}, name="marking")
    mesh = await start_mesh(
        PYTHONPATH=str(packages), AGENTMESH_COMPONENT_PACKAGES="agentmesh-example, odd"
    )
    channels = MeshChannels("gateway", test_settings(tmp_path / "caller"))
    with principal_scope(VIEWER):
        address = mesh.runtimes[0].grpc_address
        yield AgentRuntimeServiceStub(channels.channel(address, "agent_runtime"))
        assert not (tmp_path / "imported").exists()
        assert mesh.runtimes[0].alive
    await channels.close()


def agent(component: str, **config: Any) -> agent_pb2.AgentDefinition:
    return agent_pb2.AgentDefinition(id="a", component=component, component_config=struct(config))


def struct(config: dict[str, Any]) -> Struct:
    found = Struct()
    found.update(config)
    return found


def team(component: str, *members: str, **fields: Any) -> team_pb2.TeamDefinition:
    return team_pb2.TeamDefinition(
        id="t",
        kind=team_pb2.TEAM_KIND_COMPONENT,
        component=component,
        participants=[team_pb2.Participant(agent_id=member) for member in members],
        **fields,
    )


async def test_a_runtime_says_what_packages_bring(runtime: Any) -> None:
    response = await runtime.ListComponents(runtime_pb2.ListComponentsRequest())
    example = [c for c in response.components if c.distribution == "agentmesh-example 0.1.0"]
    assert [(c.kind, c.name) for c in example] == [
        ("agent", "custom_agent"),
        ("agent", "database_agent"),
        ("agent", "draw_lots"),
        ("agent", "take_minutes"),
        ("team", "chaired"),
        ("termination", "word_budget"),
        ("model_client", "parrot"),
        ("candidate_function", "critic_after_writer"),
    ]
    schema = example[5].config_schema
    assert schema["properties"]["max_words"]["exclusiveMinimum"] == 0
    assert not any(c.problem for c in example)


async def test_definitions_are_tried_before_they_are_registered(runtime: Any) -> None:
    nested = team_pb2.TeamDefinition(
        id="outer",
        participants=[
            team_pb2.Participant(agent=agent("WrongName")),
            team_pb2.Participant(team=team("EndlessTeam", "x")),
        ],
        termination=team_pb2.Termination(
            all_of=[
                team_pb2.Termination(
                    component="word_budget", component_config=struct({"max_words": 0})
                )
            ]
        ),
    )
    request = runtime_pb2.CheckDefinitionsRequest(
        agents=[
            agent("custom_agent", glossary={"a": "b"}),
            agent("draw_lots", options=["one"]),
            agent("CannotBeMade"),
            agent("SaysWhy"),
            agent("MakesNothing"),
            agent("mark"),
            agent("NoName"),
        ]
    )
    teams = runtime_pb2.CheckDefinitionsRequest(
        teams=[
            team("chaired", "a", "b", component_config=struct({"chair": "nobody"})),
            team("chaired", "a", "b", component_config=struct({"chair": "a"})),
            nested,
        ]
    )
    response = await runtime.CheckDefinitions(request)
    response.MergeFrom(await runtime.CheckDefinitions(teams))
    found = {finding.path: finding.description for finding in response.findings}
    assert list(found) == [
        "agents[1].component_config.options",
        "agents[2].component",
        "agents[3].component",
        "agents[4].component",
        "agents[5].component",
        "agents[6].component",
        "teams[0].component",
        "teams[2].termination.all_of[0].component_config.max_words",
    ]
    assert found["agents[2].component"] == "'CannotBeMade' cannot be made: RuntimeError"
    assert "there is no region eu" in found["agents[3].component"]
    assert "'nobody' is no member" in found["teams[0].component"]
    assert "hunter2" not in str(response)
    nested.termination.all_of[0].component_config.update({"max_words": 9})
    response = await runtime.CheckDefinitions(runtime_pb2.CheckDefinitionsRequest(teams=[nested]))
    assert [finding.path for finding in response.findings] == [
        "teams[0].participants[0].agent.component",
        "teams[0].participants[1].team.component",
    ]


async def test_tools_that_code_calls_are_carried_out_once_by_real_services(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    install(packages, monkeypatch, SOURCE, {"agentmesh.agents": {"Writes": "Writes"}}, name="odd")
    mesh = await start_mesh(
        tools=True, PYTHONPATH=str(packages), AGENTMESH_COMPONENT_PACKAGES="odd"
    )
    writer = AgentSpec(id="writer", component="Writes", tools=("code_writer",))
    conversation = await mesh.begin(round_robin(writer), "begin", max_rounds=2)
    async with asyncio.timeout(60):
        while not any(call for call, _ in _calls_and_results(await mesh.events(conversation))):
            await asyncio.sleep(0.01)
    await mesh.runtimes[0].restart()
    ended = await mesh.settled(conversation)
    events = await mesh.events(conversation)
    assert ended.run.rounds == 2, mesh.runtimes[0].log()
    pairs = _calls_and_results(events)
    assert len([call for call, _ in pairs if call]) == 4
    assert [call for call, _ in pairs if call] == [result for _, result in pairs if result]
    texts = [e.message.content for e in events if e.HasField("message") and e.message.content]
    assert texts[-1].count("wrote") == 2, texts


def _calls_and_results(events: Any) -> list[tuple[str, str]]:
    """Ids of the calls and of the results that parts of messages are."""
    return [
        (part.tool_call.tool_call_id, part.tool_result.tool_call_id)
        for event in events
        for part in event.message.parts
    ]


async def test_a_team_whose_state_cannot_be_kept_is_refused(runtime: Any) -> None:
    request = runtime_pb2.CheckDefinitionsRequest(
        teams=[
            team("KeepsNothing", "a", "b"),
            team_pb2.TeamDefinition(
                id="t", participants=[team_pb2.Participant(agent=agent("BadState"))]
            ),
        ]
    )
    response = await runtime.CheckDefinitions(request)
    found = {finding.path: finding.description for finding in response.findings}
    assert "message_thread" in found["teams[0].component"]
    assert "no JSON" in found["teams[1]"]
