"""Turns that wait for people in their middle: nothing is done twice, and what they say counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions.approval_policies import ApprovalPolicySpec, ApproverRole
from agentmesh_agent_runtime.definitions.specs import TeamKind
from agentmesh_agent_runtime.turns.failures import EndReason, LeaseLost, Suspended
from agentmesh_agent_runtime.turns.grant import Verdict
from agentmesh_agent_runtime.turns.people import PersonNeeded
from agentmesh_agent_runtime.turns.ports import Speaker, ToolOutput, ToolRequest

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    Tool,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from tests.support.model_server import ModelServer, Reply, ToolCall

Person = Callable[[MemoryRun, PersonNeeded], None]


async def echo(request: ToolRequest) -> ToolOutput:
    return ToolOutput(f"{request.tool} got {request.arguments_json}", is_error=False)


def guarded_run(*, policy: dict[str, Any] | None = None, **fields: Any) -> MemoryRun:
    """Alice may look as she likes, and needs approval to remove."""
    policies = (ApprovalPolicySpec(**(policy or {"tools": ["remove"]})),)
    alice = agent("alice", tools=("remove", "look"), approvals=policies)
    tools: dict[str, Tool] = {"remove": echo, "look": echo}
    return MemoryRun(team(alice), [asked()], tools=tools, **fields)


def remove(call_id: str = "r1", arguments: str = '{"path": "/a"}') -> ToolCall:
    return ToolCall("remove", arguments, call_id)


def look(call_id: str = "l1") -> ToolCall:
    return ToolCall("look", "{}", call_id)


def answering(verdict: Verdict, text: str = "", edited: str = "") -> Person:
    def decide(run: MemoryRun, needed: PersonNeeded) -> None:
        run.decide(needed, verdict, text, edited)

    return decide


def results_told(server: ModelServer) -> list[str]:
    """Of tools, as the last request to the model has them."""
    return [m["content"] for m in server.requests[-1]["messages"] if m["role"] == "tool"]


async def take(
    server: ModelServer, run: MemoryRun, replies: list[Reply], person: Person
) -> EndReason:
    server.reply_with([*replies, Reply("done TERMINATE")])
    return await take_all(run, driver(run, server.base_url), person=person)


async def test_an_approved_call_runs_as_asked(model_server: ModelServer) -> None:
    run = guarded_run()
    reply = Reply("I clean up.", tool_calls=(remove(),))
    ended = await take(model_server, run, [reply], answering(Verdict.APPROVED))
    assert ended is EndReason.TERMINATED
    assert run.suspensions == 1
    (needed,) = run.asked
    assert (needed.agent, needed.prompt) == ("alice", "alice wants to call remove.")
    assert needed.call is not None
    assert (needed.call.call_id, needed.call.arguments_json) == ("r1", '{"path": "/a"}')
    assert [c.arguments_json for c in run.tool_calls] == ['{"path": "/a"}']
    assert results_told(model_server) == ['remove got {"path": "/a"}']
    assert len(model_server.requests) == 2, "a model call was made twice"


async def test_an_edited_call_runs_with_other_arguments(model_server: ModelServer) -> None:
    run = guarded_run()
    person = answering(Verdict.EDITED, "not all of it", '{"path": "/a/b"}')
    await take(model_server, run, [Reply(tool_calls=(remove(),))], person)
    assert [c.arguments_json for c in run.tool_calls] == ['{"path": "/a/b"}']
    (told,) = results_told(model_server)
    assert 'changed the arguments of this call to {"path": "/a/b"}' in told
    assert "not all of it" in told
    assert told.endswith('remove got {"path": "/a/b"}')


@pytest.mark.parametrize(("asked_of", "made"), [("operator", False), ("admin", True)])
async def test_an_edit_leads_under_no_policy_of_a_higher_role(
    model_server: ModelServer, asked_of: str, made: bool
) -> None:
    policies = (
        ApprovalPolicySpec(arguments={"path": "/etc/*"}, role=ApproverRole.ADMIN),
        ApprovalPolicySpec(role=ApproverRole(asked_of)),
    )
    alice = agent("alice", tools=("remove",), approvals=policies)
    run = MemoryRun(team(alice), [asked()], tools={"remove": echo})
    person = answering(Verdict.EDITED, "", '{"path": "/etc/x"}')
    await take(model_server, run, [Reply(tool_calls=(remove(),))], person)
    assert bool(run.tool_calls) is made
    said = next((m for m in run.said if m.speaker is Speaker.TOOL), None)
    if not made:
        assert said is not None
        assert said.parts[0].rejected
        assert "only an admin" in results_told(model_server)[0]


async def test_a_rejected_call_is_not_made_and_the_model_hears_why(
    model_server: ModelServer,
) -> None:
    run = guarded_run()
    person = answering(Verdict.REJECTED, "it is in use")
    await take(model_server, run, [Reply(tool_calls=(remove(),))], person)
    assert run.tool_calls == []
    (told,) = results_told(model_server)
    assert "refused" in told
    assert "it is in use" in told
    (said,) = [m for m in run.said if m.speaker is Speaker.TOOL]
    assert (said.parts[0].rejected, said.parts[0].text) == (True, told)


async def test_what_nobody_decides_is_not_made(model_server: ModelServer) -> None:
    run = guarded_run()
    await take(model_server, run, [Reply(tool_calls=(remove(),))], answering(Verdict.EXPIRED))
    assert run.tool_calls == []
    assert "nobody decided in time" in results_told(model_server)[0]


async def test_what_the_approver_says_is_told(model_server: ModelServer) -> None:
    run = guarded_run()
    person = answering(Verdict.APPROVED, "this once")
    await take(model_server, run, [Reply(tool_calls=(remove(),))], person)
    assert "A person approved this call and says: this once" in results_told(model_server)[0]


async def test_other_calls_of_the_reply_run_before_anybody_is_asked(
    model_server: ModelServer,
) -> None:
    run = guarded_run()
    slow = asyncio.Event()

    async def slowly(request: ToolRequest) -> ToolOutput:
        slow.set()
        await asyncio.sleep(0.3)
        return await echo(request)

    run.tools["look"] = slowly
    model_server.reply_with(
        [
            Reply(tool_calls=(remove("r1"), look("l1"), remove("r2"), look("l2"))),
            Reply("done TERMINATE"),
        ]
    )
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    assert [c.tool_call_id for c in run.tool_calls] == ["l1", "l2"]
    assert all(run.steps[key].result is not None for key in ("l1", "l2"))
    assert [needed.call.call_id for needed in run.pending if needed.call] == ["r1", "r2"]
    run.decide(run.pending[1], Verdict.REJECTED)
    run.decide(run.pending[0], Verdict.APPROVED)
    assert await take_all(run, turns) is EndReason.TERMINATED
    assert [c.tool_call_id for c in run.tool_calls] == ["l1", "l2", "r1"]
    assert run.suspensions == 1
    assert len(model_server.requests) == 2


async def test_a_turn_that_goes_on_too_early_asks_nothing_twice(
    model_server: ModelServer,
) -> None:
    run = guarded_run()
    model_server.reply_with(
        [Reply(tool_calls=(remove("r1"), remove("r2"))), Reply("done TERMINATE")]
    )
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    run.decide(run.pending[0], Verdict.APPROVED)
    with pytest.raises(Suspended) as again:
        await take_turn(run, turns)
    assert again.value.needed == ()
    assert [c.tool_call_id for c in run.tool_calls] == ["r1"]
    run.decide(run.pending[0], Verdict.APPROVED)
    await take_all(run, turns)
    assert [c.tool_call_id for c in run.tool_calls] == ["r1", "r2"]
    assert len(model_server.requests) == 2


@pytest.mark.parametrize(
    "arguments", ['{"path": ', "[1]", "", '{"path": "/mine/x", "path": "/etc"}']
)
async def test_arguments_that_cannot_be_read_need_approval(
    model_server: ModelServer, arguments: str
) -> None:
    policy = {"tools": ["remove"], "unless": {"path": "/mine/*"}}
    run = guarded_run(policy=policy)
    reply = Reply(tool_calls=(remove(arguments=arguments),))
    await take(model_server, run, [reply], answering(Verdict.REJECTED))
    assert run.suspensions == 1
    assert run.tool_calls == []


async def test_a_call_that_the_policy_lets_pass_asks_nobody(model_server: ModelServer) -> None:
    run = guarded_run(policy={"tools": ["remove"], "unless": {"path": "/mine/*"}})
    reply = Reply(tool_calls=(remove(arguments='{"path": "/mine/x"}'),))
    await take(model_server, run, [reply], answering(Verdict.REJECTED))
    assert run.suspensions == 0
    assert len(run.tool_calls) == 1


async def test_what_is_said_while_it_waits_is_for_a_later_turn(model_server: ModelServer) -> None:
    run = guarded_run(max_rounds=2)
    model_server.reply_with([Reply(tool_calls=(remove(),)), Reply("cleaned"), Reply("as you wish")])
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    run.inputs.append(asked("and hurry", 7))
    run.decide(run.pending[0], Verdict.APPROVED)
    result, _ = await take_turn(run, turns)
    assert result.last_input_sequence == 1
    assert "and hurry" not in json.dumps(model_server.requests[-1])
    await take_turn(run, turns)
    assert "and hurry" in json.dumps(model_server.requests[-1])


def cleaner(body: dict[str, Any], number: int) -> Reply:
    """Looks and removes in each turn, then says what came of it."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        told = [m["content"] for m in body["messages"] if m["role"] == "tool"]
        return Reply(f"after {len(body['messages'])} messages: {told[-2:]}")
    path = json.dumps({"path": f"/{len(body['messages'])}"})
    return Reply(tool_calls=(remove("r", path), look("l")))


