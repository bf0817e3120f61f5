"""Every kind of team, turn by turn: killed after any step and gone on with in a fresh process, it
says what it would have said undisturbed, and keeps the same state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    EdgeSpec,
    GraphSpec,
    SelectorSpec,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.turns.checkpoints import decode
from agentmesh_agent_runtime.turns.failures import EndReason, LeaseLost, ModelRefused
from agentmesh_agent_runtime.turns.ports import PartKind, ToolOutput, ToolRequest

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
    timeless,
)
from tests.support.model_server import ModelServer, Reply, ToolCall

Body = dict[str, Any]


def member(name: str, **fields: Any) -> AgentSpec:
    """An agent that the model server can tell from others."""
    return agent(name, system_message=f"You are {name}.", **fields)


def speaker_of(body: Body) -> str:
    """Who asks; empty for what chooses between agents."""
    found = re.match(r"You are (\w+)\.$", str(body["messages"][0].get("content")))
    return found[1] if found else ""


def text_of(body: Body) -> str:
    """All that was asked, as one text."""
    return "\n".join(str(m.get("content") or "") for m in body["messages"])


def context(body: Body) -> str:
    """A reply that depends on everything that was asked, so that lost context shows."""
    seen = [str(m.get("content"))[:18] for m in body["messages"]]
    return f"{speaker_of(body)} sees {len(seen)}, last {seen[-1]!r}"


def with_tool(body: Body) -> Reply:
    """Calls a tool first, then says what it sees."""
    if body["messages"][-1]["role"] == "tool" or not body.get("tools"):
        return Reply(context(body))
    return Reply(tool_calls=(ToolCall("echo", json.dumps({"n": len(body["messages"])}), "c"),))


def select(body: Body, number: int) -> Reply:
    """The selector's prompt names who spoke: the one who spoke less is next, and carol never."""
    if speaker_of(body):
        return with_tool(body)
    history = text_of(body)
    return Reply("alice" if history.count("\nalice:") <= history.count("\nbob:") else "bob")


def swarm(body: Body, number: int) -> Reply:
    """Each speaks after it was handed to, and hands over when it has spoken."""
    me = speaker_of(body)
    if body["messages"][-1]["role"] == "tool":
        return Reply(context(body))
    spoken = sum(m["role"] == "assistant" and bool(m.get("content")) for m in body["messages"])
    if text_of(body).count("sees") >= 4:
        return Reply("TERMINATE")
    other = "bob" if me == "alice" else "alice"
    if spoken % 2:
        return Reply(tool_calls=(ToolCall(f"transfer_to_{other}", "{}", "h"),))
    return Reply(context(body))


@dataclass
class Uneven:
    """Members of a graph take different time: those named in `slow` come late."""

    slow: str = ""

    def __call__(self, body: Body, number: int) -> Reply:
        text = context(body)
        if speaker_of(body) == self.slow:
            return Reply(text, chunks=tuple(text))
        return Reply(text)


def cycle(body: Body, number: int) -> Reply:
    """The reviewer asks for two revisions."""
    if speaker_of(body) != "reviewer":
        return Reply(context(body))
    return Reply("APPROVE" if text_of(body).count("writer sees") >= 3 else "REVISE please")


def orchestrate(body: Body, number: int) -> Reply:
    """A ledger that gives the word to each in turn, and is satisfied after four answers."""
    if speaker_of(body):
        return Reply(context(body))
    text = text_of(body)
    if "is_request_satisfied" not in body["messages"][-1]["content"]:
        return Reply("All is said." if "final answer" in text else "A plan, or facts.")
    answers = text.count(" sees ")
    ledger = {
        "is_request_satisfied": answers >= 4,
        "is_in_loop": False,
        "is_progress_being_made": True,
        "next_speaker": ("alice", "bob")[answers % 2],
        "instruction_or_question": f"do part {answers}",
    }
    return Reply(json.dumps({k: {"reason": "r", "answer": v} for k, v in ledger.items()}))


def nested(body: Body, number: int) -> Reply:
    """Bob ends the inner team each time."""
    if speaker_of(body) == "bob":
        return Reply(context(body) + " TERMINATE")
    return with_tool(body)


async def echo(request: ToolRequest) -> ToolOutput:
    return ToolOutput(f"{request.agent} got {request.arguments_json}", is_error=False)


def edge(source: str, target: str, **fields: Any) -> EdgeSpec:
    """An edge of a graph."""
    return EdgeSpec(**{"from": source, "to": target, **fields})


