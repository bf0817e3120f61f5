"""Teams that are members of other teams and work in runs of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from agentmesh_agent_runtime.adapters.definitions import team_to_proto, team_to_spec
from agentmesh_agent_runtime.definitions.approval_policies import ApprovalPolicySpec
from agentmesh_agent_runtime.definitions.check import check_team
from agentmesh_agent_runtime.definitions.specs import (
    EdgeSpec,
    GraphSpec,
    HumanInputMode,
    StageSpec,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.turns.delegation import LARGEST_TASK
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    LeaseLost,
    ReplayDiverged,
    RunFailed,
    Suspended,
)
from agentmesh_agent_runtime.turns.grant import StartedRun, Verdict
from agentmesh_agent_runtime.turns.people import PersonNeeded
from agentmesh_agent_runtime.turns.ports import ToolOutput, ToolRequest

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    end_children,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.test_team_kinds import Body, context, member, speaker_of
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall


def research(**fields: Any) -> TeamSpec:
    """Two that speak in turn, twice altogether."""
    members = (member("alice"), member("bob"))
    return team(*members, **({"id": "research", "own_run": True, "max_rounds": 2} | fields))


def desk(*members: Any, **fields: Any) -> TeamSpec:
    return TeamSpec(**({"id": "desk", "participants": members} | fields))


def whole(run: MemoryRun) -> list[tuple[str, str]]:
    """Who said what in a run and in those that it started."""
    return [*run.texts(), *(said for _, child in run.children for said in child.texts())]


def say(body: Body, number: int) -> Reply:
    return Reply(context(body))


async def test_the_others_hear_the_answer_of_the_run_only(model_server: ModelServer) -> None:
    model_server.reply_with(say)
    run = MemoryRun(desk(research(), member("carol")), [asked("begin")], max_rounds=3)
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.MAX_ROUNDS
    (wanted, first), (_, second) = run.children
    assert wanted.path == "research"
    assert wanted.task == "begin"
    assert first.texts() == [
        ("research/alice", "alice sees 2, last 'begin'"),
        ("research/bob", "bob sees 3, last 'alice sees 2, last'"),
    ]
    # carol hears the task and the answer; the answer of the team itself is in the run's log.
    ((who, heard),) = run.texts()
    assert (who, heard[:19]) == ("carol", "carol sees 3, last ")
    assert "bob sees 3" in heard
    assert run.results[0].speaker == "research"
    # It begins afresh, with what it said last and what was said since.
    answer = first.results[-1].summary
    assert second.inputs[0].text == f"research: {answer}\n\ncarol: {run.texts()[0][1]}"
    assert run.results[-1].summary == second.results[-1].summary


async def test_teams_of_one_wave_work_at_the_same_time(model_server: ModelServer) -> None:
    """Both are started by one suspension, and heard in the order of the team."""
    model_server.reply_with(say)
    graph = GraphSpec(
        edges=(EdgeSpec(source="left", target="end"), EdgeSpec(source="right", target="end"))
    )
    members = (research(id="left"), research(id="right"), member("carol"), member("end"))
    edges = (*graph.edges, EdgeSpec(source="carol", target="end"))
    spec = desk(*members, kind=TeamKind.GRAPH, graph=GraphSpec(edges=edges))
    run = MemoryRun(spec, [asked("begin")], max_rounds=5)
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.TERMINATED
    assert run.suspensions == 1
    assert [wanted.path for wanted, _ in run.children] == ["left", "right"]
    carol, end = run.texts()
    assert carol[0] == "carol"
    assert end[0] == "end"
    last = model_server.requests[-1]["messages"]
    answers = [child.results[-1].summary for _, child in run.children]
    assert [m["content"] for m in last[2:]] == [*answers, carol[1]]
    assert sum(speaker_of(body) == "carol" for body in model_server.requests) == 1


@pytest.mark.parametrize("side", ["die_before_record", "die_after_record"])
async def test_killed_after_any_step_it_says_the_same(model_server: ModelServer, side: str) -> None:
    model_server.reply_with(say)
    spec = desk(member("carol"), research(), member("dave"))
    calm = MemoryRun(spec, [asked("begin")], max_rounds=5)
    await take_all(calm, driver(calm, model_server.base_url))
    assert calm.records == 5
    for number in range(1, calm.records + 1):
        dies: Any = {side: number}
        run = MemoryRun(spec, [asked("begin")], max_rounds=5, **dies)
        with pytest.raises(LeaseLost):
            await take_all(run, driver(run, model_server.base_url))
        await take_all(run, driver(run, model_server.base_url))
        assert whole(run) == whole(calm), number


async def test_what_was_said_meanwhile_changes_nothing_for_the_turn_that_waits(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(say)
    run = MemoryRun(desk(research(), member("carol")), [asked("begin")], max_rounds=2)
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    run.inputs.append(asked("One thing more.", sequence=90))
    await end_children(run, turns)
    result, _ = await take_turn(run, turns)
    assert result.last_input_sequence == 1
    assert "One thing more." not in str(model_server.requests)
    await take_turn(run, turns)
    assert "One thing more." in str(model_server.requests[-1])


async def test_another_task_on_replay_is_a_divergence(model_server: ModelServer) -> None:
    model_server.reply_with(say)
    run = MemoryRun(desk(research(), member("carol")), [asked("begin")], max_rounds=2)
    with pytest.raises(Suspended):
        await take_turn(run, driver(run, model_server.base_url))
    run.inputs[0] = asked("something else")
    with pytest.raises(ReplayDiverged):
        await take_turn(run, driver(run, model_server.base_url))


async def test_a_run_that_fails_fails_the_one_that_started_it(model_server: ModelServer) -> None:
    model_server.fail_next(Fault(status=400, message="no such thing"))
    run = MemoryRun(desk(research(), member("carol")), [asked("begin")], max_rounds=2)
    with pytest.raises(RunFailed) as failed:
        await take_all(run, driver(run, model_server.base_url))
    assert failed.value.reason is EndReason.MODEL_ERROR
    assert failed.value.detail.startswith("research: ")
    assert not failed.value.retryable


async def test_the_same_team_twice_in_one_turn_has_two_runs(model_server: ModelServer) -> None:
    model_server.reply_with(say)
    inner = team(research(), member("carol"), id="inner", max_rounds=3)
    run = MemoryRun(desk(inner), [asked("begin")], max_rounds=1)
    await take_all(run, driver(run, model_server.base_url))
    paths = [wanted.path for wanted, _ in run.children]
    assert paths == ["inner/research", "inner/research~2"]
    assert run.children[0][1].texts()[0][0] == "inner/research/alice"


async def test_only_the_end_of_a_long_task_is_told(model_server: ModelServer) -> None:
    model_server.reply_with(say)
    run = MemoryRun(desk(research()), [asked("é" * LARGEST_TASK + " the end")], max_rounds=1)
    with pytest.raises(Suspended) as suspended:
        await take_turn(run, driver(run, model_server.base_url))
    (wanted,) = suspended.value.runs
    assert len(wanted.task.encode()) <= LARGEST_TASK
    assert wanted.task.startswith("[what was said before is left out]\né")
    assert wanted.task.endswith("the end")


async def test_its_words_count_for_the_termination_of_the_team(model_server: ModelServer) -> None:
    model_server.reply_with(Reply("APPROVED"))
    ends = TerminationSpec(text_mentions=("APPROVED",), text_mention_sources=("research",))
    run = MemoryRun(desk(research(), member("carol"), termination=ends), [asked()], max_rounds=9)
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.TERMINATED
    assert run.texts() == []


async def test_a_run_for_another_one_does_not_wait_for_people(model_server: ModelServer) -> None:
    model_server.reply_with(say)
    asks = agent("alice", human_input_mode=HumanInputMode.ALWAYS)
    spec = team(asks, id="research", own_run=True)
    alone = MemoryRun(spec, [asked()], max_rounds=2, human_input=True)
    result, _ = await take_turn(alone, driver(alone, model_server.base_url))
    assert result.waits_for_input
    within = MemoryRun(spec, [asked()], max_rounds=2, human_input=True, path="research")
    result, _ = await take_turn(within, driver(within, model_server.base_url))
    assert not result.waits_for_input


async def _echo(request: ToolRequest) -> ToolOutput:
    return ToolOutput(f"echo {request.arguments_json}", is_error=False)


def _calls(body: Body, number: int) -> Reply:
    if body["messages"][-1]["role"] == "tool":
        return Reply("done")
    return Reply(tool_calls=(ToolCall("echo", json.dumps({"n": 1}), "c"),))


@pytest.mark.parametrize("named", ["alice", "research/alice", "research/*", "*"])
async def test_policies_of_the_team_around_it_bind_it(
    model_server: ModelServer, named: str
) -> None:
    model_server.reply_with(_calls)
    policy = ApprovalPolicySpec(tools=("echo",), agents=(named,))
    inner = team(agent("alice", tools=("echo",)), id="research", own_run=True, max_rounds=1)
    run = MemoryRun(
        desk(inner, approvals=(policy,)), [asked()], max_rounds=1, tools={"echo": _echo}
    )
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    ((_, child),) = run.children

    def refuse(of: MemoryRun, needed: PersonNeeded) -> None:
        assert needed.agent == "research/alice"
        of.decide(needed, Verdict.REJECTED, "No.")

    await take_all(child, turns, person=refuse)
    assert child.suspensions == 1
    assert not child.tool_calls


async def test_an_answer_that_is_known_is_not_asked_for_again(model_server: ModelServer) -> None:
    run = MemoryRun(desk(research()), [asked("begin")], max_rounds=1)
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    with pytest.raises(Suspended) as again:
        await take_turn(run, turns)
    assert again.value.awaits_runs
    assert not again.value.runs
    run.started["research"] = StartedRun("research", has_ended=True, answer="Here.")
    result, _ = await take_turn(run, turns)
    assert result.summary == "Here."
    assert not model_server.requests


def _paths(spec: TeamSpec) -> list[str]:
    return [finding.path for finding in check_team(spec, "teams[0]", lambda llm: None)]


def test_it_may_have_stages_and_a_summarizer_and_be_a_member_of_graphs() -> None:
    stages = (StageSpec(name="only", agent="alice"),)
    inner = research(stages=stages, summarizer={"model": "test-model"})
    graph = GraphSpec(edges=(EdgeSpec(source="research", target="carol"),))
    assert _paths(desk(inner, member("carol"), kind=TeamKind.GRAPH, graph=graph)) == []
    here = inner.model_copy(update={"own_run": False})
    where = "teams[0].participants[0].team"
    found = _paths(desk(here, member("carol"), kind=TeamKind.GRAPH, graph=graph))
    assert set(found) >= {where, f"{where}.stages", f"{where}.summarizer"}


def test_it_is_no_member_of_a_swarm() -> None:
    giver = agent("carol", handoffs=("research",))
    found = _paths(desk(giver, research(), kind=TeamKind.SWARM))
    assert "teams[0].participants[1].team" in found


def test_it_is_kept_by_the_catalog() -> None:
    spec = desk(research(), member("carol"))
    assert team_to_spec(team_to_proto(spec)) == spec


Find = Callable[[TeamSpec], tuple[str, ...]]


@pytest.mark.parametrize(
    ("find", "found"),
    [
        (lambda spec: spec.speakers(), ("research", "carol")),
        (lambda spec: tuple(a.id for a in spec.agents()), ("alice", "bob", "carol")),
        (lambda spec: tuple(a.id for a in spec.agents_in_run()), ("carol",)),
    ],
)
def test_who_belongs_to_the_run_of_the_team(find: Find, found: tuple[str, ...]) -> None:
    assert find(desk(research(), member("carol"))) == found


async def test_policies_of_its_own_agents_hold(model_server: ModelServer) -> None:
    model_server.reply_with(_calls)
    guarded = agent("alice", tools=("echo",), approvals=(ApprovalPolicySpec(tools=("echo",)),))
    run = MemoryRun(
        desk(team(guarded, id="research", own_run=True, max_rounds=1)),
        [asked()],
        max_rounds=1,
        tools={"echo": _echo},
    )
    turns = driver(run, model_server.base_url)
    with pytest.raises(Suspended):
        await take_turn(run, turns)
    ((_, child),) = run.children
    with pytest.raises(Suspended):
        await take_turn(child, turns)
    assert [needed.agent for needed in child.pending] == ["research/alice"]


async def test_an_answer_waits_for_those_who_speak_before(model_server: ModelServer) -> None:
    """carol takes several steps of her own, also when they are replayed."""

    def answer(body: Body, number: int) -> Reply:
        return _calls(body, number) if body.get("tools") else say(body, number)

    model_server.reply_with(answer)
    members = (member("carol", tools=("echo",)), research(), member("end"))
    edges = (EdgeSpec(source="carol", target="end"), EdgeSpec(source="research", target="end"))
    spec = desk(*members, kind=TeamKind.GRAPH, graph=GraphSpec(edges=edges))
    run = MemoryRun(spec, [asked("begin")], max_rounds=5, tools={"echo": _echo})
    await take_all(run, driver(run, model_server.base_url))
    heard = [m["content"] for m in model_server.requests[-1]["messages"][2:]]
    assert heard == ["done", run.children[0][1].results[-1].summary]
