"""Components of installed packages at work, in turns that are killed after any step."""

from __future__ import annotations

import random

import pytest
from agentmesh_agent_runtime.definitions.approval_policies import ApprovalPolicySpec
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    SelectorSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.turns.driver import TurnResult
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    LeaseLost,
)
from agentmesh_agent_runtime.turns.grant import StepKind, Verdict
from agentmesh_agent_runtime.turns.people import PersonNeeded
from agentmesh_agent_runtime.turns.ports import PartKind

from services.agent_runtime.tests.extension_world import (
    TEAMS,
    custom,
    hosting,
    lots,
    run_of,
)
from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.test_team_kinds import (
    Body,
    context,
    echo,
    kept,
    member,
    speaker_of,
    told,
    with_tool,
)
from tests.support.model_server import ModelServer, Reply

pytestmark = pytest.mark.usefixtures("packages")


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Chance that never comes out the same twice."""
    made: list[str] = []

    def choice(options: list[str]) -> str:
        made.append(f"{options[0]} {len(made)}")
        return made[-1]

    monkeypatch.setattr(random, "choice", choice)
    return made


def reply(body: Body, number: int) -> Reply:
    return with_tool(body) if speaker_of(body) in ("writer", "plain") else Reply(context(body))


@pytest.mark.parametrize("kind", TEAMS)
async def test_a_team_of_components_killed_after_any_step_goes_on_as_if_nothing_had_been(
    model_server: ModelServer, draws: list[str], kind: str
) -> None:
    model_server.reply_with(reply)
    calm = run_of(kind)
    await take_all(calm, hosting(calm, model_server))
    assert calm.records > 2
    for number in range(1, calm.records + 1):
        draws.clear()
        run = run_of(kind)
        run.die_after_record = number
        with pytest.raises(LeaseLost):
            await take_all(run, hosting(run, model_server))
        again = hosting(run, model_server, worker_id="worker-2")
        await take_all(run, again)
        assert told(run) == told(calm), number
        assert kept(run) == kept(calm), number
        assert run.results[-1].summary == calm.results[-1].summary
        assert [c.arguments_json for c in run.tool_calls] == [
            c.arguments_json for c in calm.tool_calls
        ]


@pytest.mark.parametrize("kind", TEAMS)
async def test_a_team_of_components_killed_before_any_record_says_the_same(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What was not recorded may happen again, so chance has to be none here."""
    monkeypatch.setattr(random, "choice", lambda options: options[0])
    model_server.reply_with(reply)
    calm = run_of(kind)
    await take_all(calm, hosting(calm, model_server))
    for number in range(1, calm.records + 1):
        run = run_of(kind)
        run.die_before_record = number
        with pytest.raises(LeaseLost):
            await take_all(run, hosting(run, model_server))
        await take_all(run, hosting(run, model_server, worker_id="worker-2"))
        assert told(run) == told(calm), number
        assert kept(run) == kept(calm), number


async def test_an_answer_that_was_recorded_stands(model_server: ModelServer) -> None:
    run = MemoryRun(team(agent("odd", component="Forgets"), member("bob")), [asked()], max_rounds=2)
    run.die_after_record = 1
    with pytest.raises(LeaseLost):
        await take_all(run, hosting(run, model_server))
    (first,) = [message.text for message in run.said]
    await take_all(run, hosting(run, model_server))
    assert run.texts()[0] == ("odd", first)
    assert run.results[0].summary == first
    assert first in str(model_server.requests[0]), "others heard something else than the log says"


@pytest.mark.parametrize("kind", TEAMS)
async def test_a_warm_team_of_components_equals_fresh_ones(
    model_server: ModelServer, draws: list[str], kind: str
) -> None:
    model_server.reply_with(reply)
    cold, warm = run_of(kind), run_of(kind)
    await take_all(cold, hosting(cold, model_server))
    draws.clear()
    await take_all(warm, hosting(warm, model_server), keep_warm=True)
    assert told(warm) == told(cold)
    assert kept(warm) == kept(cold)


async def test_what_is_said_without_a_model_is_in_the_log(model_server: ModelServer) -> None:
    run = MemoryRun(team(lots("lots"), member("bob")), [asked()], max_rounds=2)
    await take_all(run, hosting(run, model_server))
    (first, who), *_ = [(m.text, m.agent) for m in run.said]
    assert who == "lots"
    assert first.startswith("The lot: ")
    assert first in str(model_server.requests[0]), "the next member did not hear it"
    assert run.results[0].speaker == "lots"


async def test_a_message_is_processed_before_the_model_sees_it(model_server: ModelServer) -> None:
    glossary = {"SLO": "what we promise", "SLA": "what we pay for"}
    spec = team(custom("writer", component_config={"glossary": glossary}), kind="single")
    run = MemoryRun(spec, [asked("Is the SLO met?")])
    await take_all(run, hosting(run, model_server))
    heard = model_server.requests[0]["messages"][-1]["content"]
    assert heard.startswith("Is the SLO met?")
    assert "SLO: what we promise" in heard
    assert "SLA" not in heard


async def test_replies_of_the_private_model_are_reasoning(model_server: ModelServer) -> None:
    model_server.reply_with(lambda body, number: Reply(f"draft {number}"))
    run = MemoryRun(team(member("drafter", component="Drafter"), kind="single"), [asked()])
    await take_all(run, hosting(run, model_server))
    parts = [(part.kind, part.text) for message in run.said for part in message.parts]
    assert [kind for kind, _ in parts] == [PartKind.REASONING, PartKind.TEXT]
    assert parts[1][1] == parts[0][1].upper()


