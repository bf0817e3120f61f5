"""Workflows with parameters: executed, followed and registered, over both edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import pytest
from agentmesh.gateway.v1 import workflow_service_pb2 as pb2
from agentmesh.gateway.v1.workflow_service_pb2_grpc import WorkflowServiceStub
from agentmesh_gateway.workflows.parameters import (
    filled_bytes,
    filled_in,
    schema_faults,
    value_faults,
    with_defaults,
)
from agentmesh_gateway.workflows.progress import Progress, progress_of, reached
from meshkit.testkit import raises_rich

from .front import Front, violations

EXECUTE = "/workflows/execute"
BEGUN = datetime(2026, 1, 15, tzinfo=UTC)


async def execute(front: Front, **body: Any) -> httpx.Response:
    return await front.http.post(EXECUTE, json={"workflow_id": "building"} | body)


async def test_an_execution_is_a_conversation_with_the_task_filled_in(front: Front) -> None:
    response = await execute(front, parameters={"task": "Sort {{language}}", "areas": ["speed"]})
    assert response.status_code == 200, response.text
    execution = response.json()
    assert execution["workflow_id"] == "building"
    assert execution["status"] == "running"
    assert execution["started_at"].endswith("Z")
    found = (await front.http.get(f"/conversations/{execution['conversation_id']}")).json()
    assert found["task"] == "Sort {{language}} in Python: speed"
    assert found["workflow"] == "building"
    assert found["agents"] == ["project_manager", "developer", "reviewer"]
    assert found["run"]["max_rounds"] == 12


async def test_the_status_says_stage_by_stage_where_it_stands(front: Front) -> None:
    execution = (await execute(front, parameters={"task": "t"})).json()["execution_id"]
    path = f"/workflows/{execution}/status"
    status = (await front.http.get(path)).json()
    assert status["execution_id"] == status["conversation_id"] == execution
    assert (status["workflow_id"], status["status"]) == ("building", "running")
    assert status["stage"] == "delivery/stage_project_manager"
    assert "completed_at" not in status
    (whole,) = status["stages"]
    assert (whole["id"], whole["status"]) == ("delivery", "running")
    assert [stage["status"] for stage in whole["stages"]] == ["running", "pending", "pending"]

    await front.http.post(f"/conversations/{execution}/cancel", json={})
    status = (await front.http.get(path)).json()
    assert (status["status"], status["stages"][0]["status"]) == ("cancelled", "failed")
    assert status["completed_at"].endswith("Z")


async def test_conversations_with_a_team_have_a_status_and_others_none(front: Front) -> None:
    named = (await front.started())["conversation_id"]
    status = (await front.http.get(f"/workflows/{named}/status")).json()
    assert status["stage"] == "software_development/stage_project_manager"
    unnamed = (await front.started(workflow=""))["conversation_id"]
    for nowhere in (unnamed, "conv_nowhere"):
        assert (await front.http.get(f"/workflows/{nowhere}/status")).status_code == 404


async def test_a_repeated_request_starts_nothing_new(front: Front) -> None:
    body = {"parameters": {"task": "once"}, "request_id": "execute-once"}
    first, second = [(await execute(front, **body)).json() for _ in range(2)]
    assert first["execution_id"] == second["execution_id"]
    other = await execute(front, **(body | {"parameters": {"task": "twice"}}))
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "parameters.task"),
        ({"task": ""}, "parameters.task"),
        ({"task": 1}, "parameters.task"),
        ({"task": "t", "more": 1}, "parameters"),
        ({"task": "t", "areas": ["speed", "beauty"]}, "parameters.areas[1]"),
        ({"task": "x" * 1_048_577}, "parameters"),
        ({"task": "t", "areas": ["speed"] * 1001}, "parameters"),
    ],
)
async def test_bad_parameters_are_named(
    front: Front, parameters: dict[str, Any], field: str
) -> None:
    said = violations(await execute(front, parameters=parameters))
    assert list(said) == [field]
    assert all(len(description) < 300 for description in said.values())


async def test_unknown_workflows_are_told_which_ones_there_are(front: Front) -> None:
    stub: Any = WorkflowServiceStub(front.gateway.channel)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.ExecuteWorkflow(pb2.ExecuteWorkflowRequest(workflow_id="nothing"))
    unknown = await execute(front, workflow_id="nothing")
    assert unknown.status_code == 404
    assert "building" in unknown.json()["error"]["message"]
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "INVALID_DEFINITION"):
        await stub.ExecuteWorkflow(pb2.ExecuteWorkflowRequest(workflow_id="staged"))
    said = violations(
        await front.http.post("/conversations/start", json={"task": "t", "workflow": "building"})
    )
    assert "execute" in said["workflow"]


def workflow(**changes: Any) -> dict[str, Any]:
    stage = {"id": "answer", "team": {"agent_id": "developer"}, "task": "Answer {{question}}"}
    schema = {"type": "object", "properties": {"question": {"type": "string"}}}
    return {
        "id": "answering",
        "parameters": schema,
        "stages": [stage | changes.pop("stage", {})],
    } | changes


async def test_a_registered_workflow_is_listed_and_executed(front: Front) -> None:
    body = {"workflow": workflow(timeout="600s"), "request_id": "register-answering"}
    registered = [
        (await front.http.post("/workflows/register", json=body)).json() for _ in range(2)
    ]
    assert registered[0] == registered[1]
    assert registered[0]["workflow"]["version"] == 1
    again = await front.http.post("/workflows/register", json={"workflow": workflow(name="Again")})
    assert again.json()["workflow"]["version"] == 2
    listed = (await front.http.get("/workflows")).json()["workflows"]
    assert "answering" in [one["id"] for one in listed]
    executed = await execute(front, workflow_id="answering", parameters={"question": "why?"})
    conversation_id = executed.json()["conversation_id"]
    found = (await front.http.get(f"/conversations/{conversation_id}")).json()
    assert (found["task"], found["agents"]) == ("Answer why?", ["developer"])
    status = (await front.http.get(f"/workflows/{conversation_id}/status")).json()
    assert (status["stage"], status["stages"][0]["stages"]) == ("answer", [])


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"id": "no id"}, "workflow.id"),
        ({"stages": []}, "workflow.stages"),
        ({"timeout": "0s"}, "workflow.timeout"),
        ({"stage": {"team": {}}}, "workflow.stages[0].team"),
        ({"stage": {"team": {"agent": {"id": "a"}}}}, "workflow.stages[0].team"),
        ({"stage": {"task": " "}}, "workflow.stages[0].task"),
        ({"stage": {"task": "{{answer}}"}}, "workflow.stages[0].task"),
        ({"stage": {"condition": "true"}}, "workflow.stages[0].condition"),
        ({"stage": {"retries": 1}}, "workflow.stages[0].retries"),
        ({"parameters": {"type": "string"}}, "workflow.parameters.type"),
    ],
)
async def test_what_cannot_be_carried_out_is_not_registered(
    front: Front, changed: dict[str, Any], field: str
) -> None:
    response = await front.http.post("/workflows/register", json={"workflow": workflow(**changed)})
    assert field in violations(response)


async def test_a_workflow_of_a_team_that_does_not_exist_is_not_registered(front: Front) -> None:
    for team in ({"team_id": "nobody"}, {"agent_id": "nobody"}):
        body = {"workflow": workflow(stage={"team": team})}
        response = await front.http.post("/workflows/register", json=body)
        error = response.json()["error"]
        assert (error["status"], error["details"][0]["reason"]) == (
            "FAILED_PRECONDITION",
            "INVALID_DEFINITION",
        )


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (of(a={"pattern": "(a+)+$"}), "p.properties.a.pattern"),
        (of(a={"$ref": "#"}), "p.properties.a.$ref"),
        (of(a={"anyOf": []}), "p.properties.a.anyOf"),
        (of(a={"items": {"format": "uri"}}), "p.properties.a.items.format"),
        (of(a={"type": "text"}), "p.properties.a.type"),
        (of(a={"minLength": -1}), "p.properties.a.minLength"),
        (of(a={"type": "string", "default": 1}), "p.properties.a.default"),
        (of(a={"enum": list(range(101))}), "p.properties.a.enum"),
        (of(a={"examples": list(range(1001))}), "p"),
        (of(a=1), "p.properties.a"),
        (of(**{"a-b": {}}), "p.properties.a-b"),
        ({"type": "object", "properties": []}, "p.properties"),
        ({"type": "object", "required": "a"}, "p.required"),
    ],
)
def test_schemas_that_are_wrong_or_could_take_for_ever(schema: dict[str, Any], path: str) -> None:
    assert path in [fault.field for fault in schema_faults(schema, "p")]


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(20):
        schema = of(a=schema)
    assert "deeper" in next(schema_faults(schema, "p")).description


def test_a_workflow_without_a_schema_takes_no_parameters() -> None:
    assert list(schema_faults({}, "p")) == []
    assert value_faults({}, {}) == []
    assert [fault.field for fault in value_faults({}, {"a": 1})] == ["parameters.a"]


def test_values_are_written_as_people_would() -> None:
    template = "{{a}} {{ b }} {{c}} {{d}} {{e}}."
    values = {"a": "{{b}}", "b": ["x", "y"], "c": 3, "d": {"k": [1]}}
    assert filled_in(template, values) == '{{b}} x, y 3 {"k": [1]} .'


def test_a_task_is_measured_before_it_is_made() -> None:
    template = "{{a}}" * 200_000 + "ä"
    assert filled_bytes(template, {"a": "x" * 10**6}) == 200_000 * 10**6 + 2
    assert filled_bytes("{{a}} {{ b }}.", {"a": ["x", "y"]}) == len(b"x, y .")


def test_a_parameter_may_be_anything() -> None:
    schema = of(a=True)
    assert not list(schema_faults(schema, "p"))
    assert with_defaults(schema, {}) == {}


def test_rounds_go_through_the_stages_again() -> None:
    def at(minute: int) -> datetime:
        return BEGUN + timedelta(minutes=minute)

    stages = ["plan", "build", "check"]
    first = progress_of(stages, 0, BEGUN, [], "running")
    assert first == [
        Progress("plan", "running", BEGUN),
        Progress("build", "pending"),
        Progress("check", "pending"),
    ]
    assert reached(first) == "plan"
    fifth = progress_of(stages, 4, BEGUN, [at(1), at(2), at(3), at(4)], "waiting")
    assert fifth == [
        Progress("plan", "completed", at(3), at(4)),
        Progress("build", "waiting", at(4)),
        Progress("check", "completed", at(2), at(3)),
    ]
    assert reached(fifth) == "build"
    removed = progress_of(stages, 4, BEGUN, [at(3), at(4)], "completed")
    assert removed == [
        Progress("plan", "completed", at(3), at(4)),
        Progress("build", "pending"),
        Progress("check", "completed", None, at(3)),
    ]
    assert reached(removed) == "plan"
