"""Workflows between the runtime's specs and the contracts."""

from __future__ import annotations

from agentmesh.catalog.v1.team_pb2 import Participant
from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition, WorkflowStage

from agentmesh_agent_runtime.definitions.workflow_specs import WorkflowSpec


def workflow_to_proto(workflow: WorkflowSpec) -> WorkflowDefinition:
    """A workflow as the catalog keeps it; its teams are named."""
    definition = WorkflowDefinition(
        id=workflow.id,
        name=workflow.name,
        description=workflow.description,
        stages=[
            WorkflowStage(id=stage.id, team=Participant(team_id=stage.team), task=stage.task)
            for stage in workflow.stages
        ],
    )
    definition.parameters.update(workflow.parameters)
    return definition