async def test_a_worker_that_dies_before_it_asks_is_followed_by_one_that_asks_the_same(
    model_server: ModelServer,
) -> None:
    run = guarded_run()
    model_server.reply_with([Reply(tool_calls=(remove(), look())), Reply("done TERMINATE")])
    turns = driver(run, model_server.base_url)
    grant = run.grant()
    with pytest.raises(Suspended) as unheard:
        await turns.take(turns.open(grant, run.ports(grant)), None)
    ended = await take_all(run, turns, person=answering(Verdict.APPROVED))
    assert ended is EndReason.TERMINATED
    assert tuple(run.asked) == unheard.value.needed
    assert [c.tool_call_id for c in run.tool_calls] == ["l1", "r1"]
    assert len(model_server.requests) == 2


def two_cleaners() -> MemoryRun:
    policies = (ApprovalPolicySpec(tools=("remove",)),)
    members = [
        agent(name, tools=("remove", "look"), approvals=policies) for name in ("alice", "bob")
    ]
    tools: dict[str, Tool] = {"remove": echo, "look": echo}
    return MemoryRun(team(*members), [asked()], max_rounds=3, tools=tools)


VERDICTS = [
    (Verdict.APPROVED, ""),
    (Verdict.EDITED, '{"path": "/other"}'),
    (Verdict.REJECTED, ""),
]


