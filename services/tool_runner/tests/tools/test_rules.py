"""What agents may say of their tools: time, repetitions, how many at once, results kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1 import message_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.server import ToolRunner
from google.protobuf.json_format import MessageToDict
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, raises_rich

from services.tool_runner.tests.conftest import Mesh, orphan, settings, until
from services.tool_runner.tests.memory_store import MemoryStore

OK, ERROR = message_pb2.TOOL_OUTCOME_OK, message_pb2.TOOL_OUTCOME_ERROR
FAILURE = message_pb2.ToolFailure


@pytest.fixture
async def mesh(
    packages: Path,
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
) -> AsyncIterator[Mesh]:
    """A runner with odd-tools."""
    store, host = store_host
    runner = ToolRunner(settings(tmp_path, host.grpc_address, tool_packages="odd-tools"))
    await runner.host.start()
    yield Mesh(runner, store, mesh_hosts.channels())
    await runner.host.stop()


async def call(
    mesh: Mesh, tool: str, arguments: dict[str, Any], call_id: str = "", **rules: Any
) -> message_pb2.ToolResultPart:
    """Calls a tool with what its agent says of it."""
    request = pb.CallToolRequest(
        turn=1,
        tool_call_id=call_id or f"call_{len(mesh.store.steps)}",
        tool=tool,
        arguments_json=json.dumps(arguments),
        agent="developer",
        message_id="msg_1",
    )
    for name, value in rules.items():
        if name in ("timeout", "cache_ttl"):
            getattr(request, name).FromMilliseconds(round(value * 1000))
        else:
            setattr(request, name, value)
    items = [item async for item in mesh.stub.CallTool(request, metadata=mesh.worker())]
    part: message_pb2.ToolResultPart = items[-1].finished.result
    return part


async def test_tools_of_packages_work_on_the_files_of_the_conversation(mesh: Mesh) -> None:
    await call(mesh, "code_writer", {"path": "a/b.txt", "content": "one\n"})
    noted = await call(mesh, "note", {"path": "a/b.txt", "text": "two\n"})
    assert noted.outcome == OK, noted.output
    assert "a/b.txt:8" in json.loads(noted.output)
    read = await call(mesh, "file_manager", {"action": "read", "path": "a/b.txt"})
    assert read.output == "one\ntwo\n"
    carried = await call(mesh, "carry", {"path": "large"})
    assert (carried.outcome, carried.output) == (OK, "9000000")
    for path, error in {
        "../x": "PermissionError",
        "/etc/passwd": "PermissionError",
        "nowhere": "FileNotFoundError",
        "a": "IsADirectoryError",
    }.items():
        assert (await call(mesh, "lead_out", {"path": path})).output == error


async def test_progress_is_live_output(mesh: Mesh) -> None:
    called = await mesh.call("note", path="x", text="y")
    assert called.output == "writing x\n"


async def test_schemas_of_arguments_and_results_are_listed_and_published(mesh: Mesh) -> None:
    answer = await mesh.stub.ListTools(pb.ListToolsRequest(), metadata=mesh.user())
    tools = {tool.name: tool for tool in answer.tools}
    assert list(tools) == sorted(tools)
    add = tools["add"]
    assert MessageToDict(add.output_schema)["required"][0] == "total"
    assert MessageToDict(add.parameters)["required"][0] == "points"
    assert (add.origin, add.cacheable, add.retries, add.concurrency) == (
        "odd-tools 1.2",
        True,
        1,
        3,
    )
    assert add.timeout.ToSeconds() == 20
    assert tools["code_executor"].output_schema["type"] == "object"
    assert tools["code_writer"].origin == ""
    assert not {"ask_human", "transfer_to_reviewer"} & set(tools)
    await until(lambda: mesh.store.documents, "published")
    assert {document.name for document in mesh.store.documents} == set(tools)


async def test_a_failure_that_may_pass_is_tried_again(mesh: Mesh, tmp_path: Path) -> None:
    again = await call(mesh, "flaky", {"path": str(tmp_path / "a"), "until": 3}, retries=2)
    assert (again.outcome, again.output, again.attempts) == (OK, "3", 3)
    died = {"path": str(tmp_path / "b"), "until": 2, "how": "die"}
    again = await call(mesh, "flaky", died, retries=1)
    assert (again.outcome, again.output, again.attempts) == (OK, "2", 2)
    spent = await call(mesh, "flaky", {"path": str(tmp_path / "c"), "until": 9}, retries=1)
    assert (spent.outcome, spent.attempts) == (ERROR, 2)
    assert spent.failure == FAILURE.TOOL_FAILURE_RAISED
    once = await call(mesh, "flaky", {"path": str(tmp_path / "d"), "until": 2})
    assert (once.outcome, once.attempts) == (ERROR, 1)


async def test_what_may_not_be_repeated_is_not_unless_nothing_was_done(
    mesh: Mesh, tmp_path: Path
) -> None:
    for how in ("raise", "die"):
        arguments = {"path": str(tmp_path / how), "until": 2, "how": how}
        once = await call(mesh, "flaky_once", arguments, retries=3)
        assert (once.outcome, once.attempts) == (ERROR, 1)
        assert (tmp_path / how).read_text() == "x"
    arguments = {"path": str(tmp_path / "retry"), "until": 2, "how": "retry"}
    again = await call(mesh, "flaky_once", arguments, retries=3)
    assert (again.outcome, again.attempts) == (OK, 2)


async def test_wrong_arguments_are_not_tried_again(mesh: Mesh) -> None:
    wrong = await call(mesh, "flaky", {"path": 1}, retries=3)
    assert (wrong.failure, wrong.attempts) == (FAILURE.TOOL_FAILURE_ARGUMENTS, 1)
    paths = [violation["path"] for violation in MessageToDict(wrong.detail)["violations"]]
    assert paths == ["path", "until"]
    replayed = await call(mesh, "flaky", {"path": 1}, call_id="call_0")
    assert replayed == wrong


async def test_a_retry_that_is_cancelled_ends(mesh: Mesh, tmp_path: Path) -> None:
    arguments = {"path": str(tmp_path / "a"), "until": 1000}
    running = asyncio.ensure_future(call(mesh, "flaky", arguments, retries=10))
    await until((tmp_path / "a").exists, "begun")
    await mesh.store.watched.wait()
    mesh.store.raise_fence("run_1", "acme")
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await running
    times = (tmp_path / "a").read_text()
    assert len(times) < 11


async def test_the_time_of_an_agent_bounds_each_attempt(mesh: Mesh, tmp_path: Path) -> None:
    arguments = {"how": "plain", "marker": str(tmp_path)}
    slow = await call(mesh, "hang", arguments, timeout=0.5)
    assert slow.failure == FAILURE.TOOL_FAILURE_TIMEOUT
    assert "took longer than 0.5 s" in slow.output


async def test_an_agents_calls_wait_for_each_other(mesh: Mesh, tmp_path: Path) -> None:
    code = (
        "import os, time\nopen('in', 'x').close()\ntime.sleep(0.2)\nos.remove('in')\nprint('alone')"
    )
    calls = [
        call(mesh, "code_executor", {"code": code}, call_id=f"c{number}", concurrency=1)
        for number in range(3)
    ]
    assert {part.output for part in await asyncio.gather(*calls)} == {"exit code 0\nalone"}


async def test_results_are_kept_only_where_agent_and_tool_agree(mesh: Mesh) -> None:
    arguments = {"points": [{"x": 1, "y": 2}]}
    first = await call(mesh, "add", arguments, cache_ttl=60)
    assert not first.cached
    same = {"points": [{"y": 2, "x": 1}]}
    second = await call(mesh, "add", same, cache_ttl=60)
    assert second.cached
    assert second.detail == first.detail
    assert not (await call(mesh, "add", arguments)).cached
    assert not (await call(mesh, "add", {"points": []}, cache_ttl=60)).cached
    for _ in range(2):
        assert not (await call(mesh, "pid", {}, cache_ttl=60)).cached
    await asyncio.sleep(0.02)
    assert not (await call(mesh, "add", arguments, cache_ttl=0.01)).cached


async def test_an_orphan_whose_tool_is_gone_is_unknown(mesh: Mesh) -> None:
    for tool, outcome in {
        "gone": message_pb2.TOOL_OUTCOME_UNKNOWN,
        "custom_tool": message_pb2.TOOL_OUTCOME_UNKNOWN,
        "add": OK,
    }.items():
        mesh.store.steps.clear()
        await orphan(mesh, tool, '{"points": []}')
        part = await call(mesh, tool, {"points": []}, call_id="call_1")
        assert part.outcome == outcome, tool


async def test_bad_wishes_are_refused(mesh: Mesh) -> None:
    bad: dict[str, Any] = {"retries": 11, "concurrency": -1, "cache_ttl": -1, "timeout": -1}
    for name, value in bad.items():
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            await call(mesh, "add", {"points": []}, **{name: value})
    assert mesh.store.steps == {}


async def test_a_tool_that_lies_about_its_result_has_failed(mesh: Mesh) -> None:
    part = await call(mesh, "lies", {"how": "shape"}, retries=3)
    assert (part.outcome, part.failure) == (ERROR, FAILURE.TOOL_FAILURE_OUTPUT)
    violations = MessageToDict(part.detail)["violations"]
    assert (violations[0]["path"], part.attempts) == ("total.x", 1)


async def test_results_that_no_message_can_hold_are_recorded_all_the_same(mesh: Mesh) -> None:
    for what in ("deep", "surrogate", "nan"):
        part = await call(mesh, "anything", {"what": what})
        assert part.outcome == OK, part.output


async def test_tools_without_files_need_no_sandbox(
    packages: Path,
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
) -> None:
    store, host = store_host
    values = {"tool_packages": "odd-tools", "code_execution": "none"}
    runner = ToolRunner(settings(tmp_path, host.grpc_address, **values))
    await runner.host.start()
    try:
        mesh = Mesh(runner, store, mesh_hosts.channels())
        assert (await call(mesh, "custom_tool", {"query": "q"})).outcome == OK
        with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "SANDBOX_UNAVAILABLE"):
            await call(mesh, "note", {"path": "a", "text": "b"})
        unknown = await call(mesh, "no_such_tool", {})
        assert "there is no tool 'no_such_tool'" in unknown.output
    finally:
        await runner.host.stop()
