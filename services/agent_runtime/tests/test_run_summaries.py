"""The summary of a run, where the team has somebody who writes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_agent_runtime.definitions.check import check_team
from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.specs import LlmSettings, StageSpec, TeamSpec
from agentmesh_agent_runtime.turns.failures import EndReason, LeaseLost, TurnStalled
from agentmesh_agent_runtime.turns.run_summary import MOST_TOKENS

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.real_mesh import StartMesh
from tests.support.model_server import Fault, ModelServer, Reply

WRITER = LlmSettings(model="writer-model")


def answer(body: dict[str, Any], number: int) -> Reply:
    if body["model"] == "writer-model":
        return Reply("  Two poets met.  ")
    return Reply(f"verse {sum(m['role'] != 'system' for m in body['messages'])}")


def poets(**fields: Any) -> TeamSpec:
    return team(agent("alice"), agent("bob"), **({"summarizer": WRITER} | fields))


def requests_of_writer(server: ModelServer) -> list[dict[str, Any]]:
    return [body for body in server.requests if body["model"] == "writer-model"]


async def test_a_summarizer_writes_the_summary_of_a_run_and_nobody_hears_it(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(answer)
    run = MemoryRun(poets(), [asked("Write verses.")], max_rounds=3)
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.MAX_ROUNDS
    assert run.results[-1].summary == "Two poets met."
    assert [who for who, _ in run.texts()] == ["alice", "bob", "alice"]
    assert not any("Two poets" in text for _, _, _, text in run.deltas)
    (request,) = requests_of_writer(model_server)
    told = request["messages"][-1]["content"]
    assert told.startswith("user: Write verses.\n\nalice: verse 1\n\nbob: verse")
    assert all(result.end_reason or result.summary != "Two poets met." for result in run.results)


@pytest.mark.parametrize("die", ["die_before", "die_after"])
async def test_a_recorded_summary_is_not_asked_for_again(
    model_server: ModelServer, die: str
) -> None:
    model_server.reply_with(answer)
    run = MemoryRun(poets(), [asked()], max_rounds=1)
    setattr(run, die, ":summarizer#1")
    with pytest.raises(LeaseLost):
        await take_turn(run, driver(run, model_server.base_url))
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.MAX_ROUNDS
    assert run.results[-1].summary == "Two poets met."
    assert len(requests_of_writer(model_server)) == (2 if die == "die_before" else 1)


async def test_a_summary_that_does_not_come_is_a_stalled_turn(model_server: ModelServer) -> None:
    def hold(body: dict[str, Any], number: int) -> Reply:
        if body["model"] != "writer-model":
            model_server.fail_next(Fault(stream="silent"))
        return answer(body, number)

    model_server.reply_with(hold)
    run = MemoryRun(poets(), [asked()], max_rounds=1)
    slow = driver(run, model_server.base_url, stall_seconds=0.5, reply_timeout=60.0)
    with pytest.raises(TurnStalled, match="summarizer asks writer-model"):
        async with asyncio.timeout(20):
            await take_turn(run, slow)
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.MAX_ROUNDS
    assert run.results[-1].summary == "Two poets met."


async def test_instructions_of_a_stage_are_not_for_the_summarizer(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(answer)
    stages = (StageSpec(name="only", agent="bob", instructions="Rhyme!"),)
    run = MemoryRun(poets(stages=stages), [asked()], max_rounds=1)
    await take_all(run, driver(run, model_server.base_url))
    assert any("Rhyme!" in str(body) for body in model_server.requests)
    assert "Rhyme!" not in str(requests_of_writer(model_server))


async def test_of_a_long_run_the_newest_messages_are_summarised(model_server: ModelServer) -> None:
    long = "word " * MOST_TOKENS

    def say(body: dict[str, Any], number: int) -> Reply:
        return Reply("Short.") if body["model"] == "writer-model" else Reply("the last word")

    model_server.reply_with(say)
    run = MemoryRun(poets(), [asked(f"BEGIN {long} END")], max_rounds=1)
    await take_all(run, driver(run, model_server.base_url))
    (request,) = requests_of_writer(model_server)
    told = request["messages"][-1]["content"]
    assert told == "[What was said before is left out.]\n\nalice: the last word"


def test_an_unknown_model_of_a_summarizer_is_found_with_its_path() -> None:
    def problem(llm: LlmSettings) -> Finding | None:
        return Finding("model", "is not known") if llm == WRITER else None

    findings = list(check_team(poets(), "teams[0]", problem))
    assert [finding.path for finding in findings] == ["teams[0].summarizer.model"]


def test_a_team_within_a_team_has_no_summarizer() -> None:
    outer = TeamSpec(id="outer", participants=(poets(), agent("carol")))
    findings = list(check_team(outer, "teams[0]", lambda llm: None))
    assert [finding.path for finding in findings] == ["teams[0].participants[0].team.summarizer"]


async def test_a_run_that_may_spend_no_more_ends_with_its_last_message(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    def say(body: dict[str, Any], number: int) -> Reply:
        return (
            Reply("summary " * 400) if body["model"] == "writer-model" else Reply("done TERMINATE")
        )

    model_server.reply_with(say)
    mesh = await start_mesh()
    conversation = await mesh.begin(poets(), "go", max_tokens=150)
    ended = await mesh.settled(conversation)
    assert ended.status == conversation_pb2.CONVERSATION_STATUS_COMPLETED
    assert ended.summary == "done TERMINATE"
    assert ended.usage.input_tokens + ended.usage.output_tokens <= 150


async def test_the_conversation_shows_what_the_summarizer_wrote(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    def say(body: dict[str, Any], number: int) -> Reply:
        return Reply("It is done." if body["model"] == "writer-model" else "done TERMINATE")

    model_server.reply_with(say)
    mesh = await start_mesh()
    conversation = await mesh.begin(poets(), "go")
    assert (await mesh.settled(conversation)).summary == "It is done."
