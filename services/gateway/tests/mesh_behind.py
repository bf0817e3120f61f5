"""What stands behind the gateway in its tests: a real store process, and definitions in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition, LlmConfig
from agentmesh.catalog.v1.team_pb2 import (
    TEAM_KIND_ROUND_ROBIN,
    TEAM_KIND_SWARM,
    Participant,
    Stage,
    TeamDefinition,
    Termination,
)
from agentmesh.catalog.v1.tool_pb2 import ToolDefinition
from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition, WorkflowStage
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceStub
from agentmesh_gateway.registration import adder
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, MeshProcess

TOOLS = ("task_planner", "code_executor", "code_analyzer")
AGENTS = {
    "project_manager": ["task_planner"],
    "developer": ["code_executor"],
    "reviewer": ["code_analyzer"],
    "dreamer": ["crystal_ball"],
}


def store_process(folder: Path, **environment: str) -> MeshProcess:
    """A conversation_store on SQLite in `folder`, not started yet."""
    return MeshProcess([sys.executable, "-m", "agentmesh_conversation_store"], folder, environment)


async def publish_definitions(hosts: HostFactory, store: MeshProcess) -> None:
    """Puts the agents, teams and tools of these tests into the catalog, as a runtime would."""
    channel = hosts.channels("agent_runtime").channel(store.grpc_address, "conversation_store")
    stub: Any = CatalogServiceStub(channel)
    await stub.PublishDocuments(catalog_pb2.PublishDocumentsRequest(documents=_documents()))


def _documents() -> list[catalog_pb2.Document]:
    documents = [
        catalog_pb2.Document(
            kind=catalog_pb2.DOCUMENT_KIND_TOOL,
            name=name,
            tool=ToolDefinition(name=name, description=f"The tool {name}."),
        )
        for name in TOOLS
    ]
    documents += [
        catalog_pb2.Document(
            kind=catalog_pb2.DOCUMENT_KIND_AGENT,
            name=name,
            agent=AgentDefinition(
                id=name, name=name.title(), tools=tools, llm_config=LlmConfig(model="scripted")
            ),
        )
        for name, tools in AGENTS.items()
    ]
    return (
        documents
        + [
            catalog_pb2.Document(kind=catalog_pb2.DOCUMENT_KIND_TEAM, name=team.id, team=team)
            for team in _teams()
        ]
        + [
            catalog_pb2.Document(
                kind=catalog_pb2.DOCUMENT_KIND_WORKFLOW, name=workflow.id, workflow=workflow
            )
            for workflow in _workflows()
        ]
    )


def _workflows() -> list[WorkflowDefinition]:
    """One that can be executed, and one that another version may have written."""
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {
            "task": {"type": "string", "minLength": 1},
            "language": {"type": "string", "default": "Python"},
            "areas": {"type": "array", "items": {"enum": ["speed", "safety"]}},
        },
        "required": ["task"],
        "additionalProperties": False,
    }
    team = Participant(team_id="software_development")
    stage = WorkflowStage(id="delivery", team=team, task="{{task}} in {{ language }}: {{areas}}")
    one = WorkflowDefinition(id="building", stages=[stage])
    one.parameters.update(parameters)
    return [one, WorkflowDefinition(id="staged", stages=[stage, stage])]


def _teams() -> list[TeamDefinition]:
    members = ["project_manager", "developer", "reviewer"]
    participants = [Participant(agent_id=name) for name in members]
    return [
        TeamDefinition(
            id="software_development",
            kind=TEAM_KIND_ROUND_ROBIN,
            participants=participants,
            max_rounds=12,
            stages=[Stage(name=f"stage_{name}", agent=name) for name in members],
            termination=Termination(
                text_mentions=["TERMINATE"], text_mention_sources=["project_manager"]
            ),
        ),
        TeamDefinition(id="swarm", kind=TEAM_KIND_SWARM, participants=participants),
        TeamDefinition(
            id="outer",
            kind=TEAM_KIND_ROUND_ROBIN,
            participants=[
                Participant(team_id="software_development"),
                Participant(agent_id="developer"),
            ],
        ),
        TeamDefinition(
            id="loop", kind=TEAM_KIND_ROUND_ROBIN, participants=[Participant(team_id="loop")]
        ),
        TeamDefinition(
            id="orphan", kind=TEAM_KIND_ROUND_ROBIN, participants=[Participant(agent_id="nobody")]
        ),
    ]


class ScriptedRuntime:
    """Checks definitions by one rule: models called "unknown" do not exist."""

    async def check_definitions(
        self, request: runtime_pb2.CheckDefinitionsRequest, context: Any
    ) -> runtime_pb2.CheckDefinitionsResponse:
        return runtime_pb2.CheckDefinitionsResponse(
            findings=[
                runtime_pb2.DefinitionFinding(
                    path=f"agents[{position}].llm_config.model", description="is not known"
                )
                for position, agent in enumerate(request.agents)
                if agent.llm_config.model == "unknown"
            ]
        )

    async def list_models(
        self, request: runtime_pb2.ListModelsRequest, context: Any
    ) -> runtime_pb2.ListModelsResponse:
        return runtime_pb2.ListModelsResponse(default_model="scripted")


async def start_runtime(hosts: HostFactory) -> ServiceHost:
    """Serves the scripted runtime."""
    service = runtime_pb2.DESCRIPTOR.services_by_name["AgentRuntimeService"]
    return await hosts.start(
        "agent_runtime", [(adder(service), ScriptedRuntime(), service.full_name)]
    )
