"""Each mend of AutoGen: what happens without it stands beside what happens with it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from agentmesh_agent_runtime import mends
from agentmesh_agent_runtime.turns import teams
from agentmesh_agent_runtime.turns.failures import TurnFailure
from agentmesh_agent_runtime.turns.line import Line
from agentmesh_agent_runtime.turns.ports import ToolOutput, ToolRequest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams._group_chat._graph._digraph_group_chat import GraphFlowManager
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.agent_runtime.tests import test_team_kinds as team_kinds
from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from tests.support.model_server import ModelServer, Reply, ToolCall


async def echo(request: ToolRequest) -> ToolOutput:
    return ToolOutput(request.arguments_json, is_error=False)


async def calls_that_reach_the_log(server: ModelServer, call: ToolCall) -> int:
    server.reply_with([Reply(tool_calls=(call,)), Reply("done TERMINATE")])
    run = MemoryRun(team(agent("a", tools=("echo",))), [asked()], tools={"echo": echo})
    await asyncio.wait_for(take_all(run, driver(run, server.base_url)), 20)
    return sum(bool(m.parts and m.parts[0].kind == "tool_result") for m in run.said) + len(
        run.tool_calls
    )


@pytest.mark.parametrize("call", [ToolCall("echo", '{"n": '), ToolCall("unknown", "{}")])
async def test_every_call_has_a_recorded_result(
    model_server: ModelServer, call: ToolCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await calls_that_reach_the_log(model_server, call) == 1
    monkeypatch.setattr(teams, "MeshAgent", AssistantAgent)
    assert await calls_that_reach_the_log(model_server, call) == 0, "upstream mended this"


async def test_autogen_puts_no_messages_into_logs(
    model_server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    model_server.reply_with(Reply("a secret word TERMINATE"))

    async def logged() -> bool:
        caplog.clear()
        run = MemoryRun(team(agent("a")), [asked()])
        with caplog.at_level(logging.DEBUG):
            await take_all(run, driver(run, model_server.base_url))
        return any("secret" in record.getMessage() for record in caplog.records)

    assert not await logged()
    quiet = logging.getLogger("autogen_core")
    quiet.setLevel(logging.DEBUG)
    try:
        assert await logged(), "upstream mended this"
    finally:
        quiet.setLevel(logging.CRITICAL)


async def test_autogen_puts_no_messages_into_spans(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autogen_core import _single_threaded_agent_runtime as upstream

    finished = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(finished))
    original = upstream.SingleThreadedAgentRuntime.__init__

    def traced(self: Any, **arguments: Any) -> None:
        original(self, **(arguments | {"tracer_provider": provider}))

    monkeypatch.setattr(upstream.SingleThreadedAgentRuntime, "__init__", traced)
    model_server.reply_with(Reply("done TERMINATE"))

    async def spans() -> int:
        finished.clear()
        run = MemoryRun(team(agent("a")), [asked()])
        await take_all(run, driver(run, model_server.base_url))
        return len(finished.get_finished_spans())

    assert os.environ[mends.NO_RUNTIME_TRACING] == "true"
    assert await spans() == 0
    monkeypatch.setenv(mends.NO_RUNTIME_TRACING, "false")
    assert await spans() > 0, "upstream has another switch"


async def test_a_cycle_goes_on_in_another_process(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = await team_kinds.undisturbed(model_server, "cycle")
    monkeypatch.setattr(mends.MeshGraphManager, "load_state", GraphFlowManager.load_state)
    without = team_kinds.run_of("cycle")
    await take_all(without, driver(without, model_server.base_url))
    assert team_kinds.told(without) != team_kinds.told(calm), "upstream mended #7043"


async def test_members_that_speak_at_once_are_heard_in_order(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Line, "form", lambda self, speakers: None)
    states = []
    for slow in "bc":
        model_server.reply_with(team_kinds.Uneven(slow))
        model_server.chunk_delay = 0.01
        run = team_kinds.run_of("fan-out and join")
        await take_all(run, driver(run, model_server.base_url))
        states.append(team_kinds.kept(run))
    assert states[0] != states[1], "upstream orders them"


def test_a_graph_begins_in_the_order_of_its_members() -> None:
    """In each process: a set of names has another order in each."""
    orders = set()
    for seed in range(8):
        script = (
            "from services.agent_runtime.tests.test_team_kinds import KINDS\n"
            "from agentmesh_agent_runtime.definitions.graphs import digraph\n"
            "graph = digraph(KINDS['two beginnings'][0].graph, ['y', 'x', 'z'])\n"
            "print(','.join(graph.get_start_nodes()))"
        )
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        found = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, check=True
        )
        orders.add(found.stdout)
    assert len(orders) == 2, "upstream orders them"


async def test_an_orchestrator_goes_on_in_another_process(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mends.MeshOrchestrator, "handle_start", mends._BEGIN)
    model_server.reply_with(team_kinds.orchestrate)
    run = team_kinds.run_of("magentic one")
    turns = driver(run, model_server.base_url, stall_seconds=2.0)
    await take_turn(run, turns)
    with pytest.raises(TurnFailure):
        await take_turn(run, turns)