@pytest.mark.parametrize(("verdict", "edited"), VERDICTS)
@pytest.mark.parametrize("side", ["die_before_record", "die_after_record"])
async def test_a_run_killed_at_any_record_goes_on_as_if_nothing_had_been(
    model_server: ModelServer, verdict: Verdict, edited: str, side: str
) -> None:
    model_server.reply_with(cleaner)
    person = answering(verdict, "so it is", edited)
    calm = two_cleaners()
    await take_all(calm, driver(calm, model_server.base_url), person=person)
    undisturbed = len(model_server.requests)
    assert undisturbed == 6, "a model call was made twice because of a suspension"
    assert calm.suspensions == 3
    for record in range(1, calm.records + 1):
        before = len(model_server.requests)
        killed = two_cleaners()
        setattr(killed, side, record)
        with pytest.raises(LeaseLost):
            await take_all(killed, driver(killed, model_server.base_url), person=person)
        survivor = driver(killed, model_server.base_url, worker_id="worker-2")
        await take_all(killed, survivor, person=person)
        assert killed.texts() == calm.texts()
        assert sorted(m.message_id for m in killed.said) == sorted(m.message_id for m in calm.said)
        repeated = len(model_server.requests) - before - undisturbed
        assert repeated <= (1 if side == "die_before_record" else 0)
        assert len(killed.tool_calls) == len(calm.tool_calls)
        assert len(killed.asked) == len(calm.asked)


