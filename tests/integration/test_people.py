"""People who decide on tool calls and answer questions, on a mesh all of whose processes are killed
while they think. The model server counts what is asked twice because of that."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2

from tests.support.conversations import follow, messages_of, run_end
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply, ToolCall

PATIENCE = 60
SERVICES = ("gateway", "agent_runtime", "tool_runner", "conversation_store")


@pytest_asyncio.fixture
async def rest(model_mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=model_mesh.rest_url, timeout=30) as client:
        yield client


async def asked(
    rest: httpx.AsyncClient,
    policies: Sequence[dict[str, Any]] = (),
    *,
    tools: Sequence[str] = ("code_writer", "file_manager"),
    human_input: bool = False,
) -> tuple[str, dict[str, Any]]:
    """A conversation that waits for a person; what it asks for."""
    agent = f"agent_{uuid.uuid4().hex[:8]}"
    config = {
        "llm_config": {"model": "gpt-4"},
        "system_message": "You tidy up.",
        "tools": list(tools),
        "approvals": list(policies),
    }
    registered = await rest.post("/agents/register", json={"name": agent, "config": config})
    assert registered.status_code == 200, registered.text
    body = {"agents": [agent], "task": "tidy up", "human_input": human_input, "max_rounds": 3}
    started = await rest.post("/conversations/start", json=body)
    assert started.status_code == 200, started.text
    conversation_id = started.json()["conversation_id"]
    return conversation_id, await pending(rest, conversation_id)


async def pending(rest: httpx.AsyncClient, conversation_id: str) -> dict[str, Any]:
    params = {"conversation_id": conversation_id, "status": "pending"}
    async with asyncio.timeout(PATIENCE):
        while not (found := (await rest.get("/approvals", params=params)).json()["approvals"]):
            await asyncio.sleep(0.05)
    approval: dict[str, Any] = found[0]
    return approval


async def decide(rest: httpx.AsyncClient, approval: dict[str, Any], **body: Any) -> None:
    response = await rest.post(f"/approvals/{approval['approval_id']}/resolve", json=body)
    assert response.status_code == 200, response.text


async def all_killed(mesh: Mesh) -> None:
    """Every process of the mesh dies, and comes back."""
    for name in SERVICES:
        await mesh.kill(name)
    for name in reversed(SERVICES):
        await mesh.restart(name)
    await mesh.heal()


async def ended(mesh: Mesh, conversation_id: str) -> list[event_pb2.Event]:
    events = await follow(mesh.channel(), conversation_id)
    end = run_end(events)
    assert end.status == conversation_pb2.RUN_STATUS_COMPLETED, end
    return events


def write(path: str, call_id: str) -> ToolCall:
    return ToolCall("code_writer", json.dumps({"path": path, "content": "x"}), call_id)


def replies_once(*calls: ToolCall) -> list[Reply]:
    return [Reply("I write it down.", tool_calls=calls), Reply("all done TERMINATE")]


def results(events: Sequence[event_pb2.Event]) -> list[tuple[str, int, str]]:
    """Of tools: call id, outcome, output."""
    parts = [part for message in messages_of(events) for part in message.parts]
    return [
        (part.tool_result.tool_call_id, part.tool_result.outcome, part.tool_result.output)
        for part in parts
        if part.HasField("tool_result")
    ]


def told(server: ModelServer) -> list[str]:
    """What the last request to the model says of tools."""
    return [m["content"] for m in server.requests[-1]["messages"] if m["role"] == "tool"]


WRITES = [{"tools": ["code_*"]}]


async def test_an_approved_call_is_made_after_everything_was_restarted(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient
) -> None:
    listing = ToolCall("file_manager", '{"action": "list"}', "free")
    model_server.reply_with(replies_once(write("a.txt", "guarded"), listing))
    conversation_id, approval = await asked(rest, WRITES)
    shown = (await rest.get(f"/approvals/{approval['approval_id']}")).json()
    led_to = [event["message"] for event in shown["context"]]
    assert led_to[0]["content"] == "tidy up"
    assert led_to[1]["content"] == "I write it down."
    assert approval["tool_call"]["tool"] == "code_writer"
    assert json.loads(approval["tool_call"]["arguments_json"])["path"] == "a.txt"
    # What needs nobody's approval is done already.
    assert [m["role"] for m in led_to[2:]] == ["tool"]
    await all_killed(model_mesh)
    status = (await rest.get(f"/conversations/{conversation_id}")).json()["status"]
    assert status == "waiting"
    await decide(rest, approval, decision="approved")
    events = await ended(model_mesh, conversation_id)
    made = results(events)
    assert [(call, outcome) for call, outcome, _ in made] == [
        ("free", message_pb2.TOOL_OUTCOME_OK),
        ("guarded", message_pb2.TOOL_OUTCOME_OK),
    ]
    assert "wrote a.txt" in made[1][2]
    assert len(model_server.requests) == 2, "a model was asked twice"


async def test_an_edited_call_is_made_as_edited(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient
) -> None:
    model_server.reply_with(replies_once(write("a.txt", "guarded")))
    conversation_id, approval = await asked(rest, WRITES)
    await model_mesh.kill("agent_runtime")
    edited = json.dumps({"path": "b.txt", "content": "y"})
    await decide(rest, approval, decision="edited", edited_arguments_json=edited)
    await model_mesh.restart("agent_runtime")
    events = await ended(model_mesh, conversation_id)
    ((_, outcome, output),) = results(events)
    assert outcome == message_pb2.TOOL_OUTCOME_OK
    assert "wrote b.txt" in output
    assert "A person changed the arguments" in told(model_server)[0]
    assert "wrote b.txt" in told(model_server)[0]
    assert len(model_server.requests) == 2


async def test_a_rejected_call_is_not_made(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient
) -> None:
    model_server.reply_with(replies_once(write("a.txt", "one"), write("b.txt", "two")))
    conversation_id, _ = await asked(rest, WRITES)
    params = {"conversation_id": conversation_id}
    both = (await rest.get("/approvals", params=params)).json()["approvals"]
    of_call = {approval["tool_call"]["tool_call_id"]: approval for approval in both}
    assert of_call.keys() == {"one", "two"}
    await decide(rest, of_call["one"], decision="rejected", comment="not that one")
    await all_killed(model_mesh)
    await decide(rest, of_call["two"], decision="approved")
    events = await ended(model_mesh, conversation_id)
    outcomes = {call: (outcome, output) for call, outcome, output in results(events)}
    assert outcomes["one"][0] == message_pb2.TOOL_OUTCOME_REJECTED
    assert "not that one" in outcomes["one"][1]
    assert outcomes["two"][0] == message_pb2.TOOL_OUTCOME_OK
    assert any("not that one" in text for text in told(model_server))
    assert len(model_server.requests) == 2


async def test_what_nobody_decides_goes_to_the_admins_and_runs_out(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient
) -> None:
    model_server.reply_with(replies_once(write("a.txt", "guarded")))
    timed = WRITES[0] | {
        "escalate_after": "1s",
        "escalate_to": "admin",
        "expires_after": "8s",
        "prompt": "May it write?",
    }
    conversation_id, approval = await asked(rest, [timed])
    assert (approval["prompt"], approval["role"]) == ("May it write?", "user")
    # Its time passes while nobody is there to look at the clock.
    await all_killed(model_mesh)
    events = await ended(model_mesh, conversation_id)
    kinds = [event.WhichOneof("kind") for event in events]
    assert kinds.index("approval_escalated") < kinds.index("approval_resolved")
    shown = (await rest.get(f"/approvals/{approval['approval_id']}")).json()["approval"]
    assert (shown["status"], shown["role"]) == ("expired", "admin")
    ((_, outcome, _),) = results(events)
    assert outcome == message_pb2.TOOL_OUTCOME_REJECTED
    assert "nobody decided in time" in told(model_server)[0]


async def test_a_question_is_answered_after_everything_was_restarted(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient
) -> None:
    question = ToolCall("ask_human", json.dumps({"question": "Which colour?"}), "q")
    model_server.reply_with(replies_once(question))
    conversation_id, approval = await asked(rest, tools=["ask_human"], human_input=True)
    assert approval["prompt"] == "Which colour?"
    assert "tool_call" not in approval
    await all_killed(model_mesh)
    await decide(rest, approval, decision="answered", comment="blue")
    events = await ended(model_mesh, conversation_id)
    assert results(events) == [("q", message_pb2.TOOL_OUTCOME_OK, "blue")]
    assert told(model_server) == ["blue"]
    assert len(model_server.requests) == 2


async def test_a_conversation_that_waits_can_be_cancelled(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient
) -> None:
    model_server.reply_with(replies_once(write("a.txt", "guarded")))
    conversation_id, approval = await asked(rest, WRITES)
    cancelled = await rest.post(f"/conversations/{conversation_id}/cancel", json={})
    assert cancelled.status_code == 200, cancelled.text
    events = await follow(model_mesh.channel(), conversation_id)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_CANCELLED
    late = await rest.post(
        f"/approvals/{approval['approval_id']}/resolve", json={"decision": "approved"}
    )
    assert late.json()["error"]["details"][0]["reason"] == "ALREADY_DECIDED"
    assert len(model_server.requests) == 1
    assert not results(events)


async def test_a_message_may_interrupt_what_waits(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient
) -> None:
    model_server.reply_with(
        [
            Reply("I write.", tool_calls=(write("a.txt", "guarded"),)),
            Reply("as you wish TERMINATE"),
        ]
    )
    conversation_id, approval = await asked(rest, WRITES)
    body = {"content": "leave it", "strategy": "interrupt"}
    sent = await rest.post(f"/conversations/{conversation_id}/message", json=body)
    assert sent.status_code == 200, sent.text
    events = await ended(model_mesh, conversation_id)
    shown = (await rest.get(f"/approvals/{approval['approval_id']}")).json()["approval"]
    assert shown["status"] == "cancelled"
    assert not results(events)
    said = json.dumps(model_server.requests[-1]["messages"])
    assert "leave it" in said
    assert "a.txt" not in said


async def test_bad_policies_are_refused_with_their_path(rest: httpx.AsyncClient) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"tools": ["no_such"]}, "tools[0]"),
        ({"tools": ["code_["]}, "tools[0]"),
        ({"agents": ["bob"]}, "agents[0]"),
        ({"arguments": {"a..b": "*"}}, "arguments.a..b"),
        ({"unless": {"path": ""}}, "unless.path"),
        ({"escalate_after": "60s"}, "escalate_to"),
        ({"escalate_to": "admin"}, "escalate_after"),
        ({"role": "admin", "escalate_after": "60s", "escalate_to": "admin"}, "escalate_to"),
        (
            {"expires_after": "60s", "escalate_after": "60s", "escalate_to": "admin"},
            "escalate_after",
        ),
        ({"expires_after": "0s"}, "expires_after"),
        ({"role": "viewer"}, "role"),
    ]
    for policy, path in bad:
        config = {"tools": ["code_writer"], "approvals": [{"tools": ["code_writer"]}, policy]}
        body = {"name": "badly_guarded", "config": config}
        response = await rest.post("/agents/register", json=body)
        assert response.status_code == 400, (policy, response.text)
        (problem,) = [d for d in response.json()["error"]["details"] if "field_violations" in d]
        fields = [violation["field"] for violation in problem["field_violations"]]
        assert fields == [f"config.approvals[1].{path}"], policy


@pytest.mark.parametrize("arguments", ['{"path": ', '{"path": "ok.txt", "path": "a.txt"}'])
async def test_malformed_arguments_do_not_slip_past_a_policy(
    model_mesh: Mesh, model_server: ModelServer, rest: httpx.AsyncClient, arguments: str
) -> None:
    model_server.reply_with(replies_once(ToolCall("code_writer", arguments, "guarded")))
    policy = {"tools": ["code_writer"], "unless": {"path": "ok.*"}}
    conversation_id, approval = await asked(rest, [policy])
    assert approval["tool_call"]["arguments_json"] == arguments
    await decide(rest, approval, decision="rejected")
    await ended(model_mesh, conversation_id)