def graph(*edges: EdgeSpec, members: str, **fields: Any) -> TeamSpec:
    """A graph over members, one letter or word each."""
    names = members.split()
    return team(
        *(member(name) for name in names),
        kind=TeamKind.GRAPH,
        graph=GraphSpec(edges=edges, **fields),
    )


TOOLS = {"tools": ("echo",)}
DIAMOND = graph(edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("c", "d"), members="a b c d")
CYCLE = graph(
    edge("writer", "reviewer"),
    edge("reviewer", "writer", condition="REVISE", activation_group="again"),
    edge("reviewer", "printer", condition="APPROVE"),
    members="writer reviewer printer",
    entry_points=("writer",),
)
INNER = team(member("alice", **TOOLS), member("bob"), id="inner", max_rounds=6)

KINDS: dict[str, tuple[TeamSpec, Callable[[Body, int], Reply]]] = {
    "selector": (
        team(member("alice", **TOOLS), member("bob", **TOOLS), member("carol"), kind="selector"),
        select,
    ),
    "swarm": (
        team(member("alice", handoffs=("bob",)), member("bob", handoffs=("alice",)), kind="swarm"),
        swarm,
    ),
    "fan-out and join": (DIAMOND, Uneven("b")),
    "two beginnings": (graph(edge("x", "z"), edge("y", "z"), members="y x z"), Uneven("y")),
    "cycle": (CYCLE, cycle),
    "magentic one": (team(member("alice"), member("bob"), kind="magentic_one"), orchestrate),
    "nested": (
        team(member("carol"), INNER, termination=TerminationSpec(max_messages=30)),
        nested,
    ),
}


def run_of(kind: str) -> MemoryRun:
    """A run of a team, short enough to be killed at each step."""
    rounds = {"cycle": 7, "magentic one": 5, "swarm": 5}.get(kind, 4)
    return MemoryRun(KINDS[kind][0], [asked("begin")], max_rounds=rounds, tools={"echo": echo})


def kept(run: MemoryRun) -> Any:
    """What the newest checkpoint says besides times, and the usage that the server makes up."""
    return _without_usage(timeless(decode(run.chain)[0].state))


def _without_usage(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_usage(v) for k, v in value.items() if k != "models_usage"}
    return [_without_usage(item) for item in value] if isinstance(value, list) else value


def told(run: MemoryRun) -> list[tuple[str, str, str]]:
    """What was said; members that speak at the same time are not in order."""
    return sorted((m.message_id, m.agent, m.text) for m in run.said)


async def undisturbed(server: ModelServer, kind: str) -> MemoryRun:
    server.reply_with(KINDS[kind][1])
    server.chunk_delay = 0.002 if isinstance(KINDS[kind][1], Uneven) else 0.0
    run = run_of(kind)
    await take_all(run, driver(run, server.base_url))
    return run


