"""Workflows of the catalog: what this version can carry out, and what it is made into."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition, WorkflowStage
from google.protobuf.struct_pb2 import Struct

from agentmesh_gateway.definitions.team_selection import Fault
from agentmesh_gateway.workflows.parameters import (
    MOST_FAULTS,
    filled_bytes,
    filled_in,
    schema_faults,
    template_faults,
    value_faults,
    with_defaults,
)

LONGEST_TASK = 1 << 20
"""As much as a conversation's task may have, in bytes."""

_NOT_CARRIED_OUT = (
    "depends_on",
    "condition",
    "for_each",
    "repeat_until",
    "max_iterations",
    "retries",
    "requires_approval",
)


def definition_faults(workflow: WorkflowDefinition, path: str) -> list[Fault]:
    """The first things that keep a workflow from being carried out by this version."""
    return list(islice(_definition_faults(workflow, path), MOST_FAULTS))


def _definition_faults(workflow: WorkflowDefinition, path: str) -> Iterator[Fault]:
    schema = as_json(workflow.parameters)
    yield from schema_faults(schema, f"{path}.parameters")
    if len(workflow.stages) != 1:
        yield Fault(f"{path}.stages", "must be one: this version carries out no more")
    if workflow.HasField("timeout") and workflow.timeout.ToNanoseconds() <= 0:
        yield Fault(f"{path}.timeout", "must be more than 0s")
    for index, stage in enumerate(workflow.stages):
        yield from _stage_faults(stage, schema, f"{path}.stages[{index}]")


def _stage_faults(stage: WorkflowStage, schema: dict[str, Any], path: str) -> Iterator[Fault]:
    if stage.team.WhichOneof("kind") not in ("agent_id", "team_id"):
        yield Fault(f"{path}.team", "must name a team or an agent of the catalog")
    if not stage.task.strip():
        yield Fault(f"{path}.task", "must not be blank")
    elif len(stage.task.encode()) > LONGEST_TASK:
        yield Fault(f"{path}.task", f"must have at most {LONGEST_TASK} bytes")
    yield from template_faults(stage.task, schema, f"{path}.task")
    for field in _NOT_CARRIED_OUT:
        if getattr(stage, field):
            yield Fault(f"{path}.{field}", "is not carried out by this version")
    if stage.HasField("timeout"):
        yield Fault(f"{path}.timeout", "is that of the workflow where there is one stage")


def parameter_faults(workflow: WorkflowDefinition, values: dict[str, Any]) -> list[Fault]:
    """What is wrong with the parameters of an execution."""
    schema = as_json(workflow.parameters)
    faults = value_faults(schema, values)
    filled = with_defaults(schema, values)
    if not faults and filled_bytes(workflow.stages[0].task, filled) > LONGEST_TASK:
        faults = [Fault("parameters", f"make a task of more than {LONGEST_TASK} bytes")]
    return faults


def task_of(workflow: WorkflowDefinition, values: dict[str, Any]) -> str:
    """The task of the workflow's stage, filled in."""
    schema = as_json(workflow.parameters)
    return filled_in(workflow.stages[0].task, with_defaults(schema, values))


def as_json(struct: Struct) -> dict[str, Any]:
    """A struct as plain values; whole numbers are ints again."""
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return as_json(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = cast("float", value.number_value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return None if kind in (None, "null_value") else getattr(value, kind)