async def test_a_tool_that_is_called_without_a_model_is_told_and_called_once(
    model_server: ModelServer,
) -> None:
    run = run_of("calls by itself")
    await take_turn(run, hosting(run, model_server))
    calls = [p.tool_call_id for m in run.said for p in m.parts if p.kind is PartKind.TOOL_CALL]
    assert [call.tool_call_id for call in run.tool_calls] == calls
    assert run.tool_calls[0].arguments_json == '{"n": 1}'


async def test_a_tool_that_is_called_without_a_model_waits_for_its_approval(
    model_server: ModelServer,
) -> None:
    run = run_of("calls by itself")
    policy = ApprovalPolicySpec(tools=("echo",))
    run.team = run.team.model_copy(update={"approvals": (policy,)})

    def approve(run: MemoryRun, needed: PersonNeeded) -> None:
        run.decide(needed, Verdict.APPROVED)

    await take_all(run, hosting(run, model_server), person=approve)
    assert [call.arguments_json for call in run.tool_calls] == ['{"n": 1}', '{"n": 2}'] * 2
    assert run.suspensions == 4


async def test_members_that_speak_at_once_are_heard_in_order(model_server: ModelServer) -> None:
    model_server.reply_with(reply)
    run = run_of("wave")
    await take_all(run, hosting(run, model_server))
    assert [result.speaker for result in run.results] == ["alice"] * 4


async def test_a_team_that_lets_nobody_speak_is_done(model_server: ModelServer) -> None:
    spec = TEAMS["chaired"].model_copy(
        update={"component_config": {"chair": "chair", "closing": "one"}}
    )
    run = MemoryRun(spec, [asked("begin")], max_rounds=9, tools={"echo": echo})
    options = {"options": ["one", "one"]}
    chair = spec.participants[0]
    assert isinstance(chair, AgentSpec)
    chair = chair.model_copy(update={"component_config": options})
    run.team = spec.model_copy(update={"participants": (chair, *spec.participants[1:])})
    end = await take_all(run, hosting(run, model_server))
    assert end is EndReason.TERMINATED
    assert run.results[-1].detail == "the team is done: nobody is to speak"
    assert len(run.results) == 2


async def test_a_condition_of_a_package_judges_all_messages_of_the_run(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(lambda body, number: Reply("three words here"))
    budget = TerminationSpec(component="word_budget", component_config={"max_words": 8})
    for termination in (budget, TerminationSpec(all_of=(budget, TerminationSpec(max_messages=2)))):
        run = MemoryRun(team(member("a"), member("b"), termination=termination), [asked("x " * 50)])
        end = await take_all(run, hosting(run, model_server))
        assert end is EndReason.TERMINATED
        assert len(run.results) == 3
        assert "9 of 8 words were said" in run.results[-1].detail


async def test_a_condition_of_a_package_ends_a_team_within_a_team(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(lambda body, number: Reply("three words here"))
    budget = TerminationSpec(component="word_budget", component_config={"max_words": 5})
    inner = team(member("a"), member("b"), id="inner", termination=budget)
    run = MemoryRun(team(inner, member("c")), [asked()], max_rounds=1)
    await take_all(run, hosting(run, model_server))
    assert [m.agent for m in run.said] == ["inner/a", "inner/b"]


async def test_a_candidate_function_of_the_example_chooses(model_server: ModelServer) -> None:
    selector = SelectorSpec(candidate_function="critic_after_writer", allow_repeated_speaker=True)
    spec = team(member("writer"), member("critic"), kind="selector", selector=selector)
    run = MemoryRun(spec, [asked()], max_rounds=4)
    await take_all(run, hosting(run, model_server))
    assert [result.speaker for result in run.results] == ["writer", "critic"] * 2


async def test_an_answer_of_another_type_becomes_a_text(model_server: ModelServer) -> None:
    run = MemoryRun(team(agent("odd", component="Structured"), member("bob")), [asked()])
    result, _ = await take_turn(run, hosting(run, model_server))
    assert result.summary == '{"a":1}'
    await take_turn(run, hosting(run, model_server))
    assert '{\\"a\\":1}' in str(model_server.requests[0]) or '{"a":1}' in str(
        model_server.requests[0]
    )


async def test_a_handoff_without_a_model_is_recorded(model_server: ModelServer) -> None:
    spec = team(agent("first", component="HandsOver"), member("boss"), kind="swarm")
    first, boss = spec.participants
    assert isinstance(first, AgentSpec)
    first = first.model_copy(update={"handoffs": ("boss",)})
    spec = spec.model_copy(update={"participants": (first, boss)})
    run = MemoryRun(spec, [asked()], max_rounds=2)
    await take_all(run, hosting(run, model_server))
    assert [(h.agent, h.target) for h in run.handoffs] == [("first", "boss")]
    assert run.results[1].speaker == "boss"


async def test_effects_of_once_are_steps_of_their_own_kind(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[StepKind] = []
    run = MemoryRun(team(lots("lots"), member("bob")), [asked()])
    commit = run.commit

    def seen_at_commit(result: TurnResult) -> None:
        seen.extend(step.kind for step in run.steps.values())
        commit(result)

    monkeypatch.setattr(run, "commit", seen_at_commit)
    await take_turn(run, hosting(run, model_server))
    assert seen == [StepKind.OTHER, StepKind.OTHER]
