"""What becomes of a turn whose model server fails: asked again, reported, never silent."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from agentmesh_agent_runtime.turns.failures import (
    BudgetExhausted,
    DeadlinePassed,
    EndReason,
    HandedOver,
    LeaseLost,
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
    TurnStalled,
)
from agentmesh_agent_runtime.turns.ports import ToolOutput, ToolRequest
from agentmesh_agent_runtime.turns.scope import TurnScope

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall


def one_agent(**fields: object) -> MemoryRun:
    return MemoryRun(team(agent("alice", **fields)), [asked()])


async def failure(server: ModelServer, **fields: Any) -> TurnFailure:
    run = one_agent()
    with pytest.raises(TurnFailure) as caught:
        await take_turn(run, driver(run, server.base_url, **fields))
    assert run.said == [], "a failed reply was recorded"
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind", "calls"),
    [
        (Fault(status=400, message="no such parameter"), ModelRefused, 1),
        (Fault(status=404, message="no such model"), ModelRefused, 1),
        (Fault(status=401, message="bad key sk-abcdefgh123"), ModelCredentialsRefused, 1),
        (Fault(status=403), ModelCredentialsRefused, 1),
        (Fault(status=429, code="insufficient_quota"), ModelRefused, 1),
        (Fault(status=429, headers={"Retry-After": "0"}), ModelFailed, 3),
        (Fault(status=500), ModelFailed, 3),
        (Fault(status=503), ModelFailed, 3),
        (Fault(stream="drop", after_chunks=0), ModelFailed, 3),
        (Fault(stream="drop", after_chunks=3), ModelFailed, 1),
        (Fault(stream="end", after_chunks=3), ModelFailed, 1),
        (Fault(stream="garbage", after_chunks=3), ModelFailed, 1),
        (Fault(stream="error", after_chunks=3), ModelFailed, 1),
    ],
)
async def test_each_failure_has_its_kind(
    model_server: ModelServer, fault: Fault, kind: type[TurnFailure], calls: int
) -> None:
    model_server.reply_with(Reply("one two three four five"))
    model_server.fail_next(fault, fault, fault)
    error = await failure(model_server)
    assert type(error) is kind
    assert len(model_server.requests) == calls
    assert "Traceback" not in error.detail
    assert "sk-abcdefgh" not in error.detail


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401, message="bad key gsk_Abc123 here"),
        Fault(status=400, message="bad key gsk_Abc123 here"),
        Fault(stream="error", after_chunks=3, message="bad key gsk_Abc123 here"),
    ],
)
async def test_the_configured_key_is_never_repeated(
    model_server: ModelServer, fault: Fault
) -> None:
    model_server.reply_with(Reply("one two three"))
    model_server.fail_next(fault)
    error = await failure(model_server, api_key="gsk_Abc123")
    assert "gsk_Abc123" not in error.detail
    assert "bad key [key] here" in error.detail


async def test_a_passing_failure_is_asked_again_and_leaves_no_trace(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(Reply("well TERMINATE"))
    model_server.fail_next(Fault(status=500), Fault(status=429, headers={"retry-after-ms": "20"}))
    run = one_agent()
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.TERMINATED
    assert len(model_server.requests) == 3
    assert list(run.streamed().values()) == ["well TERMINATE"]


async def test_a_long_retry_after_is_left_to_the_store(model_server: ModelServer) -> None:
    model_server.fail_next(Fault(status=429, headers={"Retry-After": "120"}))
    error = await failure(model_server)
    assert error.retryable
    assert error.retry_after == 120
    assert len(model_server.requests) == 1


async def test_a_stalled_stream_is_given_up(model_server: ModelServer) -> None:
    model_server.reply_with(Reply("one two three"))
    model_server.fail_next(Fault(stream="stall", after_chunks=2))
    error = await failure(model_server, reply_timeout=0.3)
    assert isinstance(error, ModelFailed)
    assert "in time" in error.detail


@pytest.mark.parametrize("reply", [Reply(""), Reply(" \n ")])
async def test_an_empty_reply_is_no_success(model_server: ModelServer, reply: Reply) -> None:
    model_server.reply_with(reply)
    error = await failure(model_server)
    assert isinstance(error, ModelFailed)
    assert "empty" in error.detail


async def test_a_server_that_is_not_there(model_server: ModelServer) -> None:
    run = one_agent()
    with pytest.raises(ModelFailed, match="connection"):
        await take_turn(run, driver(run, "http://127.0.0.1:9/v1"))


async def test_cancel_stops_a_model_call_at_once(model_server: ModelServer) -> None:
    model_server.fail_next(Fault(stream="stall", after_chunks=1))
    run = one_agent()
    scopes: list[TurnScope] = []
    turn = asyncio.create_task(
        take_turn(run, driver(run, model_server.base_url), opened=scopes.append)
    )
    async with asyncio.timeout(5):
        while not model_server.open_streams:
            await asyncio.sleep(0.01)
        scopes[0].stop(LeaseLost("cancelled"))
        with pytest.raises(LeaseLost):
            await turn
        while model_server.open_streams:
            await asyncio.sleep(0.01)
    assert len(model_server.requests) == 1


async def slow(request: ToolRequest) -> ToolOutput:
    await asyncio.sleep(3600)
    raise AssertionError


async def broken(request: ToolRequest) -> ToolOutput:
    raise ConnectionError("gone")


async def test_cancel_during_a_tool_call_does_not_hang(model_server: ModelServer) -> None:
    model_server.reply_with(Reply(tool_calls=(ToolCall("slow", "{}"),)))
    run = MemoryRun(team(agent("alice", tools=("slow",))), [asked()], tools={"slow": slow})
    scopes: list[TurnScope] = []
    turn = asyncio.create_task(
        take_turn(run, driver(run, model_server.base_url), opened=scopes.append)
    )
    async with asyncio.timeout(5):
        while not run.tool_calls:
            await asyncio.sleep(0.01)
        scopes[0].stop(LeaseLost("cancelled"))
        with pytest.raises(LeaseLost):
            await turn
    assert len(model_server.requests) == 1, "the model was asked again after the cancel"


async def test_a_tool_caller_that_raises_does_not_hang(model_server: ModelServer) -> None:
    model_server.reply_with(Reply(tool_calls=(ToolCall("broken", "{}"),)))
    run = MemoryRun(team(agent("alice", tools=("broken",))), [asked()], tools={"broken": broken})
    with pytest.raises(TurnFailure, match="gone") as caught:
        await asyncio.wait_for(take_turn(run, driver(run, model_server.base_url)), 5)
    assert caught.value.retryable


async def test_a_turn_without_progress_is_ended(model_server: ModelServer) -> None:
    model_server.fail_next(Fault(stream="stall", after_chunks=1))
    run = one_agent()
    began = time.monotonic()
    with pytest.raises(TurnStalled, match="alice asks test-model"):
        await take_turn(run, driver(run, model_server.base_url, stall_seconds=0.3))
    assert time.monotonic() - began < 10


async def test_a_deadline_ends_the_turn(model_server: ModelServer) -> None:
    from dataclasses import replace
    from datetime import UTC, datetime, timedelta

    model_server.fail_next(Fault(stream="stall", after_chunks=1))
    run = one_agent()
    grant = replace(run.grant(), deadline=datetime.now(UTC) + timedelta(seconds=0.2))
    turns = driver(run, model_server.base_url)
    with pytest.raises(DeadlinePassed):
        await turns.take(turns.open(grant, run.ports(grant)), None)


async def test_a_drain_hands_over_before_the_next_step(model_server: ModelServer) -> None:
    async def quick(request: ToolRequest) -> ToolOutput:
        scopes[0].hand_over()
        return ToolOutput("ok", is_error=False)

    model_server.reply_with([Reply(tool_calls=(ToolCall("quick", "{}"),)), Reply("x TERMINATE")])
    run = MemoryRun(team(agent("alice", tools=("quick",))), [asked()], tools={"quick": quick})
    scopes: list[TurnScope] = []
    turns = driver(run, model_server.base_url)
    with pytest.raises(HandedOver):
        await take_turn(run, turns, opened=scopes.append)
    assert len(model_server.requests) == 1
    assert await take_all(run, turns) is EndReason.TERMINATED
    assert len(model_server.requests) == 2, "a recorded reply was asked for again"
    assert len(run.tool_calls) == 1


async def test_an_exhausted_budget_ends_the_run(model_server: ModelServer) -> None:
    run = one_agent()
    grant = run.grant()
    ports = run.ports(grant)

    class Broke:
        async def begin(self, claim: object) -> bytes | None:
            raise BudgetExhausted("no tokens left")

        async def record(self, result: object) -> None:
            raise AssertionError

    turns = driver(run, model_server.base_url)
    scope = turns.open(grant, replace(ports, steps=Broke()))
    with pytest.raises(BudgetExhausted):
        await turns.take(scope, None)
    assert model_server.requests == []
