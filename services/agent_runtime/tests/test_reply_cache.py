"""The reply cache of a profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from agentmesh_agent_runtime.models.endpoints import Endpoint
from agentmesh_agent_runtime.models.replies import ModelReply
from agentmesh_agent_runtime.models.reply_cache import CachedReplySource, ReplyCache
from agentmesh_agent_runtime.turns.driver import TurnDriver
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
)
from agentmesh_agent_runtime.turns.images import ShownImage
from agentmesh_agent_runtime.turns.ports import Consumption, ToolOutput, ToolRequest
from autogen_core.models import SystemMessage, UserMessage

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    team,
)
from services.agent_runtime.tests.test_profile_policies import LAST, Counting, alice, request
from services.agent_runtime.tests.test_profiles import profile
from tests.support.model_server import ModelServer, Reply, ToolCall


def cached_turns(run: MemoryRun, server: ModelServer, **fields: Any) -> TurnDriver:
    cached = profile(
        base_url=server.base_url,
        cache_replies=True,
        input_price_micros=10**6,
        **fields,
    )
    return driver(run, profiles=[cached])


async def test_an_equal_request_gets_the_kept_reply_and_uses_nothing(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(Reply("done TERMINATE", reasoning="hm well"))
    runs = [alice(), alice(), alice(temperature=0.9)]
    turns = cached_turns(runs[0], model_server)
    for run in runs:
        assert await take_all(run, turns) is EndReason.TERMINATED
    assert len(model_server.requests) == 2
    first, again, other = (run.recorded[0] for run in runs)
    assert first.usage.cost_micros > 0
    assert again.usage == Consumption()
    assert ModelReply.decode(again.result).cached
    assert not ModelReply.decode(other.result).cached
    assert runs[1].texts() == runs[0].texts()
    assert list(runs[1].streamed().values()) == ["done TERMINATE"]


async def test_no_reply_is_kept_for_another_tenant(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_server.reply_with(LAST)
    run = alice()
    turns = cached_turns(run, model_server)
    for tenant in ("one", "two", "one"):
        grant = run.grant()
        grant = replace(grant, id=replace(grant.id, tenant=tenant))
        await turns.take(turns.open(grant, run.ports(grant)), None)
        run.steps.clear()
    assert len(model_server.requests) == 2


def tool(name: str, description: str = "") -> Any:
    return {"name": name, "description": description, "parameters": {}}


def shown(data: bytes) -> list[UserMessage]:
    return [UserMessage(content=["x", ShownImage("image/png", data)], source="user")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"messages": [UserMessage(content="hello!", source="user")]}),
        ({}, {"messages": [SystemMessage(content="hello")]}),
        ({"messages": shown(b"1")}, {"messages": shown(b"2")}),
        ({}, {"tools": [tool("a")]}),
        ({"tools": [tool("a")]}, {"tools": [tool("a", "Does it.")]}),
        ({"tools": [tool("a")]}, {"tools": [tool("a")], "tool_choice": "none"}),
        ({}, {"json_output": True}),
        ({}, {"output_schema": {"type": "object"}}),
        ({"output_schema": {"type": "object"}}, {"output_schema": {"type": "object", "a": 1}}),
        ({}, {"tenant": "other"}),
    ],
)
async def test_a_request_that_differs_in_anything_is_another(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    model = Counting()
    source = CachedReplySource(model, Endpoint("m"), ReplyCache())
    said = []
    for fields in (one, other, one, other):
        *_, last = [item async for item in source.stream(request(**fields))]
        assert isinstance(last, ModelReply)
        said.append(last.text)
    assert said == ["reply 1", "reply 2", "reply 1", "reply 2"]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"base_url": "http://elsewhere"},
        {"temperature": 0.5},
        {"max_tokens": 5},
        {"extra": {"seed": 1}},
    ],
)
async def test_a_model_that_is_asked_in_another_way_is_another(other: dict[str, Any]) -> None:
    model, cache = Counting(), ReplyCache()
    for endpoint in (Endpoint("m"), replace(Endpoint("m"), **other), Endpoint("m")):
        async for _ in CachedReplySource(model, endpoint, cache).stream(request()):
            pass
    assert model.asked == 2


async def test_kept_tool_calls_are_carried_out_again(model_server: ModelServer) -> None:
    async def tool(request: ToolRequest) -> ToolOutput:
        return ToolOutput("fine", is_error=False)

    def run() -> MemoryRun:
        spec = team(agent("alice", llm_config={"profile": "fast"}, tools=("probe",)))
        return MemoryRun(spec, [asked()], tools={"probe": tool})

    model_server.reply_with([Reply(tool_calls=(ToolCall("probe", "{}"),)), LAST])
    first, second = run(), run()
    turns = cached_turns(first, model_server)
    await take_all(first, turns)
    await take_all(second, turns)
    assert len(model_server.requests) == 2
    assert len(second.tool_calls) == 1


async def test_without_being_asked_to_nothing_is_kept(model_server: ModelServer) -> None:
    model_server.reply_with(LAST)
    runs = [alice(), alice()]
    turns = driver(runs[0], profiles=[profile(base_url=model_server.base_url)])
    for run in runs:
        await take_all(run, turns)
    assert len(model_server.requests) == 2


async def test_a_reply_that_was_cut_off_is_not_kept(model_server: ModelServer) -> None:
    model_server.reply_with(Reply("done TERMINATE", finish_reason="length"))
    runs = [alice(), alice()]
    turns = cached_turns(runs[0], model_server)
    for run in runs:
        await take_all(run, turns)
    assert len(model_server.requests) == 2


def test_a_cache_is_bounded_in_entries_and_bytes() -> None:
    cache = ReplyCache(most_entries=2, most_bytes=10_000)
    for name in (b"a", b"b"):
        cache.put(name, ModelReply(text="x"))
    assert cache.get(b"a")
    cache.put(b"c", ModelReply(text="x"))
    assert cache.get(b"b") is None, "the one used last was dropped"
    assert cache.get(b"a")
    cache.put(b"d", ModelReply(text="y" * 9_700))
    assert len(cache) == 1
    cache.put(b"e", ModelReply(text="y" * 20_000))
    assert cache.get(b"e") is None
    assert cache.get(b"d")
    cache.put(b"d", ModelReply(text="z"))
    cache.put(b"f", ModelReply(text="y" * 9_000))
    assert len(cache) == 2, "the bytes of a replaced reply still count"
