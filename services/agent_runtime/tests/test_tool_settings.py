"""What an agent says of its tools, from its definition to the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agentmesh.catalog.v1 import agent_pb2
from agentmesh_agent_runtime.adapters.definitions import agent_to_proto, agent_to_spec
from agentmesh_agent_runtime.adapters.tools import message_of
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError, load_agents_and_teams
from agentmesh_agent_runtime.turns.ports import ToolOutput, ToolRequest

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    team,
)
from tests.support.model_server import ModelServer, Reply, ToolCall

SETTINGS: dict[str, Any] = {"timeout": 2.5, "retries": 2, "concurrency": 1, "cache_seconds": 60.0}


async def echo(request: ToolRequest) -> ToolOutput:
    return ToolOutput("heard", is_error=False)


async def test_what_an_agent_says_of_a_tool_goes_with_its_calls(model_server: ModelServer) -> None:
    model_server.reply_with(
        [
            Reply(tool_calls=(ToolCall("echo", "{}", "c1"), ToolCall("other", "{}", "c2"))),
            Reply("done TERMINATE"),
        ]
    )
    alice = agent("alice", tools=("echo", "other"), tool_config={"echo": SETTINGS})
    run = MemoryRun(team(alice), [asked()], tools={"echo": echo, "other": echo})
    await take_all(run, driver(run, model_server.base_url))
    calls = {call.tool: call for call in run.tool_calls}
    with_settings, without = message_of(calls["echo"], 7), message_of(calls["other"], 7)
    assert (with_settings.turn, with_settings.retries, with_settings.concurrency) == (7, 2, 1)
    assert with_settings.timeout.ToMilliseconds() == 2500
    assert with_settings.cache_ttl.ToSeconds() == 60
    for field in ("timeout", "retries", "cache_ttl"):
        assert not without.HasField(field)
    assert without.concurrency == 0


def test_settings_of_tools_survive_the_catalog(tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(
        "a:\n  tools: [t]\n  tool_config:\n"
        "    t: {timeout: 2.5, retries: 2, concurrency: 1, cache_seconds: 60}\n"
    )
    (one,), _ = load_agents_and_teams(file)
    proto = agent_to_proto(one)
    assert proto.tool_config["t"] == agent_pb2.ToolConfig(enabled=True, **SETTINGS)
    assert agent_to_spec(proto) == one


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("retries: 11", "retries"),
        ("concurrency: 0", "concurrency"),
        ("cache_seconds: -1", "cache_seconds"),
        ("timeout: 0", "timeout"),
        ("cache: 5", "cache"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_place(
    tmp_path: Path, setting: str, words: str
) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(f"a:\n  tools: [t]\n  tool_config:\n    t: {{{setting}}}\n")
    with pytest.raises(DefinitionError, match=rf":4: a\.tool_config\.t\.{words}: "):
        load_agents_and_teams(file)
