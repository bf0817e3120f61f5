"""Questions of agents to people, in the middle of a turn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions.approval_policies import ApproverRole
from agentmesh_agent_runtime.turns.failures import Suspended
from agentmesh_agent_runtime.turns.grant import Verdict
from agentmesh_agent_runtime.turns.ports import PartKind, Speaker

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_turn,
    team,
)
from services.agent_runtime.tests.test_people import answering, echo, results_told, take
from tests.support.model_server import ModelServer, Reply, ToolCall


def curious_run(**fields: Any) -> MemoryRun:
    return MemoryRun(team(agent("alice", tools=("ask_human",))), [asked()], **fields)


def ask(question: str = "Which colour?") -> ToolCall:
    return ToolCall("ask_human", json.dumps({"question": question}), "q1")


ANSWERS = [
    (Verdict.ANSWERED, "blue", "blue"),
    (Verdict.APPROVED, "", "Yes."),
    (Verdict.REJECTED, "never", "No. never"),
    (Verdict.EXPIRED, "", "Nobody answered in time."),
]


@pytest.mark.parametrize(("verdict", "text", "told"), ANSWERS)
async def test_a_question_to_a_person_has_their_answer_as_its_result(
    model_server: ModelServer, verdict: Verdict, text: str, told: str
) -> None:
    run = curious_run(human_input=True)
    await take(model_server, run, [Reply(tool_calls=(ask(),))], answering(verdict, text))
    offered = [tool["function"]["name"] for tool in model_server.requests[0]["tools"]]
    assert offered == ["ask_human"]
    (needed,) = run.asked
    assert (needed.prompt, needed.call, needed.role) == (
        "Which colour?",
        None,
        ApproverRole.USER,
    )
    assert results_told(model_server) == [told]
    assert len(model_server.requests) == 2
    parts = [part for message in run.said for part in message.parts]
    assert [p.text for p in parts if p.kind is PartKind.TOOL_RESULT] == [told]


async def test_nobody_is_asked_where_no_person_is(model_server: ModelServer) -> None:
    alice = agent("alice", tools=("look", "ask_human"))
    run = MemoryRun(team(alice), [asked()], tools={"look": echo}, human_input=False)
    await take(model_server, run, [Reply(tool_calls=(ask(),))], answering(Verdict.ANSWERED))
    offered = [tool["function"]["name"] for tool in model_server.requests[0]["tools"]]
    assert offered == ["look"]
    assert run.suspensions == 0
    assert "You have no tool 'ask_human'" in results_told(model_server)[0]


@pytest.mark.parametrize("arguments", ["{", "{}", '{"question": " "}', '{"question": 7}', "[]"])
async def test_a_question_without_words_is_refused(
    model_server: ModelServer, arguments: str
) -> None:
    run = curious_run(human_input=True)
    call = ToolCall("ask_human", arguments, "q1")
    await take(model_server, run, [Reply(tool_calls=(call,))], answering(Verdict.ANSWERED))
    assert run.suspensions == 0
    assert "Ask with" in results_told(model_server)[0]


async def test_the_notice_of_the_script_is_said_once(model_server: ModelServer) -> None:
    run = curious_run(human_input=True)
    model_server.reply_with([Reply(tool_calls=(ask(),)), Reply("done TERMINATE")])
    turns = driver(run, model_server.base_url)

    def with_notice(scope: Any) -> None:
        scope.notice = "the script plays"

    with pytest.raises(Suspended):
        await take_turn(run, turns, opened=with_notice)
    run.decide(run.pending[0], Verdict.ANSWERED, "blue")
    await take_turn(run, turns, opened=with_notice)
    assert [m.text for m in run.said if m.speaker is Speaker.SYSTEM] == ["the script plays"]
