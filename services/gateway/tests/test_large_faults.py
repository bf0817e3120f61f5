"""Values and schemas of workflows that are wrong in very many or very long ways: what is answered
is short, and is there soon."""

from __future__ import annotations

import time
from typing import Any

import pytest
from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition, WorkflowStage
from agentmesh_gateway.definitions.team_selection import Fault
from agentmesh_gateway.workflows.definitions import definition_faults, parameter_faults
from agentmesh_gateway.workflows.parameters import (
    MOST_FAULTS,
    schema_faults,
    template_faults,
    value_faults,
)

MIB = 1 << 20
LONG = "x" * MIB
MANY = 100_000
ENUM = ["y" * 10_000] * 100
CPU_SECONDS = 5.0
"""Far more than it takes, and far less than a product of the two lengths would."""
LONGEST = 400


def assert_short(faults: list[Fault], begun: float) -> None:
    assert time.process_time() - begun < CPU_SECONDS
    assert 0 < len(faults) <= MOST_FAULTS
    for fault in faults:
        assert len(fault.field) <= LONGEST
        assert len(fault.description) <= LONGEST


def schema_of(inner: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"p": inner}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({}, {f"p{number}": 1 for number in range(MANY)}),
        ({}, {LONG: 1}),
        (schema_of({"enum": ["a"]}), {"p": LONG}),
        (schema_of({"type": "integer"}), {"p": [LONG]}),
        (schema_of({"const": LONG}), {"p": "a"}),
        (schema_of({"items": {"enum": ENUM}}), {"p": ["z"] * 990}),
        (schema_of({"items": {"type": "integer", "enum": ENUM}}), {"p": [LONG] * 3}),
        (schema_of({"maxItems": 1}), {"p": [LONG, LONG]}),
        (schema_of({"maxLength": 3}), {"p": LONG}),
        (schema_of({}), {LONG[number:]: 1 for number in range(3)}),
        (schema_of({}), {f"{number}{LONG[:1000]}": 1 for number in range(900)}),
        (schema_of({"items": {"maxLength": 1}}), {"p": ["zz"] * MANY}),
        ({"type": "object", "required": [f"{n}{LONG[:1000]}" for n in range(900)]}, {}),
        ({"type": "object", "additionalProperties": {"maximum": 1}}, {LONG: 2, LONG[1:]: 2}),
    ],
    ids=lambda _: "case",
)
def test_what_is_said_of_values_is_short(schema: dict[str, Any], values: dict[str, Any]) -> None:
    begun = time.process_time()
    assert_short(value_faults(schema, values), begun)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", **{f"k{number}": 1 for number in range(MANY)}},
        {"type": "object", LONG: 1},
        schema_of({f"k{number}": 1 for number in range(900)}),
        {"type": "object", "properties": {LONG: {f"k{number}": 1 for number in range(900)}}},
        {"type": "object", "properties": {f"{LONG[:1000]} {number}": {} for number in range(900)}},
        schema_of({"type": LONG}),
        schema_of({"type": [LONG] * 3}),
        {"type": "object", "required": LONG},
        {"type": "object", "properties": {f"p{n}": {"minLength": "x"} for n in range(400)}},
        schema_of({"items": {"enum": ENUM}, "default": ["z"] * 800}),
        schema_of({"enum": ["a"], "default": LONG}),
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "string", "default": 1} for n in range(300)},
        },
    ],
    ids=lambda _: "schema",
)
def test_what_is_said_of_schemas_is_short(schema: dict[str, Any]) -> None:
    begun = time.process_time()
    assert_short(list(schema_faults(schema, "workflow.parameters")), begun)


def test_what_is_said_of_templates_is_short() -> None:
    known: dict[str, Any] = {
        "properties": {f"known{number}{LONG[:900]}": {} for number in range(900)}
    }
    for template in (f"{{{{{LONG}}}}}", "".join(f"{{{{p{n}}}}}" for n in range(MANY))):
        begun = time.process_time()
        assert_short(list(template_faults(template, known, "workflow.stages[0].task")), begun)


def test_a_definition_is_refused_for_a_few_of_its_faults() -> None:
    """Each stage is looked at with the same schema, which is none of a user's making."""
    stage = WorkflowStage(id="s", task="".join(f"{{{{p{n}}}}}" for n in range(10_000)))
    begun = time.process_time()
    assert_short(definition_faults(WorkflowDefinition(stages=[stage] * 100), "workflow"), begun)


def test_good_values_of_a_mebibyte_are_taken() -> None:
    workflow = WorkflowDefinition(stages=[WorkflowStage(id="s", task="{{p}}")])
    workflow.parameters.update(schema_of({"type": "string"}))
    assert parameter_faults(workflow, {"p": LONG}) == []
    assert [fault.field for fault in parameter_faults(workflow, {"p": LONG + "x"})] == [
        "parameters"
    ]
