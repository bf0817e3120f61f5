"""Agents: register, read, change, copy, delete, over REST, on a real store."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from agentmesh.gateway.v1 import agent_service_pb2 as pb2
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from google.protobuf.field_mask_pb2 import FieldMask
from meshkit.testkit import HostFactory, raises_rich

from .front import START, Front, reason, violations
from .tenants import caller

CONFIG: dict[str, Any] = {
    "role": "Writes poems",
    "system_message": "You write.",
    "llm_config": {"model": "scripted", "temperature": 0.5, "extra": {"seed": 7}},
    "tools": ["code_executor", "crystal_ball"],
    "tool_config": {"code_executor": {"timeout": 30.0}},
    "human_input_mode": "terminate",
    "handoffs": ["developer"],
    "context": {"head_and_tail": {"head": 1, "tail": 9}},
    "max_tool_iterations": 4,
    "component_config": {"a": 1},
    "output_schema": {"type": "object", "required": ["verse"]},
    "approvals": [
        {
            "tools": ["code_executor"],
            "agents": [],
            "arguments": {"code": "*import*"},
            "prompt": "Shall it run?",
            "unless": {"language": "python"},
            "role": "operator",
            "expires_after": "3600s",
            "on_expiry": "reject",
            "escalate_after": "60s",
            "escalate_to": "admin",
        }
    ],
}


async def registered(front: Front, name: str, /, **config: Any) -> dict[str, Any]:
    body = {"name": name, "config": CONFIG | config}
    return _agent(await front.http.post("/agents/register", json=body))


async def patched(
    front: Front,
    name: str,
    mask: str = "",
    /,
    *,
    request: dict[str, Any] | None = None,
    **config: Any,
) -> httpx.Response:
    body = {"config": config, **(request or {})}
    if mask:
        body["update_mask"] = mask
    return await front.http.patch(f"/agents/{name}", json=body)


def _agent(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    agent: dict[str, Any] = response.json()["agent"]
    return agent


async def described(front: Front, name: str, version: int = 0) -> dict[str, Any]:
    return _agent(await front.http.get(f"/agents/{name}", params={"version": version}))


async def test_an_agent_is_described_with_all_that_was_configured(front: Front) -> None:
    made = await registered(front, "whole")
    agent = await described(front, "whole")
    assert agent == made
    assert {name: agent[name] for name in CONFIG} == CONFIG | {
        "tool_config": {"code_executor": {"timeout": 30, **_unset(agent)}},
        "llm_config": {**agent["llm_config"], **CONFIG["llm_config"]},
    }
    assert agent["context"]["head_and_tail"] == {"head": 1, "tail": 9}
    assert (agent["id"], agent["name"], agent["version"]) == ("whole", "whole", 1)
    assert (agent["built_in"], agent["unresolved_tools"]) == (False, ["crystal_ball"])
    assert agent["etag"]
    assert agent["created_at"].endswith("Z")


def _unset(agent: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = agent["tool_config"]["code_executor"]
    return {name: value for name, value in shown.items() if name != "timeout"}


async def test_agents_with_very_many_tools_are_listed(own_front: Front) -> None:
    front = own_front
    wanted = [[f"tool_{agent}_{number}" for number in range(128)] for agent in range(9)]
    for position, tools in enumerate(wanted):
        await registered(front, f"collector_{position}", tools=[*tools[1:], "code_executor"])
    listed = (await front.http.get("/agents", params={"built_in": "false"})).json()["agents"]
    assert [agent["unresolved_tools"] for agent in listed] == [tools[1:] for tools in wanted]


async def test_a_patch_changes_what_it_names_and_writes_a_version(front: Front) -> None:
    before = await registered(front, "painter")
    answer = await patched(front, "painter", role="Paints", llm_config={"temperature": 0})
    after = _agent(answer)
    assert after["version"] == 2
    assert after["etag"] != before["etag"]
    assert after["role"] == "Paints"
    assert after["llm_config"] == before["llm_config"] | {"temperature": 0}
    same = before.keys() - {"role", "llm_config", "version", "etag", "created_at"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert await described(front, "painter") == after
    assert await described(front, "painter", 1) == before

    mask = "tool_config.code_executor.timeout,handoffs,context,max_tool_iterations,name"
    emptied = _agent(await patched(front, "painter", mask, role="not named", name="Painter"))
    assert (emptied["name"], emptied["role"], emptied["handoffs"]) == ("Painter", "Paints", [])
    assert "timeout" not in emptied["tool_config"]["code_executor"]
    assert emptied.get("context") in (None, {})
    assert emptied.get("max_tool_iterations") is None
    whole = _agent(await patched(front, "painter", "*", role="Anew"))
    assert (whole["name"], whole["role"], whole["tools"]) == ("painter", "Anew", [])
    assert whole["version"] == 4


@pytest.mark.parametrize(
    ("mask", "config", "field"),
    [
        ("role,colour", {"role": "x"}, "update_mask"),
        ("llm_config.extra.seed", {}, "update_mask"),
        ("role;name", {}, "update_mask"),
        ("", {}, "config"),
        ("", {"role": ""}, "config"),
        ("", {"llm_config": {"temperature": 3}}, "config.llm_config.temperature"),
        ("", {"llm_config": {"model": "unknown"}}, "config.llm_config.model"),
        ("", {"colour": "red"}, "config.colour"),
        # Allowed as a value that stays out of the mask, not as what is made of it.
        ("context.summarizing.keep", {}, "config.context.summarizing.max_tokens"),
        ("tools", {"tools": ["a", "a"]}, "config.tools"),
    ],
)
async def test_a_bad_patch_names_the_field_and_writes_nothing(
    front: Front, mask: str, config: dict[str, Any], field: str
) -> None:
    await front.http.post("/agents/register", json={"name": "stays", "config": CONFIG})
    before = await described(front, "stays")
    if field.endswith("summarizing.max_tokens"):
        config = {"context": {"summarizing": {"max_tokens": 9, "keep": 3}}}
    assert field in violations(await patched(front, "stays", mask, **config))
    assert await described(front, "stays") == before


async def test_an_old_etag_is_refused(front: Front) -> None:
    first = await registered(front, "guarded")
    second = _agent(
        await patched(front, "guarded", request={"etag": first["etag"]}, role="by somebody")
    )
    answers = [
        await patched(front, "guarded", request={"etag": first["etag"]}, role="by another"),
        await front.http.delete("/agents/guarded", params={"etag": first["etag"]}),
    ]
    for answer in answers:
        assert reason(answer, 409) == "ETAG_MISMATCH"
        metadata = answer.json()["error"]["details"][0]["metadata"]
        assert metadata == {"current_etag": second["etag"]}
    assert (await described(front, "guarded"))["role"] == "by somebody"
    gone = await front.http.delete("/agents/guarded", params={"etag": second["etag"]})
    assert gone.status_code == 200


async def test_changes_of_different_fields_at_once_all_stay(front: Front) -> None:
    await registered(front, "busy")
    patches: list[dict[str, Any]] = [
        {"role": "r"},
        {"system_message": "s"},
        {"llm_config": {"temperature": 1}},
        {"llm_config": {"max_tokens": 9}},
        {"tool_config": {"code_executor": {"retries": 2}}},
    ]
    for answer in await asyncio.gather(*(patched(front, "busy", **one) for one in patches)):
        assert answer.status_code == 200, answer.text
    agent = await described(front, "busy")
    assert (agent["role"], agent["system_message"], agent["version"]) == ("r", "s", 6)
    assert (agent["llm_config"]["temperature"], agent["llm_config"]["max_tokens"]) == (1, 9)
    assert agent["tool_config"]["code_executor"]["retries"] == 2
    assert agent["tool_config"]["code_executor"]["timeout"] == 30


async def test_a_repeated_change_is_answered_as_the_first_time(front: Front) -> None:
    await registered(front, "once")
    request = {"request_id": "change-once"}
    first = _agent(await patched(front, "once", request=request, role="changed"))
    await patched(front, "once", role="by another", system_message="by another")
    again = _agent(await patched(front, "once", request=request, role="changed"))
    assert again == first
    assert (await described(front, "once"))["version"] == 3
    other = await patched(front, "once", request=request, role="else")
    assert reason(other, 409) == "REQUEST_ID_REUSED"

    copy = {"name": "twice", "request_id": "copy-once"}
    copied = _agent(await front.http.post("/agents/once/clone", json=copy))
    delete = {"request_id": "delete-once"}
    for _ in range(2):
        assert (await front.http.delete("/agents/once", params=delete)).status_code == 200
    assert _agent(await front.http.post("/agents/once/clone", json=copy)) == copied
    assert _agent(await patched(front, "once", request=request, role="changed")) == first
    assert (await registered(front, "once"))["version"] == 4
    assert (await front.http.delete("/agents/once", params=delete)).status_code == 200
    assert (await described(front, "once"))["version"] == 4, "it was deleted once"
    other = await front.http.post("/agents/once/clone", json=copy | {"config": {"role": "else"}})
    assert reason(other, 409) == "REQUEST_ID_REUSED"


async def test_an_agent_is_copied_as_it_is_or_was(front: Front) -> None:
    source = await registered(front, "source", role="first")
    await patched(front, "source", role="second", name="The source")
    copies = [
        {"name": "copy_a"},
        {"name": "copy_b", "version": 1},
        {
            "name": "copy_c",
            "config": {"llm_config": {"temperature": 2}, "tools": ["code_executor"]},
        },
        {"name": "copy_d", "config": {"role": "mine"}, "update_mask": "role,name,tools"},
    ]
    made = [_agent(await front.http.post("/agents/source/clone", json=copy)) for copy in copies]
    assert [agent["id"] for agent in made] == ["copy_a", "copy_b", "copy_c", "copy_d"]
    assert [agent["version"] for agent in made] == [1, 1, 1, 1]
    assert [agent["role"] for agent in made] == ["second", "first", "second", "mine"]
    assert [agent["name"] for agent in made] == ["The source", "copy_b", "The source", "copy_d"]
    assert made[2]["llm_config"] == source["llm_config"] | {"temperature": 2}
    assert [agent["unresolved_tools"] for agent in made][2:] == [[], []]
    for name in (
        "handoffs",
        "context",
        "tool_config",
        "max_tool_iterations",
        "component_config",
        "output_schema",
        "approvals",
    ):
        assert made[0][name] == source[name]
    assert (await described(front, "source"))["version"] == 2

    for taken in ("copy_a", "developer", "source"):
        answer = await front.http.post("/agents/source/clone", json={"name": taken})
        assert reason(answer, 409) == "ALREADY_EXISTS"
    for missing, version in (("nobody", {}), ("source", {"version": 3})):
        answer = await front.http.post(f"/agents/{missing}/clone", json={"name": "x", **version})
        assert reason(answer, 404) == "NOT_FOUND"
    for body, field in (
        ({"name": "no name"}, "name"),
        ({"name": "x", "config": {"llm_config": {"model": "unknown"}}}, "config.llm_config.model"),
        ({"name": "x", "update_mask": "colour"}, "update_mask"),
    ):
        assert field in violations(await front.http.post("/agents/source/clone", json=body))
    assert reason(await front.http.get("/agents/x"), 404) == "NOT_FOUND"


async def test_a_change_of_a_shipped_agent_is_the_tenants_own(own_front: Front) -> None:
    front = own_front
    shipped = await described(front, "developer")
    assert (shipped["built_in"], shipped["version"]) == (True, 1)
    gone = await front.http.delete("/agents/developer")
    assert reason(gone, 400) == "BUILT_IN"
    assert "shipped" in gone.json()["error"]["message"]

    stale = await patched(front, "developer", request={"etag": "1-other"}, role="x")
    assert reason(stale, 409) == "ETAG_MISMATCH"
    own = _agent(
        await patched(front, "developer", request={"etag": shipped["etag"]}, role="our developer")
    )
    assert (own["built_in"], own["version"], own["role"]) == (False, 2, "our developer")
    assert (own["name"], own["tools"]) == (shipped["name"], shipped["tools"])
    assert await _ids(front, built_in=False) == ["developer"]
    assert "developer" not in await _ids(front, built_in=True)
    versions = (await front.http.get("/agents/developer/versions")).json()["agents"]
    assert versions == [own, shipped]

    assert (await front.http.delete("/agents/developer")).status_code == 200
    assert await described(front, "developer") == shipped
    assert "developer" in await _ids(front, built_in=True)
    assert reason(await front.http.get("/agents/developer?version=2"), 404) == "NOT_FOUND"
    again = _agent(await patched(front, "developer", role="once more"))
    assert (again["version"], again["role"]) == (3, "once more")


async def _ids(front: Front, **filters: Any) -> list[str]:
    params = {name: str(value).lower() for name, value in filters.items()} | {"page_size": "2"}
    ids: list[str] = []
    while True:
        page = (await front.http.get("/agents", params=params)).json()
        ids += [agent["id"] for agent in page["agents"]]
        params["page_token"] = page["next_page_token"]
        if not page["next_page_token"]:
            return ids


async def test_a_deleted_agent_is_not_there_and_its_name_is_free(front: Front) -> None:
    await registered(front, "leaver", role="first")
    await patched(front, "leaver", role="second")
    assert (await front.http.delete("/agents/leaver")).status_code == 200
    assert "leaver" not in await _ids(front)
    paths = [
        ("GET", "/agents/leaver", None),
        ("GET", "/agents/leaver?version=1", None),
        ("GET", "/agents/leaver/versions", None),
        ("PATCH", "/agents/leaver", {"config": {"role": "x"}}),
        ("POST", "/agents/leaver/clone", {"name": "x"}),
        ("DELETE", "/agents/leaver", None),
    ]
    for method, path, body in paths:
        answer = await front.http.request(method, path, json=body)
        assert reason(answer, 404) == "NOT_FOUND", (method, path)
    start = await front.http.post(START, json={"agents": ["leaver"], "task": "x"})
    assert 'there is no agent "leaver"' in violations(start)["agents[0]"]

    assert (await registered(front, "leaver", role="third"))["version"] == 3
    params: dict[str, Any] = {"page_size": 2}
    first = (await front.http.get("/agents/leaver/versions", params=params)).json()
    params["page_token"] = first["next_page_token"]
    rest = (await front.http.get("/agents/leaver/versions", params=params)).json()
    found = [(agent["version"], agent["role"]) for agent in first["agents"] + rest["agents"]]
    assert found == [(3, "third"), (2, "second"), (1, "first")]
    assert rest["next_page_token"] == ""
    wrong = await front.http.get("/agents/leaver/versions", params={"page_token": "x"})
    assert "page_token" in violations(wrong)


async def test_another_tenants_agent_is_not_found_by_any_method(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    acme = await caller(own_front, mesh_hosts, "operator")
    rival = await caller(own_front, mesh_hosts, "operator", "rival")
    viewer = await caller(own_front, mesh_hosts, "viewer")
    stub: Any = AgentServiceStub(own_front.gateway.channel)
    config = pb2.AgentConfig(role="acme's")
    register = pb2.RegisterAgentRequest(name="secret", config=config)
    await stub.RegisterAgent(register, metadata=acme.metadata)
    reads = [
        (stub.GetAgent, pb2.GetAgentRequest(agent_id="secret")),
        (stub.GetAgent, pb2.GetAgentRequest(agent_id="secret", version=1)),
        (stub.ListAgentVersions, pb2.ListAgentVersionsRequest(agent_id="secret")),
    ]
    mask = FieldMask(paths=["role"])
    writes = [
        (stub.UpdateAgent, pb2.UpdateAgentRequest(agent_id="secret", config=config)),
        (
            stub.UpdateAgent,
            pb2.UpdateAgentRequest(
                agent_id="secret", config=config, update_mask=mask, request_id="r"
            ),
        ),
        (stub.CloneAgent, pb2.CloneAgentRequest(agent_id="secret", name="copy")),
        (stub.DeleteAgent, pb2.DeleteAgentRequest(agent_id="secret")),
    ]
    for method, request in reads + writes:
        with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
            await method(request, metadata=rival.metadata)
    for method, request in writes:
        with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
            await method(request, metadata=viewer.metadata)
    for method, request in reads + writes:
        await method(request, metadata=(viewer if (method, request) in reads else acme).metadata)