@pytest.mark.parametrize("side", ["die_before_record", "die_after_record"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_team_killed_after_any_step_goes_on_as_if_nothing_had_been(
    model_server: ModelServer, kind: str, side: str
) -> None:
    calm = await undisturbed(model_server, kind)
    assert calm.records > 2
    for number in range(1, calm.records + 1):
        run = run_of(kind)
        setattr(run, side, number)
        with pytest.raises(LeaseLost):
            await take_all(run, driver(run, model_server.base_url))
        end = await take_all(run, driver(run, model_server.base_url, worker_id="worker-2"))
        assert told(run) == told(calm), number
        assert kept(run) == kept(calm), number
        assert end is calm.results[-1].end_reason
        assert run.results[-1].summary == calm.results[-1].summary
        assert [c.arguments_json for c in run.tool_calls] == [
            c.arguments_json for c in calm.tool_calls
        ]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_warm_team_equals_fresh_ones(model_server: ModelServer, kind: str) -> None:
    cold = await undisturbed(model_server, kind)
    warm = run_of(kind)
    await take_all(warm, driver(warm, model_server.base_url), keep_warm=True)
    assert told(warm) == told(cold)
    assert kept(warm) == kept(cold)


async def test_a_selector_chooses_and_says_nothing_aloud(model_server: ModelServer) -> None:
    run = await undisturbed(model_server, "selector")
    assert [result.speaker for result in run.results] == ["alice", "bob"] * 2
    assert {m.agent for m in run.said} == {"alice", "bob"}
    assert {d[1] for d in run.deltas} <= {"alice", "bob"}
    assert run.results[-1].end_reason is EndReason.MAX_ROUNDS


async def test_a_selector_takes_a_prompt_of_ones_own(model_server: ModelServer) -> None:
    model_server.reply_with(select)
    spec = KINDS["selector"][0].model_copy(
        update={"selector": SelectorSpec(prompt="{roles} | {participants}\n{history} {{}}")}
    )
    run = MemoryRun(spec, [asked("begin")], max_rounds=1, tools={"echo": echo})
    await take_all(run, driver(run, model_server.base_url))
    prompt = model_server.requests[0]["messages"][0]["content"]
    assert prompt.startswith("alice: alice")
    assert prompt.endswith("{}")


async def test_handoffs_are_recorded_and_told(model_server: ModelServer) -> None:
    run = await undisturbed(model_server, "swarm")
    assert [(h.agent, h.target) for h in run.handoffs][:2] == [("alice", "bob"), ("bob", "alice")]
    calls = [p.tool_call_id for m in run.said for p in m.parts if p.kind is PartKind.TOOL_CALL]
    results = [p.tool_call_id for m in run.said for p in m.parts if p.kind is PartKind.TOOL_RESULT]
    assert calls == results != []


async def test_who_is_slow_in_a_graph_changes_nothing(model_server: ModelServer) -> None:
    states = []
    for slow in "bc":
        model_server.reply_with(Uneven(slow))
        model_server.chunk_delay = 0.01
        run = run_of("fan-out and join")
        assert await take_all(run, driver(run, model_server.base_url)) is EndReason.TERMINATED
        assert len(run.results) == 3
        states.append(kept(run))
    assert states[0] == states[1]


async def test_a_cycle_goes_round_until_its_condition_ends_it(model_server: ModelServer) -> None:
    run = await undisturbed(model_server, "cycle")
    spoken = [result.speaker for result in run.results]
    assert spoken == [*["writer", "reviewer"] * 3, "printer"]
    assert run.results[-1].end_reason is EndReason.TERMINATED


async def test_the_orchestrator_thinks_until_it_answers(model_server: ModelServer) -> None:
    run = await undisturbed(model_server, "magentic one")
    assert run.results[-1].summary == "All is said."
    assert run.results[-1].end_reason is EndReason.TERMINATED
    by_it = [m for m in run.said if m.agent == ":orchestrator"]
    assert [m.text for m in by_it if m.text] == ["All is said."]
    assert all(p.kind is PartKind.REASONING for m in by_it[:-1] for p in m.parts)


async def test_a_word_in_between_reaches_the_orchestrator(model_server: ModelServer) -> None:
    model_server.reply_with(orchestrate)
    run = run_of("magentic one")
    turns = driver(run, model_server.base_url)
    await take_turn(run, turns)
    run.inputs.append(asked("use blue", 9))
    before = len(model_server.requests)
    await take_turn(run, turns)
    ledger, answer = map(text_of, model_server.requests[before:])
    assert "is_request_satisfied" in ledger, "it was planned anew"
    assert "use blue" in ledger
    assert "use blue" in answer


async def test_a_ledger_that_is_no_json_is_the_models_failure(model_server: ModelServer) -> None:
    def nonsense(body: Body, number: int) -> Reply:
        return Reply("{}" if "is_request_satisfied" in text_of(body) else "A plan.")

    model_server.reply_with(nonsense)
    run = run_of("magentic one")
    with pytest.raises(ModelRefused, match="ledger"):
        await take_all(run, driver(run, model_server.base_url))


async def test_members_of_a_team_within_a_team_have_paths(model_server: ModelServer) -> None:
    run = await undisturbed(model_server, "nested")
    assert {m.agent for m in run.said} == {"carol", "inner/alice", "inner/bob"}
    assert {call.agent for call in run.tool_calls} == {"inner/alice"}


async def test_a_swarm_hands_over_to_a_person_and_gets_the_word_back(
    model_server: ModelServer,
) -> None:
    spec = team(
        member("alice", handoffs=("bob", "boss")),
        member("bob", handoffs=("alice",)),
        kind="swarm",
        termination=TerminationSpec(handoff_to=("boss",)),
    )

    def reply(body: Body, number: int) -> Reply:
        if "go ahead" in text_of(body):
            return Reply("thank you TERMINATE")
        return Reply(tool_calls=(ToolCall("transfer_to_boss", "{}", "h"),))

    model_server.reply_with(reply)
    run = MemoryRun(spec, [asked("begin")], human_input=True)
    turns = driver(run, model_server.base_url)
    result, _ = await take_turn(run, turns)
    assert result.waits_for_input
    assert "handed over to boss" in result.detail
    run.inputs.append(asked("go ahead", 7))
    result, _ = await take_turn(run, turns)
    assert result.speaker == "alice"
    alone = MemoryRun(spec, [asked("begin")])
    result, _ = await take_turn(alone, turns)
    assert result.end_reason is EndReason.TERMINATED
