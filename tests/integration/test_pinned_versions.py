"""What a conversation was started with is what it goes on with, whatever becomes of its agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_client import AgentMesh, InvalidArgumentError

from tests.support.conversations import follow, run_end
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply

OLD, NEW = "Be old.", "Be new."


@pytest_asyncio.fixture
async def client(model_mesh: Mesh) -> AsyncIterator[AgentMesh]:
    async with AgentMesh(model_mesh.address("gateway")) as client:
        yield client


@pytest_asyncio.fixture
async def rest(model_mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=model_mesh.rest_url, timeout=30) as client:
        yield client


def instructions(request: dict[str, Any]) -> str:
    """The system message of a request to the model."""
    return str(request["messages"][0]["content"])


async def ended(mesh: Mesh, conversation_id: str) -> None:
    end = run_end(await follow(mesh.channel(), conversation_id))
    assert end.status == conversation_pb2.RUN_STATUS_COMPLETED, end


async def pinned(rest: httpx.AsyncClient, conversation_id: str) -> dict[str, int]:
    debug = (await rest.get(f"/conversations/{conversation_id}/debug")).json()
    return {one["agent_id"]: one["version"] for one in debug["pinned_agents"]}


async def asked(server: ModelServer, count: int) -> None:
    async with asyncio.timeout(60):
        while len(server.requests) < count:
            await asyncio.sleep(0.02)


async def test_a_run_goes_on_with_what_it_pinned(
    model_mesh: Mesh, model_server: ModelServer, client: AgentMesh, rest: httpx.AsyncClient
) -> None:
    def stop_after_the_first(_: dict[str, Any], number: int) -> Reply:
        if number == 1:
            model_server.gate.clear()
        return Reply(f"reply {number}")

    model_server.reply_with(stop_after_the_first)
    team = ["pinned_one", "pinned_two"]
    for agent in team:
        await client.agents.register(agent, model="gpt-4", system_message=OLD)
    started = await client.start("talk", agents=team, max_rounds=4)
    await asked(model_server, 2)

    # Under way: the second turn waits for its model. Its runtime dies, too.
    for agent in team:
        changed = await client.agents.update(agent, system_message=NEW)
        assert changed.version == 2
    await client.agents.delete("pinned_two")
    await model_mesh.kill("agent_runtime")
    model_server.gate.set()
    await model_mesh.restart("agent_runtime")
    await ended(model_mesh, started.id)
    assert len(model_server.requests) >= 4
    assert await pinned(rest, started.id) == {"pinned_one": 1, "pinned_two": 1}

    # Its next run.
    before = len(model_server.requests)
    await client.send(started.id, "go on")
    await ended(model_mesh, started.id)
    assert len(model_server.requests) > before

    # A fork, and what is made of an export.
    fork = (await rest.post(f"/conversations/{started.id}/fork", json={})).json()
    export = (await rest.get(f"/conversations/{started.id}/export")).content
    headers = {"content-type": "application/jsonl"}
    copy = (await rest.post("/conversations/import", content=export, headers=headers)).json()
    for other in (fork["conversation"]["conversation_id"], copy["conversation_id"]):
        before = len(model_server.requests)
        await client.send(other, "go on")
        await ended(model_mesh, other)
        assert len(model_server.requests) > before
        assert await pinned(rest, other) == {"pinned_one": 1, "pinned_two": 1}

    # Not even an agent that takes the name.
    again = await client.agents.register("pinned_two", model="gpt-4", system_message=NEW)
    assert again.version == 3
    await client.send(started.id, "and on")
    await ended(model_mesh, started.id)
    assert {instructions(request) for request in model_server.requests} == {OLD}


async def test_a_new_conversation_takes_the_newest_version(
    model_mesh: Mesh, model_server: ModelServer, client: AgentMesh, rest: httpx.AsyncClient
) -> None:
    for system_message in (OLD, NEW):
        if system_message == OLD:
            await client.agents.register("renewed", model="gpt-4", system_message=OLD)
        else:
            await client.agents.update("renewed", system_message=NEW)
        conversation = await client.start("talk", agents=["renewed"])
        await ended(model_mesh, conversation.id)
        assert instructions(model_server.requests[-1]) == system_message
    assert await pinned(rest, conversation.id) == {"renewed": 2}

    await client.agents.clone("renewed", "restored", version=1)
    copied = await client.start("talk", agents=["restored"])
    await ended(model_mesh, copied.id)
    assert instructions(model_server.requests[-1]) == OLD

    await client.agents.delete("renewed")
    with pytest.raises(InvalidArgumentError) as refused:
        await client.start("talk", agents=["renewed"])
    (violation,) = refused.value.violations
    assert violation.field == "agents[0]"
    assert 'there is no agent "renewed"' in violation.description


async def test_a_tenants_own_version_plays_in_a_shipped_team(
    model_mesh: Mesh, model_server: ModelServer, client: AgentMesh, rest: httpx.AsyncClient
) -> None:
    async def first_speaker() -> str:
        seen = len(model_server.requests)
        conversation = await client.start("talk", workflow="software_development", max_rounds=1)
        await ended_somehow(conversation.id)
        assert len(model_server.requests) > seen
        return instructions(model_server.requests[seen])

    async def ended_somehow(conversation_id: str) -> None:
        run_end(await follow(model_mesh.channel(), conversation_id))

    shipped = await first_speaker()
    await client.agents.update("project_manager", system_message=NEW)
    try:
        assert await first_speaker() == NEW
    finally:
        await client.agents.delete("project_manager")
    assert await first_speaker() == shipped