async def test_members_at_work_at_the_same_time_end_first(model_server: ModelServer) -> None:
    def scene(body: dict[str, Any], number: int) -> Reply:
        text = json.dumps(body["messages"])
        if "I am alice" in text and body["messages"][-1]["role"] != "tool":
            return Reply(tool_calls=(remove("ra"),))
        if "I am bob" in text and body["messages"][-1]["role"] != "tool":
            return Reply(tool_calls=(look("lb"),))
        return Reply(f"{'alice' if 'I am alice' in text else 'another'} is done")

    async def slowly(request: ToolRequest) -> ToolOutput:
        await asyncio.sleep(0.2)
        return await echo(request)

    policies = (ApprovalPolicySpec(tools=("remove",)),)
    members = [
        agent(name, tools=("remove", "look"), approvals=policies, system_message=f"I am {name}")
        for name in ("alice", "bob", "carol")
    ]
    graph = {"edges": [{"from": "alice", "to": "carol"}, {"from": "bob", "to": "carol"}]}
    run = MemoryRun(
        team(*members, kind=TeamKind.GRAPH, graph=graph),
        [asked()],
        tools={"remove": echo, "look": slowly},
    )
    model_server.reply_with(scene)
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    assert len(model_server.requests) == 3, "bob had not ended what he could do"
    run.decide(run.pending[0], Verdict.APPROVED)
    await take_turn(run, turns)
    assert len(model_server.requests) == 4
    assert [c.tool_call_id for c in run.tool_calls] == ["lb", "ra"]


async def test_policies_of_teams_come_before_those_of_members(model_server: ModelServer) -> None:
    inner = team(
        agent("bob", tools=("look",), approvals=(ApprovalPolicySpec(prompt="of bob"),)),
        id="cellar",
        approvals=(ApprovalPolicySpec(agents=("b*",), prompt="of the cellar"),),
    )
    outer = team(
        inner,
        approvals=(
            ApprovalPolicySpec(agents=("alice",), prompt="of alice"),
            ApprovalPolicySpec(agents=("cellar/*",), arguments={"x": "2"}, prompt="of the house"),
        ),
    )
    for arguments, prompt in (('{"x": 2}', "of the house"), ('{"x": 1}', "of the cellar")):
        run = MemoryRun(outer, [asked()], tools={"look": echo})
        call = ToolCall("look", arguments, "l1")
        model_server.reply_with([Reply(tool_calls=(call,)), *[Reply("done TERMINATE")] * 30])
        turns = driver(run, model_server.base_url)
        with pytest.raises(Suspended):
            await take_turn(run, turns)
        (needed,) = run.pending
        assert (needed.agent, needed.prompt) == ("cellar/bob", prompt)


async def test_a_policy_says_how_it_is_asked(model_server: ModelServer) -> None:
    policy = {
        "role": "operator",
        "expires_after": 60,
        "on_expiry": "approve",
        "escalate_after": 30,
        "escalate_to": "admin",
        "prompt": "Is it in use?",
    }
    run = guarded_run(policy=policy)
    person = answering(Verdict.APPROVED)
    await take(model_server, run, [Reply(tool_calls=(remove(),))], person)
    (needed,) = run.asked
    assert needed.prompt == "Is it in use?"
    assert (needed.expires_after, needed.approve_on_expiry) == (60, True)
    assert (needed.escalate_after, needed.escalate_to) == (30, ApproverRole.ADMIN)


async def test_arguments_too_long_to_be_shown_are_refused(model_server: ModelServer) -> None:
    run = guarded_run()
    call = remove(arguments=json.dumps({"path": "x" * 1_100_000}))
    await take(model_server, run, [Reply(tool_calls=(call,))], answering(Verdict.APPROVED))
    assert run.suspensions == 0
    assert run.tool_calls == []
    assert "too long to be shown" in results_told(model_server)[0]
