"""Tools of the example package in a whole mesh: allowed, listed over REST, called by a model."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from agentmesh.conversation.v1 import message_pb2
from google.protobuf.json_format import MessageToDict

from tests.support.conversations import follow, run_end, tool_results
from tests.support.example_package import NAME, install_example
from tests.support.mesh import Mesh

MeshFactory = Callable[..., Awaitable[Mesh]]

SCRIPT = """
rules:
  - name: write
    when: {agent: ^asker$, task: "(?i)everything"}
    say: I begin.
    call: [{tool: code_writer, arguments: {path: docs/a.txt, content: "in the file"}}]
  - name: read
    when: {agent: ^asker$, after: {tool: ^code_writer$}}
    say: I read.
    call: [{tool: read_file, arguments: {file_path: docs/a.txt}}]
  - name: ask the database
    when: {agent: ^asker$, after: {tool: ^read_file$, result: "^in the file$"}}
    say: I ask.
    call: [{tool: query_database, arguments: {sql_query: "SELECT fact FROM facts"}}]
  - name: ask whom nobody answers
    when: {agent: ^asker$, after: {tool: ^query_database$, result: wrote programs}}
    say: I call.
    call: [{tool: call_external_api, arguments: {endpoint: /x}}]
  - name: ask wrongly
    when: {agent: ^asker$, after: {tool: ^call_external_api$, result: "^API call failed"}}
    say: I ask wrongly.
    call: [{tool: custom_tool, arguments: {query: 7}}]
  - name: ask rightly
    when: {agent: ^asker$, after: {tool: ^custom_tool$, result: "query: "}}
    say: I ask rightly.
    call: [{tool: custom_tool, arguments: {query: a b, options: {upper: true}}}]
  - name: tell
    when: {agent: ^asker$, after: {tool: ^custom_tool$}}
    say: "{{result}} TERMINATE"
"""
TOOLS = ["code_writer", "read_file", "query_database", "call_external_api", "custom_tool"]
CALLED = [*TOOLS, "custom_tool"]


async def test_a_model_calls_tools_of_a_package(
    meshes: MeshFactory, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    facts = tmp_path / "facts.sqlite"
    with closing(sqlite3.connect(facts)) as database:
        database.execute("CREATE TABLE facts (fact TEXT)")
        database.execute("INSERT INTO facts VALUES ('wrote programs')")
        database.commit()
    facts.chmod(0o644)
    (tmp_path / "script.yaml").write_text(SCRIPT)
    mesh = await meshes(
        agent_runtime={"AGENTMESH_SCRIPT_FILE": str(tmp_path / "script.yaml")},
        tool_runner={
            "PYTHONPATH": str(install_example(tmp_path_factory.mktemp("example"))),
            "AGENTMESH_TOOL_PACKAGES": NAME,
            "AGENTMESH_TOOL_WORKER_ENV": "EXAMPLE_DATABASE, EXAMPLE_API",
            "EXAMPLE_API": "http://127.0.0.1:9",
            "EXAMPLE_DATABASE": str(facts),
        },
    )
    async with httpx.AsyncClient(base_url=mesh.rest_url, timeout=30) as http:
        listed = {tool["name"]: tool for tool in (await http.get("/tools")).json()["tools"]}
        assert listed["query_database"]["output_schema"]["required"] == ["columns", "rows"]
        assert listed["custom_tool"]["parameters"]["required"] == ["query"]
        assert listed["custom_tool"]["origin"] == f"{NAME} 0.1.0"
        assert listed["test_runner"]["output_schema"]["type"] == "object"
        config: dict[str, Any] = {
            "llm_config": {"model": "scripted"},
            "tools": TOOLS,
            "tool_config": {"custom_tool": {"enabled": True, "timeout": 30, "retries": 11}},
        }
        refused = await http.post("/agents/register", json={"name": "asker", "config": config})
        assert refused.status_code == 400
        assert "retries" in refused.text
        config["tool_config"]["custom_tool"] |= {"retries": 3, "cache_seconds": 60}
        config["tool_config"]["call_external_api"] = {"retries": 1}
        accepted = await http.post("/agents/register", json={"name": "asker", "config": config})
        assert accepted.status_code == 200, accepted.text
    for cached in (False, True):
        started = await mesh.start_conversation("Everything", ["asker"])
        events = await follow(mesh.channel(), started.conversation_id)
        results = tool_results(events)
        assert [part.tool for part in results] == CALLED
        unanswered, wrong, right = results[-3:]
        assert (unanswered.outcome, unanswered.attempts) == (message_pb2.TOOL_OUTCOME_ERROR, 2)
        assert wrong.failure == message_pb2.TOOL_FAILURE_ARGUMENTS
        (violation,) = MessageToDict(wrong.detail)["violations"]
        assert violation["path"] == "query"
        assert (right.outcome, right.cached) == (message_pb2.TOOL_OUTCOME_OK, cached)
        assert MessageToDict(results[2].detail)["rows"] == [["wrote programs"]]
        assert "Custom operation result: B A" in run_end(events).summary
