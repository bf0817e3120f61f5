"""Workflows as the runtime ships them: their parameters, and the team of each stage."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agentmesh_agent_runtime.definitions.specs import Configuration, Identifier, Spec
from agentmesh_agent_runtime.definitions.yaml_source import load_documents


class WorkflowStageSpec(Spec):
    """A stage: the team that carries it out, and its task, a template over the parameters."""

    id: Identifier
    team: Identifier
    task: str = Field(min_length=1)


class WorkflowSpec(Spec):
    """A workflow. `parameters` is the JSON Schema of what its caller gives."""

    id: Identifier
    name: str = ""
    description: str = ""
    parameters: Configuration = Field(default_factory=dict)
    stages: tuple[WorkflowStageSpec, ...] = Field(min_length=1)


def load_workflows(source: Path) -> list[WorkflowSpec]:
    """Reads a file whose top-level keys are ids of workflows. Raises DefinitionError."""
    return load_documents(source, "workflow", WorkflowSpec)
