"""Code that users run: streamed, attached to, fed, signalled, bounded, and kept apart by tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.server import ToolRunner
from google.protobuf.duration_pb2 import Duration
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Mesh, backends, settings
from .memory_store import MemoryStore


def text(items: list[pb.ExecutionItem]) -> str:
    return b"".join(item.output.data for item in items).decode()


async def test_first_started_then_output_then_finished(mesh: Mesh) -> None:
    items = await mesh.execute("import sys; print('a'); print('b', file=sys.stderr); sys.exit(4)")
    assert items[0].started.backend == backends()[0]
    assert [item.chunk for item in items] == list(range(len(items)))
    finished = items[-1].finished
    assert finished.reason == pb.EXECUTION_END_REASON_EXITED
    assert finished.exit_code == 4
    assert finished.usage.output_bytes == 4
    assert finished.usage.wall_time.ToNanoseconds() > 0


async def test_shell_arguments_files_environment_and_input(mesh: Mesh) -> None:
    items = await mesh.execute(
        'cat "$1" -; echo "$COLOUR"',
        language=pb.EXECUTION_LANGUAGE_SHELL,
        args=["d/in.txt"],
        files=[pb.FileContent(path="d/in.txt", content=b"file ")],
        stdin=b"input ",
        environment={"COLOUR": "red"},
    )
    assert text(items) == "file input red\n"


async def test_limits_of_the_request(mesh: Mesh) -> None:
    limits = pb.ExecutionLimits(wall_time=Duration(nanos=300_000_000))
    items = await mesh.execute("import time; time.sleep(60)", limits=limits)
    assert items[-1].finished.reason == pb.EXECUTION_END_REASON_WALL_TIMEOUT
    items = await mesh.execute("print('x' * 5000)", limits=pb.ExecutionLimits(output_bytes=100))
    assert items[-1].finished.reason == pb.EXECUTION_END_REASON_OUTPUT_LIMIT
    assert items[-2].truncated.kept_bytes == 100


async def test_output_can_be_read_again_from_any_chunk(mesh: Mesh) -> None:
    items = await mesh.execute("print('again')", execution_id="exec_mine")
    request = pb.AttachRequest(execution_id="exec_mine", from_chunk=1)
    again = [i.item async for i in mesh.stub.Attach(request, metadata=mesh.user())]
    assert again == items[1:]
    same = await mesh.execute("print('again')", execution_id="exec_mine")
    assert same == items
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await mesh.execute("print('another')", execution_id="exec_mine")
    with raises_rich(grpc.StatusCode.OUT_OF_RANGE, "OUTPUT_REMOVED"):
        request.from_chunk = len(items) + 1
        _ = [i async for i in mesh.stub.Attach(request, metadata=mesh.user())]


async def test_another_tenant_finds_nothing(mesh: Mesh) -> None:
    await mesh.execute(
        "open('secret', 'w').write('x')", execution_id="e1", conversation_id="conv_9"
    )
    request = pb.AttachRequest(execution_id="e1")
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        async for _ in mesh.stub.Attach(request, metadata=mesh.user("other")):
            pass
    listing = pb.ListFilesRequest(conversation_id="conv_9")
    mine = await mesh.stub.ListFiles(listing, metadata=mesh.user())
    assert [file.path for file in mine.files] == ["secret"]
    others = await mesh.stub.ListFiles(listing, metadata=mesh.user("other"))
    assert list(others.files) == []


async def test_input_signal_and_kill(mesh: Mesh) -> None:
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('caught'))\n"
        "print('ready')\nprint('got', input())\ntime.sleep(600)"
    )
    request = pb.ExecuteRequest(
        execution_id="e1",
        language=pb.EXECUTION_LANGUAGE_PYTHON,
        code=code,
        keep_stdin_open=True,
    )
    stream: Any = mesh.stub.Execute(request, metadata=mesh.user())

    async def until(wanted: bytes) -> None:
        seen = b""
        while wanted not in seen:
            seen += (await stream.read()).item.output.data

    await until(b"ready")
    await mesh.stub.SignalExecution(
        pb.SignalExecutionRequest(execution_id="e1", signal=10), metadata=mesh.user()
    )
    await until(b"caught")
    await mesh.stub.WriteInput(
        pb.WriteInputRequest(execution_id="e1", data=b"line\n"), metadata=mesh.user()
    )
    await until(b"got line")
    await mesh.stub.SignalExecution(
        pb.SignalExecutionRequest(execution_id="e1", signal=9), metadata=mesh.user()
    )
    last = await stream.read()
    while not last.item.HasField("finished"):
        last = await stream.read()
    assert last.item.finished.reason == pb.EXECUTION_END_REASON_CANCELLED


@pytest.mark.parametrize("detached", [False, True])
async def test_leaving_ends_it_unless_detached(mesh: Mesh, detached: bool) -> None:
    request = pb.ExecuteRequest(
        execution_id="e1",
        language=pb.EXECUTION_LANGUAGE_SHELL,
        code="echo go; sleep 0.4; echo done",
        detached=detached,
    )
    stream: Any = mesh.stub.Execute(request, metadata=mesh.user())
    while not (await stream.read()).item.output.data:
        pass
    stream.cancel()
    await asyncio.sleep(0)
    attach = pb.AttachRequest(execution_id="e1")
    items = [i.item async for i in mesh.stub.Attach(attach, metadata=mesh.user())]
    reason = items[-1].finished.reason
    if detached:
        assert reason == pb.EXECUTION_END_REASON_EXITED
        assert text(items) == "go\ndone\n"
    else:
        assert reason == pb.EXECUTION_END_REASON_CANCELLED


async def test_files_go_in_and_out(mesh: Mesh) -> None:
    content = bytes(range(256)) * 4096

    async def chunks() -> AsyncIterator[pb.WriteFileRequest]:
        yield pb.WriteFileRequest(conversation_id="conv_1", path="d/blob", chunk=content[:1000])
        yield pb.WriteFileRequest(chunk=content[1000:])

    written = await mesh.stub.WriteFile(chunks(), metadata=mesh.user())
    assert (written.file.path, written.file.size_bytes) == ("d/blob", len(content))
    request = pb.ReadFileRequest(conversation_id="conv_1", path="d/blob")
    read = [r.chunk async for r in mesh.stub.ReadFile(request, metadata=mesh.user())]
    assert b"".join(read) == content
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        request = pb.ReadFileRequest(conversation_id="conv_1", path="nothing")
        _ = [r async for r in mesh.stub.ReadFile(request, metadata=mesh.user())]
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="path"):
        request = pb.ReadFileRequest(conversation_id="conv_1", path="../x")
        _ = [r async for r in mesh.stub.ReadFile(request, metadata=mesh.user())]


async def test_a_viewer_may_not_run_code(mesh: Mesh) -> None:
    request = pb.ExecuteRequest(language=pb.EXECUTION_LANGUAGE_PYTHON, code="1")
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        async for _ in mesh.stub.Execute(request, metadata=mesh.user(role=1)):
            pass


async def test_capabilities_say_what_was_proved(mesh: Mesh) -> None:
    answer = await mesh.stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=mesh.user())
    assert answer.ready
    assert answer.backend == backends()[0]
    assert {c.name for c in answer.capabilities} >= {"isolation", "network", "memory_limit"}
    assert all(capability.enforced for capability in answer.capabilities)
    assert not answer.remedy
    tools = await mesh.stub.ListTools(pb.ListToolsRequest(), metadata=mesh.user())
    assert [tool.name for tool in tools.tools] == sorted(tool.name for tool in tools.tools)
    assert {"code_executor", "test_runner"} <= {tool.name for tool in tools.tools}
    runs = {each.language for each in answer.language_info if each.installed}
    assert list(answer.languages) == sorted(runs, key=list(answer.languages).index)
    assert {pb.EXECUTION_LANGUAGE_PYTHON, pb.EXECUTION_LANGUAGE_SHELL} <= runs


@pytest.mark.parametrize("kind", ["sandlock"])
@pytest.mark.parametrize(
    "values", [{"sandbox_bwrap": "/nowhere/bwrap"}, {"sandbox_backend": "sandlock"}]
)
async def test_code_runs_without_bubblewrap(
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
    values: dict[str, str],
    kind: str,
) -> None:
    store, host = store_host
    runner = ToolRunner(settings(tmp_path, host.grpc_address, **values))
    await runner.host.start()
    try:
        mesh = Mesh(runner, store, mesh_hosts.channels())
        items = await mesh.execute("print(6 * 7)")
        assert items[0].started.backend == kind
        assert text(items) == "42\n"
        shell = pb.EXECUTION_LANGUAGE_SHELL
        assert text(await mesh.execute("echo $((6 * 7))", language=shell)) == "42\n"
        called = await mesh.call("code_executor", code="print(open('/etc/passwd').read())")
        assert "root" not in called.output
        assert "sandbox" in called.output
        answer = await mesh.stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=mesh.user())
        assert answer.ready
        assert all(capability.enforced for capability in answer.capabilities)
        assert "Landlock" in answer.capabilities[0].detail
    finally:
        await runner.host.stop()
