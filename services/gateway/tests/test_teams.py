"""What may be named in a conversation's start: agents, teams and workflows of a real catalog."""

from __future__ import annotations

from typing import Any

import grpc
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from meshkit.testkit import raises_rich

from .front import QUICK_START, START, Front, reason, violations


async def test_unknown_agents_are_named_with_those_that_exist(own_front: Front) -> None:
    body: dict[str, Any] = {"task": "x", "agents": ["developer", "develper"]}
    said = violations(await own_front.http.post(START, json=body))
    assert list(said) == ["agents[1]"]
    assert "project_manager" in said["agents[1]"]
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="agents[1]"):
        await own_front.conversations.StartConversation(pb2.StartConversationRequest(**body))
    listed = (await own_front.http.get("/conversations")).json()
    assert listed["conversations"] == []


async def test_an_unknown_workflow_is_named_with_those_that_exist(front: Front) -> None:
    said = violations(await front.http.post(START, json={"task": "x", "workflow": "nothing"}))
    assert "software_development" in said["workflow"]


async def test_listed_agents_must_be_members_and_restrict_the_team(front: Front) -> None:
    said = violations(
        await front.http.post(START, json=QUICK_START | {"agents": ["developer", "dreamer"]})
    )
    assert "no member" in said["agents[1]"]
    restricted = await front.started(agents=["reviewer", "project_manager"])
    assert restricted["agents"] == ["project_manager", "reviewer"]
    said = violations(
        await front.http.post(
            START, json=QUICK_START | {"workflow": "swarm", "agents": ["developer"]}
        )
    )
    assert "all its members" in said["agents"]


async def test_whoever_ends_a_team_cannot_be_left_out_of_it(front: Front) -> None:
    body = QUICK_START | {"agents": ["developer", "reviewer"]}
    said = violations(await front.http.post(START, json=body))
    assert list(said) == ["agents"]
    assert '"software_development" ends by what project_manager says' in said["agents"]


async def test_agents_without_a_workflow_take_turns_in_the_order_given(front: Front) -> None:
    started = await front.started(workflow="", agents=["reviewer", "developer"])
    assert started["agents"] == ["reviewer", "developer"]
    assert started["max_rounds"] == 50
    assert (await front.started(max_rounds=20))["max_rounds"] == 20


async def test_teams_within_teams_are_pinned_and_broken_ones_refused(front: Front) -> None:
    started = await front.started(workflow="outer", agents=[])
    assert started["agents"] == QUICK_START["agents"]
    for name, words in (("loop", "contains itself"), ("orphan", "nobody")):
        response = await front.http.post(START, json={"task": "x", "workflow": name})
        error = response.json()["error"]
        assert (response.status_code, error["status"]) == (400, "FAILED_PRECONDITION")
        assert error["details"][0]["reason"] == "INVALID_DEFINITION"
        assert words in error["message"]


async def test_an_agent_with_an_unknown_tool_registers_and_does_not_start(front: Front) -> None:
    body = {
        "name": "custom_agent",
        "config": {
            "role": "Custom specialized role",
            "system_message": "You are a specialized agent...",
            "llm_config": {"model": "gpt-4"},
            "tools": ["custom_tool"],
            "human_input_mode": "NEVER",
        },
    }
    registered = await front.http.post("/agents/register", json=body)
    assert registered.status_code == 200, registered.text
    assert registered.json()["unresolved_tools"] == ["custom_tool"]
    shown = {agent["id"]: agent for agent in (await front.http.get("/agents")).json()["agents"]}
    assert shown["custom_agent"]["unresolved_tools"] == ["custom_tool"]
    assert not shown["custom_agent"]["built_in"]
    assert shown["developer"]["built_in"]
    start = {"task": "x", "agents": ["custom_agent"]}
    response = await front.http.post(START, json=start)
    error = response.json()["error"]
    assert error["status"] == "FAILED_PRECONDITION"
    assert error["details"][0]["reason"] == "UNRESOLVED_TOOLS"
    assert error["details"][0]["metadata"] == {"tools": "custom_tool"}

    again = await front.http.post("/agents/register", json=body)
    assert again.status_code == 409
    assert reason(again) == "ALREADY_EXISTS"


async def test_what_the_runtime_finds_is_named_by_the_requests_path(front: Front) -> None:
    body = {"name": "a", "config": {"llm_config": {"model": "unknown"}}}
    said = violations(await front.http.post("/agents/register", json=body))
    assert said == {"config.llm_config.model": "is not known"}
    assert (await front.http.get("/agents/a")).status_code == 404
