"""Tool calls as recorded steps: once each, whoever dies or comes back."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from agentmesh.conversation.v1 import message_pb2, stream_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox import sandlock
from agentmesh_tool_runner.server import ToolRunner
from agentmesh_tool_runner.tools.builtin import TOOLS
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, raises_rich

from .conftest import CONVERSATION, RUN, TENANT, Mesh, orphan, settings, until
from .memory_store import MemoryStore
from .processes import sleepers

APPEND = "printf x >> count; cat count"


async def test_a_call_is_recorded_before_it_is_answered(mesh: Mesh) -> None:
    called = await mesh.call("code_executor", code="print('hello')")
    assert not called.replayed
    assert called.output == "hello\n"
    assert called.result.outcome == message_pb2.TOOL_OUTCOME_OK
    assert called.result.output == "exit code 0\nhello"
    assert called.result.detail["exit_code"] == 0
    assert called.items[-1].finished.sequence == 1
    [record] = mesh.store.recorded
    [event] = record.events
    assert event.message.role == message_pb2.MESSAGE_ROLE_TOOL
    assert event.message.message_id == "msg_call_code_executor"
    assert event.message.agent == "developer"
    assert event.message.parts[0].tool_result == called.result
    assert record.result == called.result.SerializeToString(deterministic=True)
    assert record.usage.tool_calls == 1
    assert record.usage.sandbox_cpu_ms > 0


async def test_a_recorded_call_answers_with_its_record_and_runs_nothing(mesh: Mesh) -> None:
    arguments = {"language": "shell", "code": APPEND}
    first = await mesh.call("code_executor", **arguments)
    second = await mesh.call("code_executor", **arguments)
    assert second.replayed
    assert second.result == first.result
    assert len(mesh.store.recorded) == 1
    third = await mesh.call("code_executor", call_id="call_2", language="shell", code="cat count")
    assert third.result.output == "exit code 0\nx"


async def test_other_arguments_under_the_same_id_diverge(mesh: Mesh) -> None:
    await mesh.call("code_executor", code="print(1)")
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "REPLAY_DIVERGED"):
        await mesh.call("code_executor", code="print(2)")


async def test_the_same_call_twice_at_once_runs_once(mesh: Mesh) -> None:
    arguments = {"language": "shell", "code": f"sleep 0.3; {APPEND}"}
    both = await asyncio.gather(*(mesh.call("code_executor", **arguments) for _ in range(2)))
    assert {called.result.output for called in both} == {"exit code 0\nx"}
    assert {called.output for called in both} == {"x"}
    assert len(mesh.store.recorded) == 1


async def test_leaving_the_stream_does_not_end_the_call(mesh: Mesh) -> None:
    arguments = json.dumps({"language": "shell", "code": f"echo go; sleep 0.3; {APPEND}"})
    stream = mesh.start_call("code_executor", arguments, "call_1")
    async for item in stream:
        if item.output.data:
            break
    stream.cancel()
    await until(lambda: mesh.store.recorded, "recorded")
    again = await mesh.call_raw("code_executor", arguments, "call_1")
    assert again.replayed
    assert again.result.output == "exit code 0\ngo\nx"


async def test_the_next_worker_joins_what_still_runs(mesh: Mesh) -> None:
    arguments = json.dumps({"language": "shell", "code": f"echo go; sleep 0.5; {APPEND}"})
    stream = mesh.start_call("code_executor", arguments, "call_1")
    async for item in stream:
        if item.output.data:
            break
    mesh.store.fence = 2  # as a grant to another worker does: nobody is told to stop
    joined = await mesh.call_raw("code_executor", arguments, "call_1")
    assert joined.result.output == "exit code 0\ngo\nx"
    assert joined.output == "go\nx"
    assert len(mesh.store.recorded) == 1
    assert mesh.store.steps[1, "call_1"].fence == 2


async def test_a_result_that_could_not_be_recorded_is_kept_for_the_next_worker(mesh: Mesh) -> None:
    arguments = json.dumps({"language": "shell", "code": f"sleep 0.2; {APPEND}"})
    call = asyncio.create_task(mesh.call_raw("code_executor", arguments, "call_1"))
    await until(lambda: mesh.store.steps, "claimed")
    mesh.store.fence = 2
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await call
    again = await mesh.call_raw("code_executor", arguments, "call_1")
    assert again.result.output == "exit code 0\nx"


async def test_a_store_that_is_away_for_a_record_costs_no_second_run(mesh: Mesh) -> None:
    mesh.store.down_for_records = 100
    arguments = json.dumps({"language": "shell", "code": APPEND})
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await mesh.call_raw("code_executor", arguments, "call_1")
    mesh.store.down_for_records = 0
    again = await mesh.call_raw("code_executor", arguments, "call_1")
    assert again.result.output == "exit code 0\nx"
    assert len(mesh.store.recorded) == 1


async def test_an_orphan_that_may_not_be_repeated_is_unknown(mesh: Mesh) -> None:
    call = json.dumps({"language": "shell", "code": APPEND})
    await orphan(mesh, "code_executor", call)
    called = await mesh.call_raw("code_executor", call, "call_1")
    assert called.result.outcome == message_pb2.TOOL_OUTCOME_UNKNOWN
    assert "not known" in called.result.output
    assert len(mesh.store.recorded) == 1
    seen = await mesh.call("file_manager", action="list")
    assert seen.result.output == "no files"


async def test_an_orphan_that_may_be_repeated_is_repeated(mesh: Mesh) -> None:
    call = json.dumps({"path": "a.txt", "content": "text"})
    await orphan(mesh, "code_writer", call)
    called = await mesh.call_raw("code_writer", call, "call_1")
    assert called.result.outcome == message_pb2.TOOL_OUTCOME_OK


async def test_a_raised_fence_kills_the_process_tree(mesh: Mesh) -> None:
    code = "setsid sleep 31337 & echo go; exec sleep 31337"
    arguments = json.dumps({"language": "shell", "code": code})
    stream = mesh.start_call("code_executor", arguments, "call_1")
    async for item in stream:
        if item.output.data:
            break
    await mesh.store.watched.wait()
    await until(lambda: len(sleepers("31337")) == 2, "both run")
    mesh.store.raise_fence(RUN, "another tenant")
    await asyncio.sleep(0.1)
    assert len(sleepers("31337")) == 2
    mesh.store.raise_fence(RUN, TENANT)
    await until(lambda: not sleepers("31337"), "killed")
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        async for _ in stream:
            pass
    assert mesh.store.recorded == []


async def test_live_output_is_published_in_order_under_the_fence(mesh: Mesh) -> None:
    code = "import sys\nfor n in range(20): print('é', n)\nprint('e', file=sys.stderr)"
    await mesh.call("code_executor", code=code)
    await until(lambda: any(d.text.startswith("e") for d in mesh.store.deltas), "stderr")
    deltas = mesh.store.deltas
    stdout = [d.text for d in deltas if d.kind == stream_pb2.DELTA_KIND_STDOUT]
    assert "".join(stdout) == "".join(f"é {n}\n" for n in range(20))
    numbers = [(d.first_index, d.last_index) for d in deltas]
    assert numbers[0][0] == 0
    assert all(before[1] + 1 == after[0] for before, after in pairwise(numbers))
    assert {(d.conversation_id, d.run_id, d.message_id, d.fence, d.turn) for d in deltas} == {
        (CONVERSATION, RUN, "msg_call_code_executor", 1, 1)
    }


async def test_tools_are_published_to_the_catalog(mesh: Mesh) -> None:
    await until(lambda: mesh.store.documents, "published")
    assert sorted(document.name for document in mesh.store.documents) == sorted(TOOLS)
    executor = next(d.tool for d in mesh.store.documents if d.name == "code_executor")
    assert not executor.safe_to_repeat
    assert executor.parameters["type"] == "object"


async def test_wrong_arguments_are_a_result_that_names_the_field(mesh: Mesh) -> None:
    called = await mesh.call("code_writer", path="a.py")
    assert called.result.outcome == message_pb2.TOOL_OUTCOME_ERROR
    assert "content" in called.result.output
    called = await mesh.call_raw("code_writer", "{not json", "call_2")
    assert called.result.outcome == message_pb2.TOOL_OUTCOME_ERROR
    called = await mesh.call("code_writer", call_id="call_3", path="a", content="", colour="red")
    assert "colour" in called.result.output
    assert len(mesh.store.recorded) == 3


async def test_an_unknown_tool_is_a_result_that_lists_the_tools(mesh: Mesh) -> None:
    called = await mesh.call("no_such_tool")
    assert called.result.outcome == message_pb2.TOOL_OUTCOME_ERROR
    assert "code_executor" in called.result.output


async def test_a_call_needs_a_run_capability(mesh: Mesh) -> None:
    request = pb.CallToolRequest(
        turn=1, tool_call_id="c", tool="file_manager", agent="a", message_id="m"
    )
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_REQUIRED"):
        async for _ in mesh.stub.CallTool(request, metadata=mesh.user()):
            pass


async def test_the_call_lives_in_the_runs_trace(mesh: Mesh) -> None:
    called = await mesh.call("code_executor", code="import os; print(os.environ['TRACEPARENT'])")
    assert called.output.startswith("00-")


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"sandbox_bwrap": "/nowhere/bwrap"}, "install the package bubblewrap; or sandlock needs"),
        (
            {"sandbox_bwrap": "/nowhere/bwrap", "sandbox_backend": "bubblewrap"},
            "install the package bubblewrap",
        ),
        ({"sandbox_backend": "sandlock"}, "Linux 6.12 or newer"),
        ({"code_execution": "none"}, "AUTOGEN_CODE_EXECUTION"),
    ],
)
async def test_without_a_proved_sandbox_nothing_runs_and_nothing_is_claimed(
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
    values: dict[str, str],
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandlock, "landlock_version", lambda: -1)
    store, host = store_host
    runner = ToolRunner(settings(tmp_path, host.grpc_address, **values))
    await runner.host.start()
    try:
        mesh = Mesh(runner, store, mesh_hosts.channels())
        for attempt in (mesh.call("code_executor", code="1"), mesh.execute("1")):
            with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "SANDBOX_UNAVAILABLE") as failed:
                await attempt
            assert remedy in failed.error.metadata["remedy"]
            assert "\n" not in failed.error.metadata["remedy"]
        assert store.steps == {}
        answer = await mesh.stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=mesh.user())
        assert not answer.ready
        assert remedy in answer.remedy
    finally:
        await runner.host.stop()
