"""Requests that are made of what the catalog has: a repetition is answered as the first time,
though what it was made of has changed, or is gone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest_asyncio

from .conftest import Gateways
from .front import START, Front, reason


class Repeated:
    """A gateway, and calls under ids of their own."""

    def __init__(self, front: Front) -> None:
        self.http = front.http

    async def post(self, path: str, request_id: str, body: dict[str, Any]) -> httpx.Response:
        return await self.http.post(path, json=body, headers={"idempotency-key": request_id})

    async def agent(self, name: str) -> None:
        response = await self.http.post("/agents/register", json=named(name))
        assert response.status_code == 200, response.text

    async def remove(self, name: str) -> None:
        assert (await self.http.delete(f"/agents/{name}")).status_code == 200


@pytest_asyncio.fixture
async def repeated(front: Front) -> Repeated:
    return Repeated(front)


def workflow(name: str, agent: str, **schema: Any) -> dict[str, Any]:
    properties = {"question": {"type": "string"}}
    stage = {"id": "answer", "team": {"agent_id": agent}, "task": "Answer {{question}}"}
    return {
        "workflow": {
            "id": name,
            "parameters": {"type": "object", "properties": properties} | schema,
            "stages": [stage],
        }
    }


def named(agent: str) -> dict[str, Any]:
    return {"name": agent, "config": {"role": "r", "system_message": "m"}}


async def test_a_conversation_is_started_once_though_its_agent_is_gone(repeated: Repeated) -> None:
    await repeated.agent("passing")
    body = {"task": "t", "agents": ["passing"]}
    first = await repeated.post(START, "start-gone", body)
    await repeated.remove("passing")
    again = await repeated.post(START, "start-gone", body)
    assert (again.status_code, again.json()) == (200, first.json())
    other = await repeated.post(START, "start-gone", body | {"task": "u"})
    assert reason(other) == "REQUEST_ID_REUSED"
    new = await repeated.post(START, "start-new", body)
    assert reason(new) == "INVALID_FIELD"


async def test_a_workflow_is_executed_once_though_it_is_another_by_now(repeated: Repeated) -> None:
    await repeated.agent("answerer")
    definition = workflow("questions", "answerer")
    registered = await repeated.post("/workflows/register", "register-questions", definition)
    assert registered.status_code == 200, registered.text
    body = {"workflow_id": "questions", "parameters": {"question": "why?"}}
    first = await repeated.post("/workflows/execute", "execute-questions", body)
    changed = workflow("questions", "developer", required=["more"])
    assert (await repeated.post("/workflows/register", "change", changed)).status_code == 200
    again = await repeated.post("/workflows/execute", "execute-questions", body)
    assert (again.status_code, again.json()) == (200, first.json())
    assert reason(await repeated.post("/workflows/execute", "new", body)) == "INVALID_FIELD"

    await repeated.remove("answerer")
    again = await repeated.post("/workflows/register", "register-questions", definition)
    assert (again.status_code, again.json()) == (200, registered.json())
    assert reason(await repeated.post("/workflows/register", "new", definition)) == (
        "INVALID_DEFINITION"
    )


async def test_an_agent_is_registered_once_though_no_runtime_is_there(
    repeated: Repeated, front: Front, gateways: Gateways
) -> None:
    body = named("registered_once")
    first = await repeated.post("/agents/register", "register-agent", body)
    alone = await gateways.start(store_address=front.store.grpc_address, key_cache_seconds=0.05)
    headers = {"idempotency-key": "register-agent"}
    again = await alone.http.post("/agents/register", json=body, headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    new = await alone.http.post("/agents/register", json=named("another"))
    assert new.status_code == 503


async def _keys(front: Front) -> list[dict[str, str]]:
    """Headers of an administrator, a user and another administrator."""
    made: list[dict[str, str]] = []
    for role in ("admin", "user", "admin"):
        headers = made[0] if made else {}
        response = await front.http.post("/admin/keys", json={"role": role}, headers=headers)
        assert response.status_code == 200, response.text
        made.append({"authorization": f"Bearer {response.json()['secret']}"})
    return made


async def test_what_was_done_to_a_conversation_is_answered_though_it_is_gone(
    own_front: Front,
) -> None:
    """And ids of imports are their callers' own, as all others are."""
    admin, user, other = await _keys(own_front)
    http = own_front.http
    body = {"task": "t", "agents": ["developer"]}
    started = (await http.post(START, json=body, headers=user)).json()
    path = f"/conversations/{started['conversation_id']}"
    exported = (await http.get(f"{path}/export", headers=user)).content
    subject = (await http.get("/admin/keys", headers=admin)).json()["keys"][0]["key_id"]
    calls = [
        (f"{path}/fork", {}),
        (f"{path}/message", {"content": "go on"}),
        (f"{path}/grants", {"subject": subject, "access": "read"}),
    ]
    named = user | {"idempotency-key": "once"}

    async def make() -> list[Any]:
        answers = [await http.post(where, json=what, headers=named) for where, what in calls]
        assert {answer.status_code for answer in answers} == {200}, answers
        return [answer.json() for answer in answers]

    first = await make()
    assert (await http.delete(path, headers=admin)).status_code == 200
    assert await make() == first
    new = await http.post(f"{path}/fork", json={}, headers=user | {"idempotency-key": "new"})
    assert reason(new) == "NOT_FOUND"

    async def bring(whose: dict[str, str]) -> str:
        headers = whose | {"idempotency-key": "once", "content-type": "application/jsonl"}
        brought = await http.post("/conversations/import", content=exported, headers=headers)
        assert brought.status_code == 200, brought.text
        return str(brought.json()["conversation_id"])

    assert await bring(admin) == (mine := await bring(admin))
    theirs = await bring(other)
    assert theirs != mine
    assert (await http.get(f"/conversations/{theirs}", headers=other)).status_code == 200
