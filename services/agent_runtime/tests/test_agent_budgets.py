"""What single agents may consume in a run."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_agent_runtime.adapters.definitions import agent_to_proto, agent_to_spec
from agentmesh_agent_runtime.definitions.specs import AgentBudgetSpec, AgentSpec
from agentmesh_agent_runtime.models.prices import Prices
from agentmesh_agent_runtime.turns.allowance import LEAST_REPLY_TOKENS, Allowance
from agentmesh_agent_runtime.turns.failures import BudgetExhausted, LeaseLost
from agentmesh_agent_runtime.turns.ports import Consumption
from agentmesh_agent_runtime.turns.spending import Spending
from pydantic import ValidationError

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
from services.agent_runtime.tests.test_team_kinds import member, speaker_of
from tests.support.model_server import ModelServer, Reply

TOKENS = AgentBudgetSpec(max_tokens=1000)


def answer(body: dict[str, Any], number: int) -> Reply:
    return Reply("a few words " * 10)


def consumed(run: MemoryRun, path: str) -> int:
    steps = [step for step in run.recorded if step.step_key.startswith(f"{path}#")]
    return sum(step.usage.input_tokens + step.usage.output_tokens for step in steps)


def poets(most: int) -> MemoryRun:
    alice = member("alice", budget=AgentBudgetSpec(max_tokens=most))
    return MemoryRun(team(alice, member("bob")), [asked("begin")], max_rounds=40)


async def test_an_agent_is_bound_and_the_others_are_not(model_server: ModelServer) -> None:
    model_server.reply_with(answer)
    run = poets(600)
    with pytest.raises(BudgetExhausted, match="alice"):
        await take_all(run, driver(run, model_server.base_url))
    assert 300 < consumed(run, "alice") <= 600
    speakers = [speaker_of(body) for body in model_server.requests]
    assert speakers.count("alice") > 2
    assert speakers.count("bob") >= speakers.count("alice") - 1


async def test_what_it_consumed_is_remembered_by_whoever_goes_on(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(answer)
    warm, cold = poets(600), poets(600)
    for run, keep in ((warm, True), (cold, False)):
        with pytest.raises(BudgetExhausted):
            await take_all(run, driver(run, model_server.base_url), keep_warm=keep)
    assert len(cold.recorded) == len(warm.recorded)


async def test_a_replayed_reply_counts_once(model_server: ModelServer) -> None:
    model_server.reply_with(answer)
    calm = poets(600)
    with pytest.raises(BudgetExhausted):
        await take_all(calm, driver(calm, model_server.base_url))
    for number in range(1, calm.records):
        run = poets(600)
        run.die_after_record = number
        with pytest.raises(LeaseLost):
            await take_all(run, driver(run, model_server.base_url))
        with pytest.raises(BudgetExhausted):
            await take_all(run, driver(run, model_server.base_url))
        assert len(run.recorded) == len(calm.recorded), number


async def test_each_run_begins_with_the_whole_budget(model_server: ModelServer) -> None:
    model_server.reply_with(answer)
    run = poets(600)
    turns = driver(run, model_server.base_url)
    with pytest.raises(BudgetExhausted):
        await take_all(run, turns)
    before = consumed(run, "alice")
    run.run_id = "run_2"
    run.steps.clear()
    await take_turn(run, turns)
    assert consumed(run, "alice") > before


async def test_a_reply_is_stopped_where_the_agent_may_have_no_more(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("word " * 4000))
    model_server.chunk_delay = 0.005
    mesh = await start_mesh()
    bound = agent("alice", budget=AgentBudgetSpec(max_tokens=150))
    conversation = await mesh.begin(team(bound, agent("bob")), "begin")
    ended = await mesh.settled(conversation, within=30)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_BUDGET
    assert "stopped" in ended.run.detail
    assert ended.usage.input_tokens + ended.usage.output_tokens <= 150


def test_tokens_and_money_bind_what_a_reply_may_have() -> None:
    wanted = Allowance(100, 400, Prices(1_000_000, 2_000_000))
    spending = Spending()
    assert spending.allow("a", AgentBudgetSpec(), wanted) == wanted
    assert spending.allow("a", AgentBudgetSpec(max_cost_micros=900), wanted) == wanted
    assert spending.allow("a", AgentBudgetSpec(max_cost_micros=899), wanted).reply_tokens == 399
    assert spending.allow("a", AgentBudgetSpec(max_tokens=300), wanted).reply_tokens == 200
    spending.add("a", TOKENS, Consumption(input_tokens=700, output_tokens=100, cost_micros=5))
    assert spending.allow("a", TOKENS, wanted).reply_tokens == 100
    assert spending.allow("b", TOKENS, wanted) == wanted
    least = 100 + 800 + LEAST_REPLY_TOKENS
    assert spending.allow("a", AgentBudgetSpec(max_tokens=least), wanted).cut
    for budget in (
        AgentBudgetSpec(max_tokens=least - 1),
        AgentBudgetSpec(max_cost_micros=5 + 100 + 2 * LEAST_REPLY_TOKENS - 1),
        AgentBudgetSpec(max_cost_micros=50),
    ):
        with pytest.raises(BudgetExhausted, match="a used"):
            spending.allow("a", budget, wanted)


def test_what_costs_by_its_request_alone_is_allowed_whole_or_not() -> None:
    wanted = Allowance(100, 400, Prices(1_000_000, 0))
    assert wanted.within_cost(100) == wanted
    assert wanted.within_cost(99) is None


def test_it_is_kept_by_the_catalog_and_checked() -> None:
    bound = agent("alice", budget=AgentBudgetSpec(max_tokens=5, max_cost_micros=7))
    assert agent_to_spec(agent_to_proto(bound)) == bound
    assert not agent_to_proto(agent("bob")).HasField("budget")
    with pytest.raises(ValidationError, match="max_tokens"):
        AgentSpec.model_validate({"id": "alice", "budget": {"max_tokens": 0}})
